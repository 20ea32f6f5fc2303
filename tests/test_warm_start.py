"""Runs that take the warm start of another over instead of repeating it."""

import dataclasses
import shutil
import signal

import pytest
from test_resume import assert_same_run

from la_tf.beginning import warm_start_checkpoint
from la_tf.errors import RunError
from la_tf.runs.description import read_description
from la_tf.runs.log import read_log

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(tmp_path_factory, run_tool, tiny_run):
    """Instance recognition alone, with other options for what comes after it."""
    run_dir = tmp_path_factory.mktemp("source") / "run"
    later = ("--epochs=2", "--num_clusterings=1", "--num_clusters=7", "--k=9", "--drop_epochs=3")
    code, _, stderr = run_tool("train", *tiny_run, *later, f"--run_dir={run_dir}")
    assert code == 0, stderr
    return run_dir


def test_run_is_that_which_did_it_all_itself(
    tmp_path, source, straight_run, run_tool, tiny_run, newest_checkpoint
):
    """Stopped on its way, too, when the other run is gone."""
    other, run_dir = tmp_path / "other", tmp_path / "run"
    shutil.copytree(source, other)
    flags = [*tiny_run, f"--run_dir={run_dir}", f"--warm_start={other}"]
    code, stdout, _ = run_tool("train", *flags, stop=(26, signal.SIGTERM))
    assert code == 128 + signal.SIGTERM
    assert f"the first 22 steps are those of {other}" in stdout
    shutil.rmtree(other)
    code, stdout, stderr = run_tool("train", *flags)
    assert code == 0, stderr
    assert "after step 26 of 44" in stdout
    assert_same_run(run_dir, straight_run, newest_checkpoint)


def test_warm_start_ends_when_its_loss_levels_off(
    tmp_path, run_tool, tiny_run, cut_back, newest_checkpoint
):
    """Wherever the run is stopped, before that, within an epoch, and after.

    Without a learning rate to speak of the loss must become level, on any processor.
    """
    few = ("--limit=64", "--learning_rate=1e-30", "--epochs=30", "--ir_epochs=29")
    flags = [*tiny_run, *few, "--k=16", "--num_clusters=4"]
    flags += ["--ir_until_plateau", "--eval_every_epochs=30", "--checkpoint_every_steps=9"]
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    code, _, stderr = run_tool("train", *flags, f"--run_dir={straight}")
    assert code == 0, stderr
    end = end_of(straight)
    assert 20 <= end < 58 and end % 2 == 0
    flags += [f"--run_dir={cut_back(straight, 9, stopped)}"]
    code, stdout, _ = run_tool("train", *flags, stop=(end + 1, signal.SIGTERM))
    assert code == 128 + signal.SIGTERM and "after step 9 of 60" in stdout
    code, _, stderr = run_tool("train", *flags)
    assert code == 0, stderr
    records = read_log(straight / "metrics.jsonl")
    for record in records:
        if record["kind"] == "train":
            assert record["phase"] == ("IR" if record["step"] <= end else "LA")
    assert [r["step"] for r in records if r["kind"] == "clustering"] == list(range(end, 60, 2))
    assert {end, 60} <= {r["step"] for r in records if r["kind"] == "knn"}
    assert_same_run(stopped, straight, newest_checkpoint)


def end_of(run_dir) -> int:
    """The step at which the warm start of a run ended by itself."""
    (end,) = [r for r in read_log(run_dir / "metrics.jsonl") if r["kind"] == "warm_start_end"]
    return end["step"]


def test_another_warm_start_is_refused(source):
    config, data = read_description(source)

    def refusal(config=config, data=data) -> str:
        with pytest.raises(RunError) as caught:
            warm_start_checkpoint(str(source), config, data)
        return str(caught.value)

    assert warm_start_checkpoint(str(source), config, data).name == "ckpt-22"
    hotter = dataclasses.replace(config.objective, tau=0.1)
    assert "--tau was 0.07, here 0.1" in refusal(dataclasses.replace(config, objective=hotter))
    dropped = dataclasses.replace(config.optimizer, drop_epochs=(1,))
    told = refusal(dataclasses.replace(config, optimizer=dropped))
    assert "--drop_epochs was [3], here [1]" in told
    fewer = data["training set"] | {"examples": 300}
    assert "the data's training set was" in refusal(data=data | {"training set": fewer})
    # It was saved every six steps and at its end: of the first epoch's end there is none.
    shorter = dataclasses.replace(config.schedule, ir_epochs=1)
    told = refusal(dataclasses.replace(config, schedule=shorter))
    assert "has no checkpoint of the end of one of its first 1 epochs" in told
