"""tools/evaluate.py on a tiny run, against the protocols written out in NumPy."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

from la_tf.data.crops import ten_crop_views
from la_tf.data.digits import digits_parts
from la_tf.evaluation.linear import layer_features
from la_tf.runs.trained_run import open_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def evaluated(trained_run, tmp_path_factory, run_tool):
    """Every protocol on every row, in two commands; the second one's output."""
    run_dir = shutil.copytree(trained_run, tmp_path_factory.mktemp("evaluated") / "run")
    flags = [f"--run_dir={run_dir}", "--baselines"]
    code, _, stderr = run_tool("evaluate", *flags)
    assert code == 0, stderr
    linear = ["--protocol=linear", "--epochs=3", "--learning_rate=0.001"]
    code, stdout, stderr = run_tool("evaluate", *flags, *linear, fresh=True)
    assert code == 0, stderr
    return run_dir, stdout, [*flags, *linear]


def result(run_dir, name):
    """The newest result of data, protocol and row."""
    files = (run_dir / "evaluation").glob(f"{name}-????????.json")
    return json.loads(max(files, key=lambda file: file.stat().st_mtime_ns).read_text())


def plain_knn_accuracies(queries, query_labels, rows, labels, k):
    """The lowest and the highest accuracy: what rounding decides counts as wrong, and as right."""
    wrong, right = 0, 0
    for query, truth in zip(queries.astype(np.float64), query_labels, strict=True):
        similarity = rows.astype(np.float64) @ query
        order = np.argsort(-similarity)
        least = similarity[order[k - 1]]  # whoever is as near as the last one may take its place
        surely, perhaps = (
            np.bincount(labels[near], np.exp(similarity[near] / 0.07), 10)
            for near in (similarity > least + 2e-6, similarity > least - 2e-6)
        )
        if k == 1:
            found = set(labels[similarity > least - 2e-6])
        else:
            found = set(np.flatnonzero(perhaps * 1.0001 >= surely.max()))
        right += found == {truth}
        wrong += truth not in found
    return right / len(queries), 1 - wrong / len(queries)


def exported_embeddings(run_dir, source):
    model = tf.saved_model.load(str(run_dir / "export" / "1"))
    images = tf.constant([source.read(i) for i in range(len(source))])
    return model.signatures["serving_default"](image_bytes=images)["embedding"].numpy()


def test_knn_is_the_protocol_written_out(evaluated, newest_checkpoint):
    run_dir = evaluated[0]
    train, heldout = digits_parts()
    bank = newest_checkpoint(run_dir)["model/bank/vectors/.ATTRIBUTES/VARIABLE_VALUE"]
    queries = exported_embeddings(run_dir, heldout)
    got = result(run_dir, "digits-knn-LA")
    assert got["settings"] == {"gallery": "memory bank", "k": [200, 1], "tau": 0.07}
    for column, k in (("KNN", 200), ("KNN K=1", 1)):
        low, high = plain_knn_accuracies(queries, heldout.labels, bank, train.labels, k)
        assert low - 1e-9 <= got["accuracy"][column] <= high + 1e-9 and high - low < 0.2


def test_knn_against_centre_crops_is_the_places_protocol(evaluated, tmp_path, run_tool):
    run_dir = shutil.copytree(evaluated[0], tmp_path / "run")
    code, _, stderr = run_tool("evaluate", f"--run_dir={run_dir}", "--gallery=crops")
    assert code == 0, stderr
    train, heldout = digits_parts()
    got = result(run_dir, "digits-knn-LA")
    assert got["settings"]["gallery"] == "centre crops"
    rows, queries = (exported_embeddings(run_dir, source) for source in (train, heldout))
    low, high = plain_knn_accuracies(queries, heldout.labels, rows, train.labels, 200)
    assert low - 1e-9 <= got["accuracy"]["KNN"] <= high + 1e-9 and high - low < 0.2


def test_raw_pixels_are_the_digits_themselves(evaluated):
    """scikit-learn's nearest neighbour on the 8 x 8 digits, which the 16 x 16 views repeat."""
    from sklearn.neighbors import KNeighborsClassifier

    train, heldout = digits_parts()

    def unit_pixels(source):
        from la_tf.data.augment import center_view

        rows = np.stack([center_view(source.read(i), 16) for i in range(len(source))])
        rows = rows.reshape(len(rows), -1)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    nearest = KNeighborsClassifier(1).fit(unit_pixels(train), train.labels)
    expected = nearest.score(unit_pixels(heldout), heldout.labels)
    got = result(evaluated[0], "digits-knn-raw-pixels")
    assert got["accuracy"]["KNN K=1"] == pytest.approx(expected, abs=1e-9)
    assert got["step"] == 0 and got["settings"]["gallery"] == "centre crops"


def test_the_table_has_every_row_beside_the_papers(evaluated):
    lines = evaluated[1].splitlines()
    head = next(i for i, line in enumerate(lines) if "conv1 " in line and "KNN K=1" in line)
    table = lines[head + 1 :]
    assert [line.split("  ")[0] for line in table[-3:]] == ["raw pixels", "untrained", "LA"]
    assert any(line.startswith("LA, alexnet, ImageNet (paper)") for line in table)
    stored = result(evaluated[0], "digits-linear-LA")["accuracy"]
    assert any("memory bank (LA)" in line for line in lines[:head])
    assert table[-1].split()[1:6] == [f"{100 * stored[f'conv{i}']:.1f}" for i in range(1, 6)]
    shares = np.bincount(digits_parts()[1].labels) / 360
    assert min(stored.values()) > shares.max()  # what always one answer would have
    assert result(evaluated[0], "digits-linear-raw-pixels")["accuracy"].keys() == {"pixels"}


def test_readouts_are_kept_and_give_the_accuracy_that_was_measured(evaluated):
    """Five crops of each held-out digit (--noflip), by the plain network and NumPy."""
    run_dir = evaluated[0]
    (file,) = (run_dir / "evaluation").glob("digits-linear-LA-*.npz")
    arrays, heldout = np.load(file), digits_parts()[1]
    assert list(arrays["class_names"]) == list(heldout.class_names)
    crops = np.stack([ten_crop_views(heldout.read(i), 16, flip=False) for i in range(360)])
    features = layer_features(open_run(str(run_dir)).network)
    rows = features.predict(crops.reshape(-1, 16, 16, 3), verbose=0)
    stored = result(run_dir, "digits-linear-LA")["accuracy"]
    for name, values in rows.items():
        logits = values @ arrays[f"{name}/kernel"] + arrays[f"{name}/bias"]
        scores = softmax(logits, axis=1).reshape(360, 5, 10).mean(axis=1)
        # Where rounding decides between two classes, either may have been counted.
        first, second = np.sort(scores, axis=1)[:, :-3:-1].T
        sure = first - second > 1e-4
        right = scores.argmax(axis=1) == heldout.labels
        lowest, highest = (right & sure).mean(), (right | ~sure).mean()
        assert lowest - 1e-9 <= stored[name] <= highest + 1e-9, name
        assert sure.mean() > 0.9


def test_a_result_says_what_it_is_of(evaluated):
    got = result(evaluated[0], "digits-linear-untrained")
    assert (got["network"], got["data"], got["transfer"]) == ("smallnet", "digits", False)
    assert got["settings"]["drop_epochs"] == [1, 2] and got["settings"]["crop"] == "area"
    assert got["settings"]["crops_validated"] == 5  # --noflip
    assert got["environment"]["packages"]["tensorflow"] == tf.__version__
    assert not list((evaluated[0] / "evaluation").glob("*.unfinished"))


def test_finished_readouts_are_shown_and_not_trained_again(evaluated, run_tool):
    run_dir, stdout, flags = evaluated
    before = result(run_dir, "digits-linear-LA")
    code, again, _ = run_tool("evaluate", *flags)
    assert code == 0 and again.count("trained before, not trained again") == 3
    assert again.splitlines()[-10:] == stdout.splitlines()[-10:]
    assert f"kept in {run_dir}/evaluation;" in stdout
    assert result(run_dir, "digits-linear-LA") == before


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Few images: 4 a class to train on, 2 held out, in folders; and some without labels."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("test", 2)):
        for name in ("a", "b"):
            (folder / "few" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (20, 20, 3)).astype(np.uint8)
                encoded = tf.io.encode_png(pixels).numpy()
                (folder / "few" / part / name / f"{i}.png").write_bytes(encoded)
    for name, source in (("flat", "few/train/a"), ("other", "few/test")):
        shutil.copytree(folder / source, folder / name)
    (folder / "other" / "b").rename(folder / "other" / "c")
    return folder


def test_few_images_of_another_set_vote_all(evaluated, pictures, tmp_path, run_tool):
    run_dir = shutil.copytree(evaluated[0], tmp_path / "run")
    code, stdout, stderr = run_tool("evaluate", f"--run_dir={run_dir}", f"--data={pictures}/few")
    assert code == 0, stderr
    assert "8 training images are fewer than K = 200" in stdout
    assert "LA, alexnet, Places (paper)" in stdout
    got = result(run_dir, "few-knn-LA")
    assert got["transfer"] and got["settings"]["k"] == [8, 1]


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--run_dir=/nowhere"], "/nowhere holds no run"),
        (["--data={}/flat"], "no held-out images"),
        (["--data={}/flat", "--holdout=1"], "has no labels"),
        (["--data={}/few", "--val_data={}/other"], "not classes of"),
        (["--data={}/few", "--gallery=bank"], "use --gallery=crops"),
        (["--data={}/few", "--protocol=linear"], "fewer than one batch of 128"),
        (["--protocol=svm"], "--protocol=svm must be knn"),
        (["--protocol="], "--protocol= must be knn"),
        (["--holdout=40"], "--holdout needs --data"),
        (["--name=a/b"], "'a/b' cannot name a data set"),
        (["--drop_epochs=60,30", "--protocol=linear"], "must rise"),
        (["--drop_epochs=a", "--protocol=linear"], "must be whole numbers"),
    ],
)
def test_bad_input_is_one_sentence(evaluated, pictures, run_tool, flags, message):
    run_dir = [] if "--run_dir" in flags[0] else [f"--run_dir={evaluated[0]}"]
    flags = [flag.replace("{}", str(pictures)) for flag in flags]
    files = sorted(evaluated[0].rglob("*"))
    code, _, stderr = run_tool("evaluate", *run_dir, *flags)
    assert code == 1 and message in stderr
    assert len(stderr.strip().splitlines()) == 1, stderr
    assert sorted(evaluated[0].rglob("*")) == files
