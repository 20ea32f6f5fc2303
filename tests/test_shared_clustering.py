"""Clusterings that workers share out are those that one worker makes, and every worker has all."""

import json
import pathlib

import numpy as np
import pytest

PROGRAM = pathlib.Path(__file__).with_name("shared_clustering.py")
ROOT = PROGRAM.parent.parent


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
    program = program_server.start(script, replicas, cwd=ROOT)
    stdout, stderr = program.communicate()
    assert program.returncode == 0 and "exchanged 3" in stdout, stderr


def run_workers(program_server, ports: list[int], folder: pathlib.Path) -> list[dict]:
    """What a process at each port wrote: labels and log of every round, and who made what."""
    hosts, programs = [f"localhost:{port}" for port in ports], []
    for index in range(len(hosts)):
        cluster = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
        (folder / str(index)).mkdir(parents=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CUDA_VISIBLE_DEVICES", "-1")
            if len(hosts) > 1:
                patch.setenv("TF_CONFIG", json.dumps(cluster))
            programs.append(program_server.start(PROGRAM, folder / str(index), cwd=ROOT))
    for program in programs:
        _, stderr = program.communicate(timeout=600)
        assert program.returncode == 0, stderr
    return [
        {
            **dict(np.load(folder / str(index) / "rounds.npz")),
            "log": (folder / str(index) / "log.jsonl").read_bytes(),
        }
        for index in range(len(hosts))
    ]


@pytest.mark.slow
def test_two_workers_make_the_clusterings_of_one_between_them(tmp_path, program_server, free_ports):
    (alone,) = run_workers(program_server, free_ports(1), tmp_path / "alone")
    together = run_workers(program_server, free_ports(2), tmp_path / "together")
    assert alone["made"].tolist() == [0, 1, 2, 0, 1, 2]  # three clusterings, two rounds
    assert [worker["made"].tolist() for worker in together] == [[0, 2, 0, 2], [1, 1]]
    for worker in together:
        np.testing.assert_array_equal(worker["labels"], alone["labels"])
        assert worker["log"] == alone["log"]
    assert alone["log"].count(b'"kind": "clustering"') == 2
