"""The benchmark: what it times, and that it counts right."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf

from la_tf.benchmark import scaling, serve, step, timing, train
from la_tf.benchmark.timing import Row
from la_tf.config import NumericsConfig


def test_functions_are_run_in_turn_and_the_first_round_does_not_count():
    calls = []
    seconds = timing.repeat({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert calls == ["a", "b"] * 4
    assert [len(seconds[name]) for name in ("a", "b")] == [3, 3]


def test_a_slow_moment_that_falls_on_both_leaves_the_ratio():
    floor, row = Row("floor", [1.0, 10.0, 1.2]), Row("row", [2.0, 20.0, 2.4], "floor", items=6)
    assert timing.paired_ratio(row, floor) == pytest.approx(2.0)
    first, second = timing.table([floor, row], "images")
    assert re.search(r"floor +1200\.0 ms \(1000\.0 to 10000\.0\) +0\.8 images/s$", first)
    assert re.search(r"2400\.0 ms .* 2\.5 images/s +2\.00 x floor$", second)


@pytest.mark.parametrize("block_size", [0, 32])
def test_a_step_is_timed_beside_its_product(block_size):
    rows = step.measure(num_examples=300, repetitions=2, block_size=block_size)
    assert [row.floor for row in rows] == [None] + ["product [128, 128] x [128, 300]"] * 4
    assert all(len(row.seconds) == 2 and min(row.seconds) > 0 for row in rows)


def test_rows_of_the_bank_come_in_clusters():
    rows = step.clustered_rows(430).numpy()
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    similarities = rows @ rows.T
    nearest = np.sort(similarities, axis=1)[:, -6:-1]  # without itself
    # Centre and noise are of one length: members of a cluster have a cosine of one half.
    assert nearest.mean() == pytest.approx(0.6, abs=0.1)
    assert np.median(similarities) == pytest.approx(0, abs=0.05)


def test_peak_memory_is_what_a_function_holds_at_once():
    @tf.function
    def hold(x):
        rows = tf.fill([50_000_000], x)  # 200 MB
        return tf.reduce_sum(rows)

    one = tf.constant(1.0)
    hold(one)
    peak = step.peak_memory(lambda: hold(one))
    if peak is None:
        pytest.skip("this build of TensorFlow does not count memory")
    # TensorFlow does not cut a piece of memory for the last 128 MB of it.
    assert 200e6 <= peak <= 340e6


def test_whole_steps_are_timed_beside_a_supervised_one():
    rows = train.measure("smallnet", 16, (64,), NumericsConfig(), batch_size=8, repetitions=1)
    assert [(row.name, row.items) for row in rows] == [
        ("smallnet at 16, supervised", 8),
        ("smallnet at 16, IR, N = 64", 8),
        ("smallnet at 16, LA, N = 64", 8),
    ]


def test_needs_of_replicas_are_counted_by_hand():
    one = scaling.replicated_bank(1000, 1, batch=16)
    assert one == scaling.Needs(memory=1000 * (512 + 40) + 16 * 1000 * 4, sent=0)
    two = scaling.replicated_bank(1000, 2, batch=16)
    gradients = 4 * scaling.PARAMETERS
    assert two == scaling.Needs(1000 * 552 + 8 * 1000 * 4, 8 * (8 + 512) + gradients)
    split = scaling.split_bank(1000, 2, batch=16)
    assert split.memory == 500 * 552 + 16 * 500 * 4
    # The embeddings; for the 8 images of the other, k candidates and a gradient.
    assert split.sent == 8 * 520 + 8 * 4096 * (4 + 8 + 40) + 8 * 512 + gradients


@pytest.mark.slow
def test_replicas_are_timed_in_processes_of_their_own():
    rows = scaling.measure((1, 2), repetitions=1)
    assert [(row.name, row.floor) for row in rows] == [
        ("smallnet at 32, LA, 1 replicas", None),
        ("smallnet at 32, LA, 2 replicas", "smallnet at 32, LA, 1 replicas"),
    ]


@pytest.mark.slow
def test_a_server_is_timed_by_calls_of_its_own(trained_run):
    rows = {row.name: row for row in serve.measure(str(trained_run / "export"), "digits", 32, 2)}
    assert {name: row.floor for name, row in rows.items()} == {
        "in process, batch 1": None,
        "in process, batch 16": None,
        "served, 1 client": "in process, batch 1",
        "served, 16 clients": "in process, batch 16",
    }
    calls = {"in process, batch 1": 32, "in process, batch 16": 2, "served, 1 client": 32}
    for name, row in rows.items():
        assert row.items == 32 and len(row.seconds) == 2
        median, high = (float(ms) for ms in re.findall(r"([\d.]+) ms", row.note))
        assert median <= high
        if name in calls:  # one after the other: they fill the time that was measured
            assert 0.3 < calls[name] * median / 1000 / np.mean(row.seconds) < 1.5


def test_the_tool_prints_and_writes_what_it_timed(run_tool, tmp_path):
    file = tmp_path / "times.json"
    flags = ("--part=train,step", "--sizes=256,300", "--repetitions=2", f"--json={file}")
    flags += ("--networks=smallnet:16", "--jit_compile", "--mixed_precision")
    code, out, err = run_tool("benchmark", *flags, fresh=True)
    assert code == 0, err
    record = json.loads(file.read_text())
    assert record["environment"]["cpu_cores"] > 0
    rows = [Row(**row) for part in ("step", "train") for row in record["seconds"][part]]
    assert len(rows) == 10 + 5 and all(len(row.seconds) == 2 for row in rows)
    for row in rows:
        assert f"{1000 * row.median:.1f} ms" in out


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--part=speed"], "--part takes one or more of step, clustering"),
        (["--part=serve"], "--part=serve needs --export_dir"),
        (["--part=serve", "--export_dir=nowhere"], "nowhere holds no SavedModel"),
        (["--sizes=many"], "--sizes takes numbers"),
        (["--networks=alexnet"], "--networks takes NAME:IMAGE_SIZE"),
        (["--sizes=256", "--block_size=3"], "is no divisor"),
    ],
)
def test_what_cannot_be_timed_is_one_sentence(run_tool, flags, words):
    code, _, err = run_tool("benchmark", "--repetitions=1", *flags)
    assert code == 1 and words in err and len(err.splitlines()) == 1
