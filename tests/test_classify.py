"""Classifiers that are kept: against NumPy, from another process, after a stop, and by the tool."""

import csv
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from serving_client import Client, rows_of, serving
from test_classify_readout import softmax, write_colours, write_csv

from la_tf.classifier.fine_tuning import FineTuning, fine_tune
from la_tf.classifier.prediction import predict_folder
from la_tf.classifier.readout import MAX_FEATURES, classifier_of, fit_readout
from la_tf.classifier.task import open_task
from la_tf.classifier.training import Start, start_from_export, start_from_run, train_classifier
from la_tf.config import DataConfig
from la_tf.data.augment import center_view
from la_tf.data.base import DataError
from la_tf.data.crops import area_crop_view
from la_tf.data.multilabel import PRESENT, read_labels_csv
from la_tf.data.pipeline import Steps, random_dataset
from la_tf.errors import RunError
from la_tf.evaluation.linear import layer_features
from la_tf.export.weights import save_weights
from la_tf.networks import build_network
from la_tf.runs.trained_run import open_run

COLOURS = ("red", "green", "blue")
TUNING = FineTuning(epochs=3, learning_rate=0.01, batch_size=4)


def files_of(folder):
    return {f.relative_to(folder): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def read_table(file):
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """6 pictures of each colour to train on, 3 held out; with them files that cannot be read."""
    folder = tmp_path_factory.mktemp("pictures")
    write_colours(folder / "data" / "train", COLOURS, 6)
    write_colours(folder / "data" / "test", COLOURS, 3, seed=1)
    shutil.copytree(folder / "data" / "test", folder / "mixed" / "a, b")
    (folder / "mixed" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n cut short")
    (folder / "mixed" / "text.jpg").write_text("no picture")
    (folder / "mixed" / "phone.heic").write_text("not read")
    return folder


@pytest.fixture(scope="module")
def start():
    tf.keras.utils.set_random_seed(0)
    network = build_network("smallnet", 16, dim=8)
    return Start(network, {"weights": "some"}, DataConfig(image_size=16))


@pytest.fixture(scope="module")
def task(pictures):
    return open_task(DataConfig(data=str(pictures / "data")), seed=0)


@pytest.fixture(scope="module")
def kept(start, task, tmp_path_factory):
    directory = tmp_path_factory.mktemp("kept") / "classifier"
    record = train_classifier(start, task, directory, say=str)
    return directory, record


def test_classes_that_can_be_told_apart_are(kept):
    directory, record = kept
    assert json.loads((directory / "classifier.json").read_text()) == record
    results = record["results"]
    assert record["class_names"] == sorted(COLOURS) and results["measure"] == "accuracy"
    assert (results["held_out"], results["held_out_images"]) == (1.0, 9)
    assert results["by_class"] == dict.fromkeys(sorted(COLOURS), 1.0)
    assert results["always_the_largest_class"] == pytest.approx(1 / 3)
    assert {file.name for file in directory.iterdir()} == {"classifier.json", "export"}
    assert not [f for f in directory.parent.iterdir() if f != directory]


@pytest.fixture(scope="module")
def table(kept, pictures, tmp_path_factory):
    """The table of the mixed folder, and what was said of it."""
    file, said = tmp_path_factory.mktemp("table") / "table.csv", []
    assert predict_folder(kept[0], str(pictures / "mixed"), file, say=said.append) == 9
    return read_table(file), said


def test_the_table_has_every_picture_and_the_others_are_named(table):
    rows, said = table
    names = [f"a, b/{colour}/{i}.png" for colour in sorted(COLOURS) for i in range(3)]
    assert [row["file"] for row in rows] == names
    assert [row["class"] for row in rows] == [name.split("/")[1] for name in names]
    assert "1 .heic" in said[0]
    assert said[1].startswith("2 of the 11 images") and "broken.png" in said[1]
    assert "text.jpg" in said[1]


def test_scores_are_those_of_numpy_from_the_features_and_the_exported_weights(
    kept, start, pictures, table
):
    directory, record = kept
    loaded = tf.saved_model.load(str(directory / "export" / "1"))
    (kernel,) = (v for v in loaded.tensors if v.name == "readout/kernel:0")
    (bias,) = (v for v in loaded.tensors if v.name == "readout/bias:0")
    layer = record["results"]["layer"]
    features = layer_features(start.network, MAX_FEATURES)
    for row in table[0]:
        encoded = (pictures / "mixed" / row["file"]).read_bytes()
        found = features(center_view(encoded, 16)[tf.newaxis])[layer].numpy()
        scores = softmax(found.astype(np.float64) @ kernel.numpy() + bias.numpy())[0]
        assert record["class_names"][scores.argmax()] == row["class"]
        assert float(row["score"]) == pytest.approx(scores.max(), abs=1e-4)


# Nothing of this project.
CLIENT = """
import json, sys
import tensorflow as tf
classify = tf.saved_model.load(sys.argv[1]).signatures["classify"]
found = classify(image_bytes=tf.stack([tf.io.read_file(name) for name in sys.argv[2:]]))
classes, scores = found["classes"].numpy(), found["scores"].numpy()
print(json.dumps([[[c.decode() for c in row] for row in classes], scores.tolist()]))
"""


def test_another_process_gets_the_scores_of_the_table(
    kept, pictures, table, program_server, tmp_path
):
    (tmp_path / "client.py").write_text(CLIENT)
    files = [pictures / "mixed" / row["file"] for row in table[0]]
    command = (tmp_path / "client.py", kept[0] / "export" / "1", *files)
    process = program_server.start(*command, cwd=tmp_path)
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    classes, scores = json.loads(stdout)
    for row, names, found in zip(table[0], classes, scores, strict=True):
        assert names == sorted(COLOURS) and sum(found) == pytest.approx(1, abs=1e-5)
        assert names[np.argmax(found)] == row["class"]
        assert max(found) == pytest.approx(float(row["score"]), abs=1e-5)


def test_the_same_again_is_not_trained_again_and_other_settings_are(start, task, kept, tmp_path):
    directory, record = shutil.copytree(kept[0], tmp_path / "c"), kept[1]
    said = []
    assert train_classifier(start, task, directory, say=said.append) == record
    assert said == [f"{directory} holds this classifier: not trained again."]
    assert train_classifier(start, task, directory, "conv2", say=str)["results"]["layer"] == "conv2"
    # Nothing above the layer is kept.
    weights = tf.saved_model.load(str(directory / "export" / "1")).tensors
    assert {w.name.split("/")[0].split("_")[0] for w in weights} == {"conv1", "conv2", "readout"}


def test_what_fails_leaves_the_older_classifier_as_it_was(start, task, kept, tmp_path, pictures):
    directory = shutil.copytree(kept[0], tmp_path / "classifier")
    before, weights = files_of(directory), start.network.get_weights()
    diverging = FineTuning(epochs=2, learning_rate=1e30, batch_size=4)
    with pytest.raises(RunError, match="not finite: lower --learning_rate"):
        train_classifier(start, task, directory, fine_tuning=diverging, say=str)
    with pytest.raises(DataError, match=r"has no image that can be read: .*broken"):
        empty = tmp_path / "bad"
        empty.mkdir()
        shutil.copy(pictures / "mixed" / "broken.png", empty)
        predict_folder(directory, str(empty), tmp_path / "t.csv", say=str)
    assert not (tmp_path / "t.csv").exists()
    assert {k: v for k, v in files_of(directory).items() if k.name != ".lock"} == before
    for a, b in zip(start.network.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)  # it trained a copy


def test_folders_of_other_things_are_not_replaced(start, task, tmp_path, kept):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"holds notes\.txt, which is of no classifier"):
        train_classifier(start, task, tmp_path, say=str)
    with pytest.raises(RunError, match="which TensorFlow takes for a pattern"):
        train_classifier(start, task, tmp_path / "a*" / "c", say=str)
    with pytest.raises(RunError, match=r"notes\.txt cannot be used"):
        train_classifier(start, task, tmp_path / "notes.txt", say=str)
    with pytest.raises(RunError, match="holds no classifier: train one with --data"):
        predict_folder(tmp_path, str(tmp_path), tmp_path / "t.csv", say=str)
    damaged = shutil.copytree(kept[0], tmp_path / "damaged")
    (damaged / "classifier.json").write_text("{}")
    with pytest.raises(RunError, match=r"class_names is missing.*: train the classifier again"):
        predict_folder(damaged, str(tmp_path), tmp_path / "t.csv", say=str)
    assert train_classifier(start, task, damaged, say=str) == kept[1]


def test_an_export_stands_for_its_run_by_its_weights(start, tmp_path):
    save_weights(start.network, tmp_path / "weights.npz")
    found = start_from_export(tmp_path)
    assert found.origin["network"] == "smallnet" and found.origin["image_size"] == 16
    for a, b in zip(found.network.get_weights(), start.network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(RunError, match=r"nowhere/weights\.npz cannot be read"):
        start_from_export(tmp_path / "nowhere")


def fresh_classifier(start, task):
    """A classifier with a copy of the network of its own."""
    network = build_network("smallnet", 16, dim=8)
    network.set_weights(start.network.get_weights())
    return classifier_of(network, fit_readout(network, task, ["conv5"], True, 0, str))


class Stopped(Exception):
    pass


def test_fine_tuning_trains_all_weights_and_goes_on_after_a_stop(start, task, tmp_path):
    whole = fresh_classifier(start, task)
    before = {w.name: w.numpy() for w in whole.weights}
    fine_tune(whole, task, TUNING, 0, tmp_path / "whole", str)
    for weight in whole.weights:
        same = np.array_equal(weight.numpy(), before[weight.name])
        assert same == ("moving" in weight.name), weight.name
    views = tf.stack([center_view(task.heldout.source.read(i), 16) for i in range(9)])
    found = whole(views).numpy().argmax(axis=1)
    np.testing.assert_array_equal(found, task.heldout.targets.argmax(axis=1))

    def stop(line):
        if line.startswith("epoch 2"):
            raise Stopped

    stopped = fresh_classifier(start, task)
    with pytest.raises(Stopped):
        fine_tune(stopped, task, TUNING, 0, tmp_path / "stopped", stop)
    again, said = fresh_classifier(start, task), []
    fine_tune(again, task, TUNING, 0, tmp_path / "stopped", said.append)
    assert said[0] == "continuing after epoch 1." and len(said) == 3
    for a, b in zip(again.weights, whole.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_the_first_step_of_fine_tuning_is_that_of_the_loss_with_fixed_statistics(
    start, task, tmp_path
):
    """One step of all images on the readout's weights, written out in NumPy."""
    model = fresh_classifier(start, task)
    kernel, bias = (w.numpy() for w in model.get_layer("readout").weights)
    hidden = tf.keras.Model(model.input, model.get_layer("readout").input)
    config = FineTuning(epochs=1, learning_rate=0.5, batch_size=18)
    ((indices, views),) = random_dataset(
        task.train.source, lambda e, s: area_crop_view(e, s, 16, True), Steps(0, 1, 18, 0)
    )
    rows = hidden(views, training=False).numpy()
    error = (softmax(rows @ kernel + bias) - task.train.targets[indices.numpy()]) / 18
    fine_tune(model, task, config, 0, tmp_path / "f", str)
    after = model.get_layer("readout").kernel.numpy()
    np.testing.assert_allclose(after, kernel - 0.5 * rows.T @ error, atol=1e-4)


def test_several_classes_an_image(start, tmp_path):
    """Bright reds and greens in all four combinations, by a table that has the form of the list."""
    rng, lines = np.random.default_rng(0), []
    for part, count in (("train", 24), ("test", 8)):
        (tmp_path / "data" / part).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 60, (20, 20, 3))
            pixels[..., 0] += 180 * (i % 2)
            pixels[..., 1] += 180 * (i // 2 % 2)
            encoded = tf.io.encode_png(pixels.astype(np.uint8)).numpy()
            (tmp_path / "data" / part / f"{i:02}.png").write_bytes(encoded)
            classes = ["red"] * (i % 2) + ["green"] * (i // 2 % 2)
            lines.append(f"{part}/{i:02}.png,{';'.join(classes)}")
    labels = write_csv(tmp_path, lines)
    task = open_task(DataConfig(data=str(tmp_path / "data")), 0, labels)
    record = train_classifier(start, task, tmp_path / "classifier", say=str)
    assert record["multi_label"] and record["class_names"] == ["green", "red"]
    assert (record["results"]["measure"], record["results"]["held_out"]) == ("mAP", 1.0)
    table = tmp_path / "table.csv"
    predict_folder(tmp_path / "classifier", str(tmp_path / "data" / "test"), table, say=str)
    found = read_labels_csv(table, tmp_path / "data" / "test").of(task.heldout.source)
    np.testing.assert_array_equal(found == PRESENT, task.heldout.targets)
    signature = tf.saved_model.load(str(tmp_path / "classifier/export/1")).signatures["classify"]
    picture = task.heldout.source.read(3)
    both = signature(image_bytes=tf.constant([picture]))["scores"].numpy()[0]
    row = read_table(table)[3]
    assert (row["file"], row["classes"]) == ("03.png", "green;red")
    written = [float(row[f"score of {name}"]) for name in ("green", "red")]
    np.testing.assert_allclose(both, written, atol=1e-5)


@pytest.mark.slow
def test_a_run_that_is_not_finished_says_so(trained_run, cut_back, tmp_path):
    said = []
    assert not start_from_run(open_run(str(trained_run)), said.append).flip  # --noflip
    assert said == []
    start_from_run(open_run(str(cut_back(trained_run, 22, tmp_path / "run"))), said.append)
    assert "is not finished: the network is that of step 22, after 2 of 4 epochs." in said[0]


@pytest.mark.slow
def test_a_server_answers_with_classes_and_scores(kept, pictures, table, start_tool):
    files = [pictures / "mixed" / row["file"] for row in table[0][::4]]
    body = rows_of(*(file.read_bytes() for file in files))
    with serving(start_tool, kept[0] / "export") as (process, address):
        command = process.stdout.readline()
        assert '\\"signature_name\\": \\"classify\\", \\"instances\\": ' in command
        client, path = Client(address), "/v1/models/classifier:predict"
        assert command.strip().endswith(f"{address}{path}")
        named = json.dumps({"signature_name": "classify", **json.loads(body)}).encode()
        for sent in (body, named):
            status, answer, _ = client.ask("POST", path, sent)
            assert status == 200
            for row, found in zip(table[0][::4], answer["predictions"], strict=True):
                assert found["classes"] == sorted(COLOURS)
                best = int(np.argmax(found["scores"]))
                assert found["classes"][best] == row["class"]
                assert found["scores"][best] == pytest.approx(float(row["score"]), abs=1e-5)
        columns = json.dumps({"inputs": json.loads(body)["instances"]}).encode()
        outputs = client.ask("POST", path, columns)[1]["outputs"]
        assert outputs["scores"] == [found["scores"] for found in answer["predictions"]]
        assert outputs["classes"] == [sorted(COLOURS)] * len(files)
        status, answer, _ = client.ask("POST", path, rows_of(b"text"))
        assert status == 400 and "no JPEG" in answer["error"]
        wrong = named.replace(b"classify", b"serving_default")
        assert "served is classify" in client.ask("POST", path, wrong)[1]["error"]
        metadata = client.ask("GET", "/v1/models/classifier/metadata")[1]["metadata"]
        described = metadata["signature_def"]["signature_def"]["classify"]
        assert described["outputs"].keys() == {"classes", "scores"}


@pytest.mark.slow
def test_the_tool_trains_keeps_and_predicts_and_leaves_the_run_alone(
    trained_run, pictures, tmp_path, run_tool
):
    run_dir = shutil.copytree(trained_run, tmp_path / "run")
    before = files_of(run_dir)
    data, mixed = f"--data={pictures / 'data'}", f"--predict={pictures / 'mixed'}"
    flags = (f"--run_dir={run_dir}", "--layer=conv3")
    code, stdout, stderr = run_tool("classify", *flags, data, fresh=True)
    assert code == 0, stderr
    assert "held-out accuracy: 100.0% of 9 pictures (always the largest class: 33.3%)." in stdout
    assert f"--export_dir={run_dir}/classifier/export serves it" in stdout
    after = files_of(run_dir)
    assert {k: v for k, v in after.items() if k.parts[0] != "classifier"} == before
    table = tmp_path / "table.csv"
    code, stdout, stderr = run_tool(
        "classify", f"--run_dir={run_dir}", mixed, f"--output={table}", cwd=tmp_path
    )
    assert code == 0 and "2 of the 11 images" in stdout and "9 pictures" in stdout, stderr
    assert [row["class"] for row in read_table(table)] == [
        colour for colour in sorted(COLOURS) for _ in range(3)
    ]
    assert files_of(run_dir) == after
    # From the export alone, fine-tuned, in one command.
    out = f"--output_dir={tmp_path / 'out'}"
    export = f"--export_dir={run_dir / 'export'}"
    tuned = ("--fine_tune", "--epochs=2", "--batch_size=6")
    code, stdout, stderr = run_tool(
        "classify", export, out, data, mixed, *tuned, f"--output={table}"
    )
    assert code == 0, stderr
    assert "epoch 2/2" in stdout and "100.0% of 9 pictures" in stdout
    assert [row["class"] for row in read_table(table)] == [
        colour for colour in sorted(COLOURS) for _ in range(3)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "give --data, labelled pictures to train on, or --predict, or both."),
        (["--data=x"], "--data needs one of --run_dir and --export_dir"),
        (["--data=x", "--export_dir=y"], "without --run_dir, give --output_dir"),
        (["--predict=x"], "without --run_dir, give --output_dir"),
        (["--predict=x", "--run_dir=y", "--fine_tune"], "--fine_tune is of training"),
        (["--predict=x", "--run_dir=/nowhere"], "/nowhere/classifier holds no classifier"),
        (["--data=digits", "--run_dir=/nowhere"], "/nowhere holds no run"),
    ],
)
def test_what_the_tool_refuses_is_one_sentence(run_tool, flags, message):
    code, stdout, stderr = run_tool("classify", *flags)
    assert (code, stdout) == (1, "") and message in stderr
    assert len(stderr.strip().splitlines()) == 1
