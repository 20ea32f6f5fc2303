"""A run that was killed and started again is the run that was not."""

import os
import random
import shutil
import signal
import time

import numpy as np
import pytest
from conftest import ROOT
from imitation import has_bfloat16
from PIL import Image
from sklearn.datasets import load_digits

from la_tf.runs.description import read_description
from la_tf.runs.directory import RunDirectory
from la_tf.runs.log import read_log

KILLS = int(os.environ.get("LA_TF_KILLS", "2"))

pytestmark = pytest.mark.slow


def newest_step(run_dir) -> int:
    """Step of the newest checkpoint; -1 if there is none."""
    paths = run_dir.glob("checkpoints/ckpt-*.index")
    return max((int(path.stem.split("-")[1]) for path in paths), default=-1)


def wait_for_checkpoint_after(run_dir, step, process) -> int:
    """Returns once a checkpoint later than `step` exists, or the process has ended."""
    while process.poll() is None and newest_step(run_dir) <= step:
        time.sleep(0.01)
    return newest_step(run_dir)


def assert_same_run(run_dir, expected_dir, newest_checkpoint):
    assert (run_dir / "metrics.jsonl").read_bytes() == (expected_dir / "metrics.jsonl").read_bytes()
    got, expected = newest_checkpoint(run_dir), newest_checkpoint(expected_dir)
    assert got.keys() == expected.keys()
    names = " ".join(got)
    for part in ("bank/vectors", "cluster_labels", "network", "optimizer/_momentums"):
        assert part in names.replace("optimizer/_variables", "optimizer/_momentums"), part
    for name, value in got.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_signals_and_kills_leave_no_trace(
    tmp_path, straight_run, start_tool, run_tool, tiny_run, newest_checkpoint
):
    """SIGTERM and Ctrl-C at a step that is not due to be saved; kills at random moments.

    After the first of them the list of checkpoints is damaged, while the checkpoints are whole.
    """
    run_dir = tmp_path / "run"
    flags = [*tiny_run, f"--run_dir={run_dir}"]
    rarely = [*flags, "--checkpoint_every_steps=1000"]
    before = 0
    for step, signum in ((5, signal.SIGTERM), (17, signal.SIGINT)):
        code, stdout, stderr = run_tool("train", *rarely, stop=(step, signum))
        assert code == 128 + signum and stderr == ""
        assert f"stopped by {signum.name} after step {step}" in stdout
        assert newest_step(run_dir) == step
        assert (f"after step {before} of 44" in stdout) == (before > 0)
        assert ("checkpoint is damaged: it was written anew" in stdout) == (before > 0)
        before = step
        if signum == signal.SIGTERM:
            (run_dir / "checkpoints" / "checkpoint").write_bytes(bytes(200))
    moments = random.Random(KILLS)
    for kill in range(KILLS):
        process = start_tool("train", *flags)
        if kill % 2:
            # At any moment of its first seconds: while it starts, restores or begins to train.
            time.sleep(moments.uniform(0, 5))
        else:
            # While it trains, each time a little further.
            wait_for_checkpoint_after(run_dir, 17 + 20 * kill // KILLS, process)
            time.sleep(moments.uniform(0, 0.3))
        process.kill()
        process.communicate()
        print(f"kill {kill + 1} of {KILLS}: newest checkpoint {newest_step(run_dir)}")
    code, _, stderr = run_tool("train", *flags)
    assert code == 0, stderr
    assert_same_run(run_dir, straight_run, newest_checkpoint)


def test_a_start_killed_before_any_change_to_a_file_can_be_repeated(
    tmp_path, straight_run, program_server, run_tool, tiny_run, newest_checkpoint
):
    """At all of them the folder is taken for a run's, and at the worst the run is the same."""
    run_dir, snapshots = tmp_path / "run", tmp_path / "snapshots"
    snapshots.mkdir()
    process = program_server.start(
        ROOT / "tests" / "snapshots.py",
        *(run_dir, snapshots, ROOT / "tools" / "train.py", *tiny_run, f"--run_dir={run_dir}"),
        cwd=ROOT,
    )
    assert process.communicate()[1] == "" and process.returncode == -signal.SIGKILL
    states = sorted(snapshots.iterdir())
    events = [state.name for state in states]
    assert events[0].endswith(" open lock") and "rmdir export.trial" in events[-1]
    description = read_description(straight_run)
    for state in states:
        copy = shutil.copytree(state, tmp_path / "copy")
        directory = RunDirectory(str(copy), *description, {})
        assert not directory.resumed, state.name
        directory.release()
        shutil.rmtree(copy)
    state = [s for s in states if (s / "export.trial" / "weights.npz").exists()][-1]
    # In whatever order a file system names the files of a folder that is removed.
    (state / "export.trial" / "README.md").unlink(missing_ok=True)
    code, _, stderr = run_tool("train", *tiny_run, f"--run_dir={state}")
    assert code == 0, stderr
    assert_same_run(state, straight_run, newest_checkpoint)
    assert not (state / "export.trial").exists()


@pytest.fixture(scope="module")
def one_class(tmp_path_factory):
    """Digits that all have the same label: kNN is always right. Eleven batches of 32."""
    folder, images = tmp_path_factory.mktemp("one_class"), load_digits().images
    for part, rows in (("train", range(352)), ("val", range(352, 400))):
        (folder / part / "digit").mkdir(parents=True)
        for i in rows:
            picture = Image.fromarray((15 * images[i]).astype(np.uint8))
            picture.save(folder / part / "digit" / f"{i}.png")
    return folder


def test_every_option_that_has_state_resumes_exactly(
    tmp_path, run_tool, tiny_run, cut_back, newest_checkpoint, one_class
):
    """Noise samples, rounds within an epoch, fresh crops, a plateau that has dropped, bfloat16.

    An accuracy that is 1 from the start cannot rise: the learning rate falls after every epoch but
    the first, as often as it may, on any processor. The cut comes between the two times.
    """
    flags = [
        *tiny_run,
        f"--data={one_class}",
        "--learning_rate=0.003",
        "--ir_loss=nce",
        "--eval_every_epochs=1",
        "--cluster_every_steps=5",
        "--cluster_input=center_crops",
        "--plateau_patience=1",
        *(["--mixed_precision"] if has_bfloat16 else []),
    ]
    straight = tmp_path / "straight"
    code, _, stderr = run_tool("train", *flags, f"--run_dir={straight}")
    assert code == 0, stderr
    killed = cut_back(straight, 30, tmp_path / "killed")
    code, stdout, stderr = run_tool("train", *flags, f"--run_dir={killed}")
    assert code == 0, stderr
    assert "after step 30 of 44" in stdout
    records = read_log(straight / "metrics.jsonl")
    rounds = [r["step"] for r in records if r["kind"] == "clustering"]
    assert rounds == [22, 27, 32, 37, 42]
    assert [r["step"] for r in records if r["kind"] == "plateau"] == [22, 33]
    assert_same_run(killed, straight, newest_checkpoint)


def test_the_log_holds_both_phases_and_every_round(trained_run):
    records = read_log(trained_run / "metrics.jsonl")
    train = [r for r in records if r["kind"] == "train"]
    assert [(r["step"], r["steps"]) for r in train[:3]] == [(4, 4), (8, 4), (11, 3)]
    assert [r["phase"] for r in train] == ["IR"] * 6 + ["LA"] * 6
    assert [r["step"] for r in records if r["kind"] == "clustering"] == [22, 33]
    assert [r["epoch"] for r in records if r["kind"] == "knn"] == [0, 1, 2, 3, 4]


def test_the_console_holds_nothing_that_a_user_would_have_to_ignore(trained_run):
    assert (trained_run.parent / "stderr").read_text() == ""
    starts = (
        "1437 training",
        "this processor multiplies bfloat16",  # where it does
        "IR loss",
        "LA loss",
        "step ",
        *("Held-out", "  ", "untrained network", "end of "),
        "run dir",
        "SavedM",
        "report",
    )
    for line in (trained_run.parent / "stdout").read_text().splitlines():
        assert line == "" or line.startswith(starts), line


def test_a_finished_run_only_shows_its_table_again(tmp_path, straight_run, run_tool, tiny_run):
    run_dir = shutil.copytree(straight_run, tmp_path / "run")
    log = (run_dir / "metrics.jsonl").read_bytes()
    code, again, _ = run_tool("train", *tiny_run, f"--run_dir={run_dir}")
    assert code == 0 and (run_dir / "metrics.jsonl").read_bytes() == log
    once = (straight_run.parent / "stdout").read_text()
    shown, expected = (text.split("Held-out")[1] for text in (again, once))
    assert shown == expected.replace(str(straight_run), str(run_dir))


def test_two_replicas_that_were_killed_go_on(
    tmp_path, run_tool, tiny_run, cut_back, newest_checkpoint
):
    flags = [*tiny_run, "--epochs=2", "--ir_epochs=1", "--num_devices=2"]
    straight = tmp_path / "straight"
    code, _, stderr = run_tool("train", *flags, f"--run_dir={straight}")
    assert code == 0, stderr
    killed = cut_back(straight, 12, tmp_path / "killed")
    code, stdout, stderr = run_tool("train", *flags, f"--run_dir={killed}")
    assert code == 0, stderr
    assert "after step 12 of 22" in stdout
    got, expected = (read_log(path / "metrics.jsonl") for path in (killed, straight))
    assert [(r["kind"], r["step"]) for r in got] == [(r["kind"], r["step"]) for r in expected]
    # Saving averages the replicas' moving statistics, which evaluations see and training does not.
    got, expected = (
        [r for r in log if r["kind"] not in ("knn", "exported")] for log in (got, expected)
    )
    assert got == expected
    banks = [
        newest_checkpoint(path)["model/bank/vectors/.ATTRIBUTES/VARIABLE_VALUE"]
        for path in (killed, straight)
    ]
    np.testing.assert_array_equal(*banks)
