"""Runs that begin with the weights of another, and runs that go on after the end of another."""

import dataclasses
import json
import shutil
import signal

import pytest
import tensorflow as tf
from test_resume import assert_same_run

import la_tf
from la_tf.beginning import final_checkpoint, find_beginning
from la_tf.errors import RunError
from la_tf.export.weights import checksum, save_weights
from la_tf.runs.description import extended, read_description, read_origin
from la_tf.runs.log import read_log
from la_tf.runs.trained_run import open_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def longer(tmp_path_factory, run_tool, tiny_run):
    """What `straight_run` of four epochs is extended to, in one go."""
    run_dir = tmp_path_factory.mktemp("longer") / "run"
    flags = [*tiny_run, "--epochs=6", "--drop_epochs=5"]
    code, _, stderr = run_tool("train", *flags, f"--run_dir={run_dir}")
    assert code == 0, stderr
    return run_dir


def test_an_extended_run_is_the_one_begun_with_the_longer_schedule(
    tmp_path, straight_run, longer, run_tool, newest_checkpoint
):
    """Stopped on its way, too, when the other run is gone; what is not given is that run's.

    That run evaluated and looked at its export at its end, off the beat.
    """
    other, run_dir = tmp_path / "other", tmp_path / "run"
    shutil.copytree(straight_run, other)
    flags = [f"--extend={other}", "--epochs=6", "--drop_epochs=5", f"--run_dir={run_dir}"]
    flags += ["--nowrite_report"]
    code, stdout, stderr = run_tool("train", *flags, stop=(50, signal.SIGTERM))
    assert code == 128 + signal.SIGTERM, stderr
    assert f"the first 44 steps are those of {other}" in stdout
    shutil.rmtree(other)
    code, stdout, stderr = run_tool("train", *flags)
    assert code == 0, stderr
    assert "after step 50 of 66" in stdout
    assert_same_run(run_dir, longer, newest_checkpoint)
    assert read_origin(run_dir) == {"option": "extend", "path": str(other), "step": 44}
    assert "| Goes on from | other | all of its first 44 steps |" in (
        run_dir / "export" / "README.md"
    ).read_text().replace("  ", " ")


def test_what_cannot_be_extended_is_refused_before_anything_is_written(
    tmp_path, straight_run, run_tool, cut_back
):
    _, data = read_description(straight_run)

    def refusal(**options) -> str:
        config = extended(straight_run, **{"epochs": 6, "run_dir": "x"} | options)
        with pytest.raises(RunError) as caught:
            final_checkpoint(str(straight_run), config, data)
        return str(caught.value)

    assert "--tau was 0.07, here 0.1" in refusal(tau=0.1)
    assert "--drop_epochs was [], here [2]" in refusal(drop_epochs=(2,))
    for epochs in ({}, {"epochs": 4}, {"epochs": 1}):  # one of which is less than --ir_epochs=2
        with pytest.raises(RunError, match="was trained for 4 epochs: give more than those"):
            extended(straight_run, run_dir="x", **epochs)
    unfinished = cut_back(straight_run, 36, tmp_path / "unfinished")
    flags = [f"--extend={unfinished}", "--epochs=6", f"--run_dir={tmp_path / 'run'}"]
    code, _, stderr = run_tool("train", *flags)
    assert code == 1 and stderr.count("\n") == 1
    assert f"{unfinished} is not finished" in stderr
    assert not (tmp_path / "run").exists()


def test_the_untrained_weights_of_a_run_make_the_same_run(
    tmp_path, straight_run, run_tool, tiny_run, newest_checkpoint
):
    """From a file; when it is gone, the run is resumed all the same."""
    file, run_dir = tmp_path / "w.npz", tmp_path / "run"
    untrained = open_run(str(straight_run)).untrained_network()
    save_weights(untrained, file)
    flags = [*tiny_run, f"--init_from={file}", f"--run_dir={run_dir}"]
    code, stdout, stderr = run_tool("train", *flags, stop=(13, signal.SIGTERM))
    assert code == 128 + signal.SIGTERM, stderr
    assert f"the network begins with the weights of {file}" in stdout
    origin = {"option": "init_from", "path": str(file), "weights": checksum(untrained)}
    assert read_origin(run_dir) == origin
    file.unlink()
    assert run_tool("train", *flags)[0] == 0  # resumed, for which the file is not needed
    assert_same_run(run_dir, straight_run, newest_checkpoint)
    assert read_origin(run_dir) == origin
    code, _, stderr = run_tool("train", *tiny_run, f"--run_dir={run_dir}")
    assert code == 1 and f"--init_from was {file}, now None" in stderr


def test_other_images_begin_with_the_newest_weights_of_a_run(
    tmp_path, straight_run, run_tool, tiny_run
):
    """On two devices, at another size, with another schedule."""
    run_dir = tmp_path / "run"
    flags = ["--limit=300", "--image_size=20", "--epochs=1", "--ir_epochs=1", "--num_devices=2"]
    flags += ["--learning_rate=1e-30", "--mix=1", f"--init_from={straight_run}"]
    code, _, stderr = run_tool("train", *tiny_run, *flags, f"--run_dir={run_dir}")
    assert code == 0, stderr
    source, run = open_run(str(straight_run)), open_run(str(run_dir))
    for before, after in zip(
        source.network.trainable_weights, run.network.trainable_weights, strict=True
    ):
        tf.debugging.assert_equal(before, after)
    assert read_origin(run_dir) == {
        "option": "init_from",
        "path": str(straight_run),
        "step": 44,
        "weights": checksum(source.network),
    }
    card = (run_dir / "export" / "README.md").read_text()
    assert f"its weights after 44 steps, of SHA-256 {checksum(source.network)}" in card


def test_weights_of_another_network_are_refused_before_anything_is_written(
    tmp_path, straight_run, run_tool, tiny_run
):
    weights = straight_run / "export" / "weights.npz"
    config, data = read_description(straight_run)
    fits_not = "smallnet at 16 pixels with 128 dimensions, which do not fit"
    for source, changes, words in (
        (straight_run, {"dim": 64}, f"{fits_not} smallnet"),
        (weights, {"dim": 64}, f"{fits_not} smallnet"),
        (straight_run, {"network": "resnet18"}, f"{fits_not} resnet18 at 16 pixels with 128"),
        (tmp_path / "none.npz", {}, "cannot be read as weights: No such file"),
        (tmp_path, {}, "holds no run"),
    ):
        network = dataclasses.replace(config.network, **changes)
        run = dataclasses.replace(config.run, init_from=str(source), run_dir="x")
        with pytest.raises(RunError, match=words):
            find_beginning(dataclasses.replace(config, network=network, run=run), data)
    flags = [*tiny_run, "--network=resnet18", f"--init_from={weights}"]
    code, _, stderr = run_tool("train", *flags, f"--run_dir={tmp_path / 'run'}")
    assert code == 1 and stderr.count("\n") == 1
    assert "which do not fit resnet18 at 16 pixels with 128 dimensions: it" in stderr
    assert not (tmp_path / "run").exists()


def test_a_start_that_was_killed_after_taking_steps_over_can_be_repeated(
    tmp_path, straight_run, longer
):
    """The log is there then, and no checkpoint."""
    run_dir = tmp_path / "run"
    config = extended(straight_run, epochs=6, drop_epochs="5", run_dir=run_dir, write_report=False)
    shutil.copytree(straight_run, run_dir, ignore=shutil.ignore_patterns("checkpoints", "export"))
    stored = json.loads((run_dir / "config.json").read_text())
    origin = {"option": "extend", "path": str(straight_run), "step": 44}
    (run_dir / "config.json").write_text(json.dumps(stored | {"origin": origin}))
    assert la_tf.train(config).run_dir == run_dir
    assert read_log(run_dir / "metrics.jsonl") == read_log(longer / "metrics.jsonl")
