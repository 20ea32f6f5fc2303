"""Replicas: the same global batch gives the same run on one device, on two and on four."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

PROGRAM = pathlib.Path(__file__).with_name("train_replicas.py")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Replicas -> what `train_replicas.py` wrote."""
    folder, results = tmp_path_factory.mktemp("replicas"), {}
    for replicas in (1, 2, 4):
        output = folder / f"{replicas}.npz"
        subprocess.run([sys.executable, PROGRAM, str(replicas), output], check=True)
        results[replicas] = dict(np.load(output))
    return results


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """What each of two worker processes wrote, one replica each."""
    folder, sockets = tmp_path_factory.mktemp("workers"), [socket.socket() for _ in range(2)]
    for s in sockets:
        s.bind(("localhost", 0))
    hosts = [f"localhost:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    processes = []
    for index in range(2):
        cluster = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(cluster)}
        command = [sys.executable, PROGRAM, "2", folder / f"{index}.npz"]
        processes.append(subprocess.Popen(command, env=environment))
    assert [process.wait(timeout=600) for process in processes] == [0, 0]
    return [dict(np.load(folder / f"{index}.npz")) for index in range(2)]


def test_two_worker_processes_equal_one_device(runs, workers):
    for got in workers:
        assert_equal_runs(got, runs[1])
    np.testing.assert_array_equal(workers[0]["banks"], workers[1]["banks"])


def test_every_image_of_the_run_was_written_to_the_bank(runs):
    """Six steps of 16 are more than an epoch of 64: no row may be what it was."""
    one = runs[1]
    assert (one["banks"][0] != one["first_bank"]).any(axis=1).all()


@pytest.mark.parametrize("replicas", [2, 4])
def test_replicas_equal_one_device_with_the_same_global_batch(runs, replicas):
    assert_equal_runs(runs[replicas], runs[1])


def assert_equal_runs(got, expected):
    assert got.keys() == expected.keys()
    np.testing.assert_array_equal(got["first_bank"], expected["first_bank"])
    for name in got:
        if name.startswith("history/"):
            np.testing.assert_allclose(got[name], expected[name], rtol=1e-3, atol=1e-4)
        elif name.startswith("weight/"):
            np.testing.assert_allclose(got[name], expected[name], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(got["banks"][0], expected["banks"][0], atol=1e-3)


@pytest.mark.parametrize("replicas", [2, 4])
def test_the_copies_of_the_bank_never_differ(runs, replicas):
    copies = runs[replicas]["banks"]
    assert len(copies) == replicas
    for copy in copies[1:]:
        np.testing.assert_array_equal(copy, copies[0])
    np.testing.assert_allclose(np.linalg.norm(copies[0], axis=1), 1.0, atol=1e-5)


def test_the_loss_changed_its_kind_at_the_switch(runs):
    loss = runs[1]["history/loss"]
    assert (loss[:3] > np.log(64) - 1).all()  # IR: near ln N
    assert (loss[3:] < np.log(16)).all()  # LA: below ln k
