"""Two worker processes train the run that one process trains."""

import socket

import numpy as np
import pytest

from la_tf.run_directory import read_log

pytestmark = pytest.mark.slow


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("localhost", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def test_two_workers_equal_one_process(tmp_path, start_tool, run_tool, tiny_run, newest_checkpoint):
    # Over many steps rounding grows; two epochs show both phases.
    flags = (*tiny_run, "--sync_bn", "--epochs=2", "--ir_epochs=1")
    hosts = ",".join(f"localhost:{port}" for port in free_ports(2))
    workers = [
        start_tool(
            "train",
            *flags,
            f"--run_dir={tmp_path / 'workers'}",
            "--strategy=multi_worker_mirrored",
            f"--worker_hosts={hosts}",
            f"--task_index={index}",
        )
        for index in range(2)
    ]
    for worker in workers:
        _, stderr = worker.communicate(timeout=600)
        assert worker.returncode == 0, stderr
    code, _, stderr = run_tool("train", *flags, f"--run_dir={tmp_path / 'alone'}")
    assert code == 0, stderr

    chief, other = tmp_path / "workers", tmp_path / "workers-worker1"
    assert (chief / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    together, alone = (
        read_log(chief / "metrics.jsonl"),
        read_log(tmp_path / "alone" / "metrics.jsonl"),
    )
    assert [(r["kind"], r["step"]) for r in together] == [(r["kind"], r["step"]) for r in alone]
    # Up to the first clustering, where rounding may tip a point into another cluster.
    for a, b in zip(together, alone, strict=True):
        if a["kind"] == "train" and a["phase"] == "IR":
            np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-3)
            np.testing.assert_allclose(a["spread"], b["spread"], rtol=1e-2)
    banks = [
        newest_checkpoint(path)["model/bank/vectors/.ATTRIBUTES/VARIABLE_VALUE"]
        for path in (chief, other)
    ]
    np.testing.assert_array_equal(*banks)
