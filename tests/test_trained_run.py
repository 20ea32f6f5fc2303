"""A run opened again is the run that was trained."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from la_tf.data.digits import digits_parts
from la_tf.data.pipeline import eval_dataset
from la_tf.embedding.embedder import Embedder
from la_tf.errors import RunError
from la_tf.runs.checkpoints import present_checkpoints
from la_tf.runs.trained_run import open_images, open_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(trained_run):
    return open_run(str(trained_run))


def test_network_and_bank_are_those_of_the_newest_checkpoint(run, trained_run, newest_checkpoint):
    stored = newest_checkpoint(trained_run)
    assert (run.step, run.epoch, run.objective) == (44, 4.0, "LA")
    bank = stored["model/bank/vectors/.ATTRIBUTES/VARIABLE_VALUE"]
    np.testing.assert_array_equal(run.bank, bank)
    _, heldout = digits_parts()
    images = [heldout.read(i) for i in range(20)]
    export = tf.saved_model.load(str(trained_run / "export" / "1")).signatures["serving_default"]
    expected = export(image_bytes=tf.constant(images))["embedding"]
    got = Embedder(run.network)(eval_dataset(heldout, image_size=16, batch_size=128))[:20]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_the_untrained_network_is_the_one_of_the_first_checkpoint(
    run, trained_run, tmp_path, cut_back
):
    before = open_run(str(cut_back(trained_run, 0, tmp_path / "run")))
    assert before.step == 0
    first = before.network.weights
    for a, b in zip(run.untrained_network().weights, first, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.allclose(first[0], run.network.weights[0])


def test_its_images_are_recognised(run):
    train_set, heldout = open_images(run)
    assert run.holds(train_set) and not run.holds(heldout)
    assert (len(train_set), len(heldout)) == (1437, 360)
    fewer, rest = open_images(run, data="digits", val_data="digits")
    assert run.holds(fewer) and len(rest) == 360


def test_other_held_out_images_leave_the_training_images_alone(tmp_path, run_tool, tiny_run):
    """Of a run that kept images out itself, they stay out."""
    train_set, heldout = digits_parts()
    for source, part in ((train_set, "all"), (heldout, "other")):
        (tmp_path / part).mkdir()
        for i in range(200):
            folder = tmp_path / part / source.class_names[source.labels[i]]
            folder.mkdir(exist_ok=True)
            (folder / f"{i}.png").write_bytes(source.read(i))
    flags = [*tiny_run, f"--data={tmp_path / 'all'}", "--holdout=50", "--epochs=1", "--ir_epochs=1"]
    code, _, stderr = run_tool("train", *flags, f"--run_dir={tmp_path / 'run'}", "--k=16")
    assert code == 0, stderr
    run = open_run(str(tmp_path / "run"))
    train_set, heldout = open_images(run, val_data=str(tmp_path / "other"))
    assert run.holds(train_set) and (len(train_set), len(heldout)) == (150, 200)


def test_a_run_of_ir_alone_is_called_so(trained_run, tmp_path):
    copy = shutil.copytree(trained_run, tmp_path / "run")
    stored = json.loads((copy / "config.json").read_text())
    stored["config"]["schedule"]["ir_epochs"] = 4
    (copy / "config.json").write_text(json.dumps(stored))
    assert open_run(str(copy)).objective == "IR"


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda run: shutil.rmtree(run), "holds no run: name a run directory"),
        (lambda run: (run / "config.json").unlink(), "holds no run"),
        (lambda run: (run / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda run: (run / "config.json").write_text("[]"), "config.json cannot be read"),
        (lambda run: (run / "config.json").write_text('{"config": {}}'), "cannot be read"),
        (lambda run: shutil.rmtree(run / "checkpoints"), "holds no checkpoint"),
        (
            lambda run: [f.write_bytes(b"x") for f in run.glob("checkpoints/*.index")],
            "cannot be read .*: restore it, or remove",
        ),
        (
            lambda run: [f.unlink() for f in run.glob("checkpoints/*.index")],
            "are gone: restore one",
        ),
    ],
)
def test_what_cannot_be_opened_is_one_sentence(trained_run, tmp_path, damage, message):
    copy = shutil.copytree(trained_run, tmp_path / "run")
    damage(copy)
    with pytest.raises(RunError, match=message) as error:
        open_run(str(copy))
    assert "\n" not in str(error.value)


def test_where_the_newest_checkpoint_was_removed_an_older_one_is_taken(trained_run, tmp_path):
    copy = shutil.copytree(trained_run, tmp_path / "run")
    newest = open_run(str(copy))
    newest_bank = newest.bank  # read when asked for: its file goes
    checkpoints = sorted(copy.glob("checkpoints/*.index"), key=lambda f: f.stat().st_mtime)
    assert len(checkpoints) > 1
    step = int(checkpoints[-1].stem.rpartition("-")[2])
    for file in copy.glob(f"checkpoints/{checkpoints[-1].stem}.*"):
        file.unlink()
    older = open_run(str(copy))
    assert newest.step == step and older.step < step
    assert (older.bank != newest_bank).any()


def test_a_checkpoint_that_training_removes_before_it_is_read_gives_way_to_the_next(
    trained_run, tmp_path, monkeypatch
):
    """Training goes on from step 22 to 33 between the choice and the reading, then to 44."""
    copy = shutil.copytree(trained_run, tmp_path / "run")
    steps, away = [22, 33, 44], tmp_path / "away"
    shutil.move(copy / "checkpoints", away)
    (copy / "checkpoints").mkdir()

    def train_on():
        for file in (copy / "checkpoints").iterdir():
            file.unlink()
        for file in away.glob(f"ckpt-{steps.pop(0)}.*"):
            shutil.copy(file, copy / "checkpoints")

    def chosen(folder):
        paths = present_checkpoints(folder)
        if len(steps) == 2:
            train_on()
        return paths

    train_on()
    monkeypatch.setattr("la_tf.runs.trained_run.present_checkpoints", chosen)
    run = open_run(str(copy))
    assert run.step == 33
    train_on()
    reader = tf.train.load_checkpoint(str(away / "ckpt-33"))
    bank = reader.get_tensor("model/bank/vectors/.ATTRIBUTES/VARIABLE_VALUE")
    np.testing.assert_array_equal(run.bank, bank)  # of the same step as the network


def test_the_bank_is_read_when_it_is_asked_for_and_says_so_where_it_is_damaged(
    trained_run, tmp_path
):
    """What needs N and the epoch alone, as an export does, never reads it."""
    copy = shutil.copytree(trained_run, tmp_path / "run")
    run = open_run(str(copy))
    for file in copy.glob("checkpoints/*.data-*"):
        file.write_bytes(b"x")
    assert (run.num_examples, run.epoch, run.objective) == (1437, 4.0, "LA")
    with pytest.raises(RunError, match=r"cannot be read .*: restore it, or remove"):
        _ = run.bank
