"""Several replicas or worker processes train the run that one process trains on one device."""

import signal

import numpy as np
import pytest
import tensorflow as tf

from la_tf.data.pipeline import step_indices
from la_tf.runs.log import read_log

pytestmark = pytest.mark.slow

# Statistics over all replicas, as one device has them. Rounding grows over many steps and with the
# learning rate; two epochs show both phases.
FLAGS = ("--sync_bn", "--epochs=2", "--ir_epochs=1", "--learning_rate=0.003")
SAVE_STEP_7 = "--checkpoint_every_steps=7"
BANK = "model/bank/vectors/.ATTRIBUTES/VARIABLE_VALUE"


@pytest.fixture(scope="module")
def alone(tmp_path_factory, run_tool, tiny_run):
    """Run directory of one process on one device."""
    run_dir = tmp_path_factory.mktemp("alone") / "run"
    flags = [*tiny_run, *FLAGS, SAVE_STEP_7, f"--run_dir={run_dir}"]
    code, _, stderr = run_tool("train", *flags)
    assert code == 0, stderr
    return run_dir


def assert_close(run_dir, alone):
    """Equal but for rounding up to the first clustering, where it may tip a point elsewhere."""
    got, expected = (read_log(path / "metrics.jsonl") for path in (run_dir, alone))
    assert [(r["kind"], r["step"]) for r in got] == [(r["kind"], r["step"]) for r in expected]
    for a, b in zip(got, expected, strict=True):
        if a["kind"] == "train" and a["phase"] == "IR":
            assert a["steps"] == b["steps"]
            np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-3)
            np.testing.assert_allclose(a["spread"], b["spread"], rtol=1e-2)


def stored_bank(run_dir, step):
    return tf.train.load_checkpoint(str(run_dir / f"checkpoints/ckpt-{step}")).get_tensor(BANK)


def test_what_two_replicas_began_one_finishes(tmp_path, alone, run_tool, tiny_run):
    """The stop falls into a window of four steps, whose mean is of two replicas and of one."""
    run_dir = tmp_path / "run"
    flags = [*tiny_run, *FLAGS, SAVE_STEP_7, f"--run_dir={run_dir}"]
    code, _, stderr = run_tool("train", *flags, "--num_devices=2", stop=(6, signal.SIGTERM))
    assert code == 128 + signal.SIGTERM, stderr
    log = (run_dir / "metrics.jsonl").read_bytes()
    code, stdout, stderr = run_tool("train", *flags, "--num_devices=1")
    assert code == 0, stderr
    assert "after step 6 of 22" in stdout
    assert b'"step": 4,' in log
    assert (run_dir / "metrics.jsonl").read_bytes().startswith(log)
    assert_close(run_dir, alone)
    # The first step on one replica wrote its own rows, and all others are as two had left them.
    before, after = (stored_bank(run_dir, step) for step in (6, 7))
    rows = step_indices(len(before), 32, seed=0, step=6)
    others = np.setdiff1d(np.arange(len(before)), rows)
    np.testing.assert_array_equal(after[others], before[others])
    expected = stored_bank(alone, 7)[rows]
    written = np.linalg.norm(expected - before[rows], axis=1)
    assert np.linalg.norm(expected - after[rows], axis=1).mean() < written.mean() / 10


@pytest.fixture(scope="module")
def train_workers(start_tool, tiny_run, free_ports):
    """Trains, or goes on training, with two workers; returns how each ended and what it printed."""

    def train(run_dir, stop=None):
        hosts = ",".join(f"localhost:{port}" for port in free_ports(2))
        flags = [*tiny_run, *FLAGS, f"--run_dir={run_dir}", "--strategy=multi_worker_mirrored"]
        flags += [f"--worker_hosts={hosts}"]
        workers = [
            start_tool("train", *flags, f"--task_index={index}", stop=stop if index else None)
            for index in range(2)
        ]
        outputs = [worker.communicate(timeout=600) for worker in workers]
        return [(w.returncode, *output) for w, output in zip(workers, outputs, strict=True)]

    return train


def test_two_workers_equal_one_process_and_go_on_after_a_kill(
    tmp_path, alone, train_workers, newest_checkpoint
):
    chief, other = tmp_path / "run", tmp_path / "run-worker1"
    ends = train_workers(chief)
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert (chief / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    assert_close(chief, alone)

    killed, killed_other = tmp_path / "killed", tmp_path / "killed-worker1"
    (code, _, stderr), (died, _, _) = train_workers(killed, stop=(14, signal.SIGKILL))
    assert (code, died) == (1, -signal.SIGKILL), stderr
    assert stderr.count("\n") == 1 and "start the same command on all workers again" in stderr
    # As if the chief had saved a checkpoint that the other had not.
    for file in killed_other.glob("checkpoints/ckpt-12.*"):
        file.unlink()
    ends = train_workers(killed)
    assert [code for code, _, _ in ends] == [0, 0], ends
    for _, stdout, _ in ends:
        assert "after step 12 of 22" in stdout

    expected = newest_checkpoint(chief)
    for run_dir in (other, killed, killed_other):
        assert (run_dir / "metrics.jsonl").read_bytes() == (chief / "metrics.jsonl").read_bytes()
        np.testing.assert_array_equal(newest_checkpoint(run_dir)[BANK], expected[BANK])
