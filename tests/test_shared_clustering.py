"""Clusterings that workers share out are those that one worker makes, and every worker has all."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

PROGRAM = pathlib.Path(__file__).with_name("shared_clustering.py")


# A program of its own, since TensorFlow's collective operations keep the group of devices that they
# were first used with.
EXCHANGE = """
import sys
import numpy as np
from la_tf.callbacks.sharing import exchange
from la_tf.clustering import run_clusterings
from la_tf.config import RunConfig
from la_tf.runs import runtime

strategy = runtime.make_strategy(RunConfig(num_devices=int(sys.argv[1])))
runs = run_clusterings(np.random.default_rng(0).normal(size=(200, 8)), 12, 3, seed=1)
got = exchange(strategy, dict(enumerate(runs)), 3, 200, 12)
for run, expected in zip(got, runs, strict=True):
    np.testing.assert_array_equal(run.labels, expected.labels)
    np.testing.assert_array_equal(run.sizes, expected.sizes)
    assert run.inertia == expected.inertia
    assert run.labels.dtype == expected.labels.dtype
print("exchanged", len(got))
"""


@pytest.mark.parametrize("replicas", [1, 4])
def test_what_replicas_of_one_worker_exchange_is_what_it_had(program_server, tmp_path, replicas):
    script = tmp_path / "exchange.py"
    script.write_text(EXCHANGE)
    program = program_server.start(script, replicas, cwd=PROGRAM.parent.parent)
    stdout, stderr = program.communicate()
    assert program.returncode == 0 and "exchanged 3" in stdout, stderr


def run_workers(folder: pathlib.Path, count: int) -> list[dict]:
    """What each of `count` processes wrote: labels and log of every round, and who made what."""
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("localhost", 0))
    hosts = [f"localhost:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    processes = []
    for index in range(count):
        cluster = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
        if count > 1:
            environment["TF_CONFIG"] = json.dumps(cluster)
        (folder / str(index)).mkdir(parents=True)
        command = [sys.executable, PROGRAM, folder / str(index)]
        processes.append(subprocess.Popen(command, env=environment))
    assert [process.wait() for process in processes] == [0] * count
    return [
        {
            **dict(np.load(folder / str(index) / "rounds.npz")),
            "log": (folder / str(index) / "log.jsonl").read_bytes(),
        }
        for index in range(count)
    ]


@pytest.mark.slow
def test_two_workers_make_the_clusterings_of_one_between_them(tmp_path):
    (alone,) = run_workers(tmp_path / "alone", 1)
    together = run_workers(tmp_path / "together", 2)
    assert alone["made"].tolist() == [0, 1, 2, 0, 1, 2]  # three clusterings, two rounds
    assert [worker["made"].tolist() for worker in together] == [[0, 2, 0, 2], [1, 1]]
    for worker in together:
        np.testing.assert_array_equal(worker["labels"], alone["labels"])
        assert worker["log"] == alone["log"]
    assert alone["log"].count(b'"kind": "clustering"') == 2
