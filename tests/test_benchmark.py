"""The benchmark: what it times, and that it counts right."""

import collections
import http.server
import json
import re
import threading
import types

import numpy as np
import pytest
import tensorflow as tf
from imitation import has_bfloat16

from la_tf.benchmark import scaling, serve, step, timing, train
from la_tf.benchmark.timing import Row
from la_tf.config import NumericsConfig
from la_tf.embedding.embedding_model import EmbeddingError


def test_functions_are_run_in_turn_and_the_first_round_does_not_count():
    calls = []
    seconds = timing.repeat({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert calls == ["a", "b"] * 4
    assert [len(seconds[name]) for name in ("a", "b")] == [3, 3]


def test_the_clock_is_read_when_the_devices_are_done(monkeypatch):
    events = []
    clock = types.SimpleNamespace(perf_counter=lambda: events.append("clock") or 0.0)
    monkeypatch.setattr(timing, "time", clock)
    monkeypatch.setattr(tf.test.experimental, "sync_devices", lambda: events.append("done"))
    timing.repeat({"a": lambda: events.append("a")}, 2)
    assert events == ["a", "done"] + ["clock", "a", "done", "clock"] * 2


def test_a_slow_moment_that_falls_on_both_leaves_the_ratio():
    floor, row = Row("floor", [1.0, 10.0, 1.2]), Row("row", [2.0, 20.0, 2.4], "floor", items=6)
    assert timing.paired_ratio(row, floor) == pytest.approx(2.0)
    first, second = timing.table([floor, row], "images")
    assert re.search(r"floor +1200\.0 ms \(1000\.0 to 10000\.0\) +0\.8 images/s$", first)
    assert re.search(r"2400\.0 ms .* 2\.5 images/s +2\.00 x floor$", second)


def kept(monkeypatch, module, name: str) -> list:
    """What a function of a module returns, of every call from now on."""
    function, returned = getattr(module, name), []

    def call(*arguments, **options):
        returned.append(function(*arguments, **options))
        return returned[-1]

    monkeypatch.setattr(module, name, call)
    return returned


def examined(monkeypatch, module, examine) -> None:
    """Has the functions that a module is going to time looked at before their times are taken."""

    def look_and_repeat(functions, repetitions):
        examine(functions)
        return timing.repeat(functions, repetitions)

    monkeypatch.setattr(module, "repeat", look_and_repeat)


def changes(model, step) -> tuple[dict, set[int]]:
    """The means that a step returns, and the rows of the bank that it changed.

    It must have changed every weight that is trained, and neither more nor fewer steps than one.
    """
    variables = model.network.trainable_variables
    bank, before = model.bank.vectors.numpy(), [v.numpy() for v in variables]
    number = int(model.optimizer.iterations)
    means = step()
    assert int(model.optimizer.iterations) == number + 1
    for variable, old in zip(variables, before, strict=True):
        assert (variable.numpy() != old).any(), variable.name
    rows = np.flatnonzero((model.bank.vectors.numpy() != bank).any(axis=1))
    return {name: float(value) for name, value in means.items()}, set(rows)


@pytest.mark.parametrize("block_size", [0, 32])
def test_a_step_is_timed_beside_its_product(monkeypatch, block_size):
    monkeypatch.setattr(step, "K", 40)
    steppers, seen = kept(monkeypatch, step, "_stepper"), []

    def examine(functions):
        product, top_k, neighbours, aggregate, recognise = functions.values()
        (aggregation, _), (recognition, _) = steppers
        bank = aggregation.bank.vectors.numpy()
        similarities = bank[:128] @ bank.T
        np.testing.assert_allclose(product(), similarities, atol=1e-5)
        nearest = np.sort(similarities, axis=1)[:, -40:]
        np.testing.assert_allclose(np.sort(top_k()[0], axis=1), nearest, atol=1e-5)
        # By their values: rounding may decide who is the last.
        found = np.take_along_axis(similarities, neighbours()[1].numpy(), axis=1)
        np.testing.assert_allclose(np.sort(found, axis=1), nearest, atol=1e-5)
        for model, take_step, closest in (
            (aggregation, aggregate, True),
            (recognition, recognise, False),
        ):
            assert model.block_size == block_size
            means, rows = changes(model, take_step)
            assert rows == set(range(128))
            # Instance recognition has no close neighbours.
            assert (means["close_share"] > 0) == closest
        seen.extend(functions)

    examined(monkeypatch, step, examine)
    rows = step.measure(num_examples=300, repetitions=2, block_size=block_size)
    assert [row.name for row in rows] == seen
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


def test_whole_steps_are_timed_beside_a_supervised_one(monkeypatch):
    supervised, models = (
        kept(monkeypatch, train, name) for name in ("build_network", "random_model")
    )

    def examine(functions):
        floor, recognise, aggregate = functions.values()
        (embed,), (recognition, aggregation) = supervised, models
        weights = [v.numpy() for v in embed.trainable_variables]
        # Cross-entropy over 1,000 classes, of a network that knows nothing yet.
        assert floor()["loss"] == pytest.approx(np.log(1000), rel=0.2)
        for variable, old in zip(embed.trainable_variables, weights, strict=True):
            assert (variable.numpy() != old).any(), variable.name
        for model, take_step, closest in (
            (recognition, recognise, False),
            (aggregation, aggregate, True),
        ):
            means, rows = changes(model, take_step)
            assert rows == set(range(8)) and (means["close_share"] > 0) == closest
            assert means["loss"] > 0

    examined(monkeypatch, train, examine)
    rows = train.measure("smallnet", 16, (256,), NumericsConfig(), batch_size=8, repetitions=1)
    floor = "smallnet at 16, supervised"
    assert [(row.name, row.floor, row.items) for row in rows] == [
        (floor, None, 8),
        ("smallnet at 16, IR, N = 256", floor, 8),
        ("smallnet at 16, LA, N = 256", floor, 8),
    ]


@pytest.mark.slow
def test_replicas_are_timed_in_processes_of_their_own():
    rows = scaling.measure((1, 2), repetitions=1)
    assert [(row.name, row.floor, row.items) for row in rows] == [
        ("smallnet at 32, LA, 1 replicas", None, 128),
        ("smallnet at 32, LA, 2 replicas", "smallnet at 32, LA, 1 replicas", 128),
    ]


def test_a_step_of_replicas_is_one_of_local_aggregation_on_all(monkeypatch):
    models = kept(monkeypatch, scaling, "random_model")
    step = scaling.stepper(2)
    (model,) = models
    assert model.distribute_strategy.num_replicas_in_sync == 2
    for count in (1, 2):
        before = model.bank.vectors.numpy()
        loss = step()
        assert model.optimizer.iterations.numpy() == count
        assert set(np.flatnonzero((model.bank.vectors.numpy() != before).any(axis=1))) == set(
            range(128)
        )
        means = {metric.name: metric.result() for metric in model.metrics}
        assert means["loss"] > 0 and loss > 0
        assert means["close_share"] > 0  # in instance recognition nothing is close


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
        median, high = (float(ms) / 1000 for ms in re.findall(r"([\d.]+) ms", row.note))
        assert 0 < median <= high
        if name in calls:
            # One after the other, and half of them as long as the median (which is rounded).
            assert calls[name] * (median - 1e-4) <= sum(row.seconds)


def test_every_picture_is_embedded_once_in_batches_of_the_size():
    seen = []
    latencies = serve._call_in_process(seen.append, list(range(35)), 16)
    assert seen == [list(range(16)), list(range(16, 32)), [32, 33, 34]]
    assert len(latencies) == 3 and min(latencies) >= 0


def test_every_body_is_sent_once_by_so_many_clients():
    lock, sent = threading.Lock(), collections.defaultdict(list)

    class Answer(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                sent[self.client_address].append(body)
            self.send_response(503 if body == b"too much" else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url, bodies = f"http://127.0.0.1:{server.server_port}/", [b"%d" % i for i in range(35)]
        latencies = serve._call_server(url, bodies, 4)
        with pytest.raises(EmbeddingError, match="the server answers 503"):
            serve._call_server(url, [b"too much"], 1)
        server.shutdown()
    *clients, (refused,) = sent.values()
    assert sorted(body for client in clients for body in client) == sorted(bodies)
    assert sorted(map(len, clients)) == [8, 9, 9, 9] and refused == b"too much"
    assert len(latencies) == 35


def test_the_tool_prints_and_writes_what_it_timed(run_tool, tmp_path):
    file = tmp_path / "times.json"
    flags = ("--part=train,step", "--sizes=256,300", "--repetitions=2", f"--json={file}")
    flags += ("--networks=smallnet:16", "--jit_compile")
    flags += ("--mixed_precision",) if has_bfloat16 else ()
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
