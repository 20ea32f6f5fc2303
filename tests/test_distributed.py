"""Replicas: the same global batch gives the same run on one device, on two and on four."""

import json
import pathlib

import numpy as np
import pytest

PROGRAM = pathlib.Path(__file__).with_name("train_replicas.py")
ROOT = PROGRAM.parent.parent

pytestmark = pytest.mark.slow


LA, BASELINES = "local_aggregation", ("deepcluster", "supervised")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, program_server):
    """Method -> replicas -> what `train_replicas.py` wrote."""
    results = {method: {} for method in (LA, *BASELINES)}
    for replicas in (1, 2, 4):
        folder = tmp_path_factory.mktemp("replicas")
        methods = (LA, *BASELINES) if replicas < 4 else (LA,)
        program = program_server.start(PROGRAM, replicas, folder, *methods, cwd=ROOT)
        _, stderr = program.communicate()
        assert program.returncode == 0, stderr
        for method in methods:
            results[method][replicas] = dict(np.load(folder / f"{method}.npz"))
    return results


@pytest.fixture(scope="module")
def runs(outputs):
    """Of Local Aggregation, by the number of replicas."""
    return outputs[LA]


@pytest.mark.parametrize("method", BASELINES)
def test_two_replicas_of_a_baseline_equal_one_device(outputs, method):
    one, two = outputs[method][1], outputs[method][2]
    assert_equal_runs(two, one)
    names = [name for name in one if name.startswith("top/")]
    assert len(names) == 2
    for name in names:
        np.testing.assert_allclose(two[name][0], one[name][0], rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(two[name][1], two[name][0])


@pytest.fixture(scope="module")
def workers(tmp_path_factory, program_server, free_ports):
    """What each of two worker processes wrote, one replica each."""
    folders, programs = [tmp_path_factory.mktemp("worker") for _ in range(2)], []
    hosts = [f"localhost:{port}" for port in free_ports(2)]
    for index, folder in enumerate(folders):
        cluster = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TF_CONFIG", json.dumps(cluster))
            programs.append(program_server.start(PROGRAM, 2, folder, LA, cwd=ROOT))
    for program in programs:
        _, stderr = program.communicate(timeout=600)
        assert program.returncode == 0, stderr
    return [dict(np.load(folder / f"{LA}.npz")) for folder in folders]


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
    loss, between = runs[1]["history/loss"], np.log(64) - 1
    assert (loss[:3] > between).all()  # IR: near ln N
    # LA: a third of the k = N neighbours are close, members of one of three clusters of eight each.
    assert (loss[3:] < between).all()
