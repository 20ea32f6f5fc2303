"""Whole fine-tunings, on pictures made here."""

import dataclasses
import json
import re
import signal

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageDraw

from detection import output_directory
from detection.drawing import colour_of
from detection.export import load_detector
from detection.finetune import Places, finetune
from detection.metric import RESAMPLES
from detection.records import convert
from detection.results import format_difference, read_other
from detection.settings import Settings, Start, make_experiment
from detection.task import VOCDetectionTask
from la_tf.data.augment import center_view
from la_tf.data.voc import VOC_CLASSES, VOCError
from la_tf.errors import RunError

SIZE = (120, 90)
# Seconds, and every part of it: 8 steps on the smallest ResNet, from random weights.
TINY = (
    "--init=random",
    "--network=resnet18",
    "--short_side=64",
    "--long_side=96",
    "--anchor_size=16",
    "--regions=8",
    "--steps=8",
    "--drop_step=6",
    "--learning_rate=0.01",
    "--checkpoint_every_steps=2",
)
OBJECT = """<object><name>{name}</name><difficult>0</difficult><truncated>0</truncated><bndbox>
<xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"""


@pytest.fixture(scope="module")
def voc_dir(tmp_path_factory):
    """Six pictures in VOC's layout, each with two coloured rectangles."""
    folder = tmp_path_factory.mktemp("voc") / "VOC2007"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    random = np.random.default_rng(0)
    ids = [f"{number:06d}" for number in range(1, 7)]
    for image_id in ids:
        picture = Image.new("RGB", SIZE, "grey")
        objects = []
        for name, colour in (("bus", "red"), ("motorbike", "blue")):
            corner = random.integers(1, [SIZE[0] - 50, SIZE[1] - 50])
            box = [int(v) for v in (*corner, *(corner + random.integers(25, 45, 2)))]
            ImageDraw.Draw(picture).rectangle([v - 1 for v in box], fill=colour)
            objects.append(OBJECT.format(*box, name=name))
        picture.save(folder / "JPEGImages" / f"{image_id}.jpg")
        (folder / "Annotations" / f"{image_id}.xml").write_text(
            f"<annotation><size><width>{SIZE[0]}</width><height>{SIZE[1]}</height></size>"
            f"{''.join(objects)}</annotation>"
        )
    for split, part in (("trainval", ids[:4]), ("test", ids[4:])):
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(part) + "\n")
    return folder


@pytest.fixture(scope="module")
def finished(voc_dir, tmp_path_factory, run_tool):
    """A fine-tuning that nobody disturbed."""
    output_dir = tmp_path_factory.mktemp("finished") / "voc07"
    code, stdout, stderr = run_tool(
        "finetune_voc", *TINY, f"--voc_dir={voc_dir}", f"--output_dir={output_dir}"
    )
    assert code == 0, stderr
    return output_dir, stdout


def weights(output_dir):
    reader = tf.train.load_checkpoint(str(output_dir / "checkpoints"))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if not name.startswith(("save_counter", "_CHECKPOINTABLE_OBJECT_GRAPH"))
    }


@pytest.mark.slow
def test_a_run_leaves_everything(finished):
    output_dir, stdout = finished
    record = json.loads((output_dir / "voc_results.json").read_text())
    assert set(record["result"]) == {"mAP", "mAP_area", *(f"AP/{c}" for c in VOC_CLASSES)}
    assert record["settings"]["steps"] == 8 and record["start"]["network"] == "resnet18"
    assert record["images"] == {"trainval": 4, "test": 2}
    assert f"mAP, 11 points{100 * record['result']['mAP']:6.1f}" in stdout
    files = {file.name for file in (output_dir / "detections").iterdir()}
    assert files == {f"comp4_det_test_{c}.txt" for c in VOC_CLASSES}
    assert "'mAP'" not in stdout and "_loss'" not in stdout  # no dictionary
    assert re.search(r"^train \| step: +8 \| loss \d+\.\d+ \| learning rate ", stdout, re.M)
    (said,) = (line for line in stdout.splitlines() if line.startswith(" eval"))
    assert said.startswith(" eval | step:      8 | mAP ")
    drawings = list((output_dir / "pictures").glob("*.png"))
    assert len(drawings) == 2
    for file in drawings:  # on the right what is annotated: a bus and a motorbike
        with Image.open(file) as drawing:
            colours = {
                c
                for _, c in drawing.crop((drawing.width // 2 + 8, 0, *drawing.size)).getcolors(
                    1 << 24
                )
            }
        assert {colour_of(VOC_CLASSES.index(name) + 1) for name in ("bus", "motorbike")} <= colours
    assert list((output_dir / "checkpoints" / "train").glob("events.*"))
    assert list((output_dir / "checkpoints" / "validation").glob("events.*"))


def test_random_weights_have_the_statistics_of_the_pictures(voc_dir, tmp_path):
    records = convert(voc_dir, "trainval", tmp_path)
    start = Start("random", "resnet18", 224, 0, "untrained")
    task = VOCDetectionTask(make_experiment(start, Settings(), records.pattern, "").task)
    detector = task.build_model()
    task.initialize(detector)
    files = sorted((voc_dir / "JPEGImages").iterdir())[:4]  # trainval
    views = tf.stack([center_view(file.read_bytes(), 224) for file in files])
    conv, norm = (detector.backbone.get_layer(name) for name in ("conv1", "conv1_bn"))
    maps = conv(views).numpy().astype(np.float64)
    np.testing.assert_allclose(norm.moving_mean, maps.mean(axis=(0, 1, 2)), atol=1e-3)
    np.testing.assert_allclose(norm.moving_variance, maps.var(axis=(0, 1, 2)), rtol=1e-3)


@pytest.mark.slow
def test_it_finds_the_classes_it_was_shown(finished):
    """Eight steps do not teach where something is, but which of the twenty classes there are."""
    found = {}
    for name in VOC_CLASSES:
        lines = (finished[0] / "detections" / f"comp4_det_test_{name}.txt").read_text().splitlines()
        found[name] = len(lines)
    assert min(found["bus"], found["motorbike"]) > max(
        count for name, count in found.items() if name not in ("bus", "motorbike")
    )


@pytest.mark.slow
def test_the_export_finds_what_evaluation_found(finished, voc_dir):
    output_dir, _ = finished
    detect = load_detector(output_dir / "export")
    expected = {}
    for label, name in enumerate(VOC_CLASSES, start=1):
        lines = (output_dir / "detections" / f"comp4_det_test_{name}.txt").read_text().splitlines()
        for line in lines:
            image_id, score, *box = line.split()
            expected.setdefault(image_id, []).append((label, float(score), *map(float, box)))
    assert set(expected) == {"000005", "000006"}
    for image_id, objects in expected.items():
        found = detect((voc_dir / "JPEGImages" / f"{image_id}.jpg").read_bytes())
        assert found["num_detections"] == len(objects) == len(found["boxes"])
        rows = np.column_stack([found["classes"], found["scores"], found["boxes"]])
        order, like = np.lexsort(np.round(rows, 3).T), np.lexsort(np.round(objects, 3).T)
        np.testing.assert_allclose(rows[order], np.array(objects)[like], atol=2e-3)


@pytest.mark.slow
def test_killed_damaged_and_resumed_is_never_stopped(finished, voc_dir, tmp_path, run_tool):
    output_dir = tmp_path / "voc07"
    checkpoints = output_dir / "checkpoints"
    command = (*TINY, f"--voc_dir={voc_dir}", f"--output_dir={output_dir}")
    code, _, _ = run_tool("finetune_voc", *command, stop=(6, signal.SIGKILL))
    assert code == -signal.SIGKILL
    assert not (output_dir / "voc_results.json").exists()
    # The newest checkpoint is cut short; the sentence on it names the way out, which is taken.
    newest = output_directory.newest_checkpoint(output_dir)
    assert newest == 4
    (data,) = checkpoints.glob(f"ckpt-{newest}.data-*")
    data.write_bytes(data.read_bytes()[:-1])
    code, _, stderr = run_tool("finetune_voc", *command)
    assert (code, len(stderr.splitlines())) == (1, 1)
    assert f"ckpt-{newest} cannot be read" in stderr and "remove its files" in stderr
    for file in checkpoints.glob(f"ckpt-{newest}.*"):
        file.unlink()
    code, stdout, stderr = run_tool("finetune_voc", *command)
    assert code == 0, stderr
    assert "going on after step 2." in stdout
    whole = finished[0]
    before, after = (json.loads((d / "voc_results.json").read_text()) for d in (whole, output_dir))
    assert after["result"] == before["result"]
    for file in (whole / "detections").iterdir():
        assert file.read_text() == (output_dir / "detections" / file.name).read_text()
    uninterrupted, resumed = weights(whole), weights(output_dir)
    assert set(uninterrupted) == set(resumed)
    for name, value in uninterrupted.items():
        np.testing.assert_array_equal(value, resumed[name], err_msg=name)


@pytest.mark.slow
def test_two_results_are_compared_picture_by_picture(finished, tmp_path):
    record = json.loads((finished[0] / "voc_results.json").read_text())
    drawn = record["resampled"]
    assert len(drawn) == RESAMPLES and min(drawn) <= record["result"]["mAP"] <= max(drawn)
    # The other found as much more in each draw, however unlike the draws are.
    better = record | {
        "resampled": [value + 0.01 for value in drawn],
        "result": record["result"] | {"mAP": record["result"]["mAP"] + 0.02},
    }
    (tmp_path / "voc_results.json").write_text(json.dumps(better))
    said = format_difference(record, read_other(tmp_path), "the other")
    assert "a difference of -2.0, in 95 % of draws of the test pictures -1.0 to -1.0." in said
    # Other pictures, and the same of which one was left out.
    for unlike in ({"data": {"test": "others"}}, {"images": {"test": 1}}):
        with pytest.raises(RunError, match="was evaluated on other pictures"):
            format_difference(record, record | unlike, "the other")


@pytest.mark.slow
def test_a_comparison_with_other_pictures_is_refused_before_training(
    finished, voc_dir, tmp_path, run_tool
):
    record = json.loads((finished[0] / "voc_results.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    (other / "voc_results.json").write_text(json.dumps(record | {"data": {"test": "others"}}))
    flags = (f"--voc_dir={voc_dir}", f"--output_dir={tmp_path / 'out'}", f"--compare_to={other}")
    code, _, stderr = run_tool("finetune_voc", *TINY, *flags)
    assert (code, len(stderr.splitlines())) == (1, 1) and "on other pictures" in stderr
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_what_cannot_be_compared_with_is_refused_before_anything_is_done(tmp_path, run_tool):
    earlier = {
        **{"result": {"mAP": 0.5}, "data": {"test": "0"}, "images": {"test": 2}},
        "settings": {"steps": 8, "train_split": "trainval", "test_split": "test"},
        "start": {"init": "random", "network": "resnet18", "objective": "IR", "run_step": 0},
        "saved_model": "export/1",
    }
    for stored, sentence in ((earlier, "has no draws of test pictures"), ({}, "is missing")):
        (tmp_path / "voc_results.json").write_text(json.dumps(stored))
        code, _, stderr = run_tool(
            "finetune_voc", *TINY, f"--compare_to={tmp_path}", f"--voc_dir={tmp_path / 'none'}"
        )
        assert (code, len(stderr.splitlines())) == (1, 1) and sentence in stderr


@pytest.mark.slow
def test_a_finished_run_shows_its_result_and_refuses_others(finished, voc_dir, run_tool):
    output_dir, first = finished
    command = (*TINY, f"--voc_dir={voc_dir}", f"--output_dir={output_dir}")
    code, stdout, _ = run_tool("finetune_voc", *command, f"--compare_to={output_dir}")
    # The whole table and where everything is, as at first; then the comparison.
    shown = first[first.index("resnet18 from random weights") :].strip()
    assert code == 0 and len(shown.splitlines()) > 25 and shown in stdout
    assert "a difference of +0.0, in 95 % of draws of the test pictures +0.0 to +0.0" in stdout
    more = Settings(
        short_side=64,
        long_side=96,
        anchor_size=16,
        regions=8,
        steps=9,
        drop_step=6,
        learning_rate=0.01,
    )
    places = Places(
        voc_dir,
        output_dir,
        output_dir / "records",
        "random",
        network="resnet18",
        strategy="one_device",
    )
    with pytest.raises(RunError, match=r"of other settings \(steps was 8, now 9\)"):
        finetune(more, places)


def test_no_run_is_one_sentence(voc_dir, tmp_path, run_tool):
    flags = (f"--voc_dir={voc_dir}", f"--output_dir={tmp_path / 'out'}")
    code, _, stderr = run_tool("finetune_voc", *flags, f"--run_dir={tmp_path / 'none'}")
    assert (code, len(stderr.splitlines())) == (1, 1) and "holds no run" in stderr
    assert not (tmp_path / "out").exists()
    code, _, stderr = run_tool("finetune_voc", *flags)
    assert (code, len(stderr.splitlines())) == (1, 1) and "--run_dir" in stderr


def test_another_network_is_one_sentence_before_anything_is_loaded(tmp_path, run_tool):
    """The run has no checkpoint: its config.json must do."""
    run = tmp_path / "run"
    run.mkdir()
    data = {"training set": {"examples": 9, "fingerprint": "0"}}
    config = {"network": {"network": "smallnet"}}
    (run / "config.json").write_text(json.dumps({"config": config, "data": data}))
    flags = (f"--voc_dir={tmp_path}", f"--output_dir={tmp_path / 'out'}")
    code, _, stderr = run_tool("finetune_voc", *flags, f"--run_dir={run}", fresh=True)
    assert (code, len(stderr.splitlines())) == (1, 1)
    assert "smallnet cannot be a detector's backbone: train one of alexnet" in stderr
    assert not (tmp_path / "out").exists()


def make_checkpoint(directory):
    (directory / "checkpoints").mkdir()
    for ending in ("index", "data-00000-of-00001"):
        (directory / "checkpoints" / f"ckpt-1.{ending}").touch()


def test_a_foreign_or_used_directory_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="holds files but no fine-tuning"):
        output_directory.locked(tmp_path).__enter__()
    used = tmp_path / "used"
    with output_directory.locked(used):
        output_directory.claim(used, {"settings": {"steps": 8}})
        output_directory.claim(used, {"settings": {"steps": 9}})  # nothing was trained yet
        with (
            pytest.raises(RunError, match="another process"),
            output_directory.locked(used),
        ):
            pass
        make_checkpoint(used)
        output_directory.claim(used, {"settings": {"steps": 9}})
        with pytest.raises(RunError, match="steps was 9, now 8"):
            output_directory.claim(used, {"settings": {"steps": 8}})


def test_what_another_version_began_is_not_gone_on_with(voc_dir, tmp_path):
    """Half a training with other crops and proposals, and half with these, would be neither."""
    settings = Settings(short_side=64, long_side=96, anchor_size=16, steps=8)
    start = Start("random", "resnet18", 224, 0, "untrained")
    stored = {"start": dataclasses.asdict(start), "settings": dataclasses.asdict(settings)}
    make_checkpoint(tmp_path)
    (tmp_path / "settings.json").write_text(json.dumps(stored))
    places = Places(str(voc_dir), tmp_path, tmp_path, "random", network="resnet18")
    with pytest.raises(RunError, match="the version of the detector was None, now"):
        finetune(settings, dataclasses.replace(places, strategy="one_device"))


def test_splits_with_a_common_image_are_refused(voc_dir, tmp_path):
    places = Places(str(voc_dir), tmp_path, tmp_path, "random", network="resnet18")
    with pytest.raises(VOCError, match="2 of the images of --test_split=test are in"):
        finetune(Settings(train_split="test"), dataclasses.replace(places, strategy="one_device"))
    assert not list(tmp_path.iterdir())


def test_checkpoints_that_are_gone_or_damaged(tmp_path):
    assert output_directory.newest_checkpoint(tmp_path) is None
    folder = tmp_path / "checkpoints"
    step = tf.Variable(0, dtype=tf.int64)
    state = tf.train.Checkpoint(global_step=step, weights=tf.Variable(tf.ones([1000])))
    manager = tf.train.CheckpointManager(state, str(folder), max_to_keep=2, step_counter=step)
    for number in (2, 4):
        step.assign(number)
        manager.save(checkpoint_number=number)
    assert output_directory.newest_checkpoint(tmp_path) == 4
    data = next(folder.glob("ckpt-4.data-*"))
    whole = data.read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 1):
        data.write_bytes(whole[:size])
        with pytest.raises(RunError, match=r"ckpt-4 cannot be read \(.+\): restore it, or remove"):
            output_directory.newest_checkpoint(tmp_path)
    for file in folder.glob("ckpt-4.*"):
        file.unlink()
    assert output_directory.newest_checkpoint(tmp_path) == 2
    again = tf.train.CheckpointManager(state, str(folder), max_to_keep=2, step_counter=step)
    again.restore_or_initialize()
    assert step == 2
    for file in folder.glob("ckpt-2.*"):
        file.unlink()
    with pytest.raises(RunError, match="are gone: restore one"):
        output_directory.newest_checkpoint(tmp_path)


def test_records_that_lost_a_shard_are_refused(voc_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("detection.records.IMAGES_PER_SHARD", 3)
    records = convert(voc_dir, "trainval", tmp_path)
    folder = tmp_path / "VOC2007-trainval"
    (folder / "images-00001.tfrecord").rename(tmp_path / "lost")
    with pytest.raises(VOCError, match=r"trainval holds 3 of the 4 images .*: remove this folder"):
        convert(voc_dir, "trainval", tmp_path)
    (tmp_path / "lost").rename(folder / "images-00001.tfrecord")
    assert convert(voc_dir, "trainval", tmp_path) == records
    for shard in folder.glob("*.tfrecord"):
        shard.unlink()
    with pytest.raises(RunError, match=r"there are no .*images-\*\.tfrecord: remove their folder"):
        convert(voc_dir, "trainval", tmp_path)
