"""The log of training, against the losses and times of single steps."""

import numpy as np
from callback_runs import (
    RATE,
    SPE,
    TAU,
    B,
    Bystander,
    Clock,
    N,
    fit,
    make_model,
    of_kind,
    train_logger,
    with_labels,
)

from la_tf import banked_model
from la_tf.callbacks import train_log
from la_tf.config import OptimizerConfig
from la_tf.runs.log import RunLog, read_log
from la_tf.schedules import learning_rate

MEANS = ("loss", "empty_close", "close_share", "spread")


def test_a_record_holds_the_means_over_the_steps_since_the_last(tmp_path, timing):
    logs = {every: RunLog(tmp_path / f"every{every}.jsonl") for every in (1, 3)}
    for every, log in logs.items():
        fit(with_labels(make_model(SPE)), [train_logger(log, timing, every)], epochs=3)
    single = {r["step"]: r for r in of_kind(logs[1], "train")}
    assert list(single) == list(range(1, 13))
    assert len({r["loss"] for r in single.values()}) == 12
    records = of_kind(logs[3], "train")
    assert [(r["step"], r["steps"]) for r in records] == [
        (3, 3), (4, 1), (7, 3), (8, 1), (11, 3), (12, 1)
    ]  # fmt: skip
    for record in records:
        window = [single[record["step"] - i] for i in range(record["steps"])]
        for name in MEANS:
            expected = np.mean([r[name] for r in window])
            np.testing.assert_allclose(record[name], expected, rtol=1e-5, err_msg=name)
        assert {record["phase"]} == {r["phase"] for r in window}
        assert {record["epoch"]} == {r["epoch"] for r in window}
    assert [r["phase"] for r in records] == ["IR"] * 2 + ["LA"] * 4
    assert [r["epoch"] for r in records] == [1, 1, 2, 2, 3, 3]
    assert all(r["close_share"] > 0 for r in records[2:])


def test_a_single_step_s_loss_is_that_of_the_equation(log, timing):
    """The first step of instance recognition, whose embeddings NumPy can compute."""
    model, seen = make_model(SPE), []
    kernel, bias = (w.astype(np.float64) for w in model.network.get_weights())
    bank = model.bank.vectors.numpy().astype(np.float64)
    rng = np.random.default_rng([7, 0])  # as `fit` draws step 0
    indices, views = rng.choice(N, B, replace=False), rng.normal(size=(B, 2, 2, 3))
    fit(model, [train_logger(log, timing, 1), Bystander(after=seen.append)], epochs=1)
    v = views.reshape(B, 12) @ kernel + bias
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    logits = v @ bank.T / TAU
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(B), indices]
    first = of_kind(log, "train")[0]
    np.testing.assert_allclose(first["loss"], losses.mean(), rtol=1e-4)
    np.testing.assert_allclose(first["spread"], v.std(0).mean(), rtol=1e-4)
    assert (first["empty_close"], first["close_share"]) == (0, 0)  # nothing is close yet
    assert seen == [1, 2, 3, 4]


def test_a_record_s_learning_rate_is_the_one_its_steps_were_made_with(log, timing):
    config = OptimizerConfig(learning_rate=RATE, drop_epochs=(1, 2))
    model = make_model(3 * SPE, rate=learning_rate(config, SPE))
    fit(model, [train_logger(log, timing, 2)], epochs=3)
    rates = [r["learning_rate"] for r in of_kind(log, "train")]
    expected = [RATE] * 2 + [RATE / 10] * 2 + [RATE / 100] * 2
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_speed_and_waiting_are_those_of_steps_and_not_of_what_goes_on_between(
    log, timing, monkeypatch
):
    clock, model = Clock(monkeypatch, train_log, banked_model), make_model(SPE)

    def step_takes_time(step):
        clock.wait(0.25 + step)
        model.seconds_waiting += 0.05 + step / 10

    callbacks = [
        Bystander(before=lambda _: clock.wait(100)),  # such as a clustering
        train_logger(log, timing, 3),
        Bystander(before=step_takes_time, after=lambda _: clock.wait(100)),  # such as a checkpoint
    ]
    fit(model, callbacks, epochs=1)
    assert read_log(timing.path) == [
        {
            "kind": "throughput",
            "step": step,
            "epoch": 1,
            "images_per_second": round(images / seconds, 1),
            "data_wait_share": round(waited / seconds, 4),
        }
        for step, images, seconds, waited in [
            (3, 3 * B, 0.25 + 1.25 + 2.25, 0.05 + 0.15 + 0.25),
            (4, B, 3.25, 0.35),
        ]
    ]
