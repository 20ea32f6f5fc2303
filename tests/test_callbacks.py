"""The callbacks in runs of `fit`, against what a bystander records and NumPy makes of it."""

import math
import signal
import types

import numpy as np
import pytest
import tensorflow as tf

from la_tf import banked_model
from la_tf.callbacks import checkpointing, progress, train_log
from la_tf.callbacks import clustering_rounds as clustering_module
from la_tf.callbacks.checkpointing import Checkpointing, Interrupted
from la_tf.callbacks.clustering_rounds import ClusteringCallback
from la_tf.callbacks.exported_network import ExportedNetwork
from la_tf.callbacks.heldout_knn import KNNCallback
from la_tf.callbacks.milestones import Milestones
from la_tf.callbacks.progress import Progress
from la_tf.callbacks.step_callback import StepCallback
from la_tf.callbacks.train_log import TrainLog
from la_tf.clustering import run_clusterings
from la_tf.config import ClusteringConfig, ObjectiveConfig, OptimizerConfig
from la_tf.errors import RunError
from la_tf.model import LocalAggregation
from la_tf.runs.health import TrainingDiverged
from la_tf.runs.log import RunLog, read_log
from la_tf.schedules import Plateau, learning_rate

N, D, B, H, M = 240, 4, 6, 2, 12
SPE = 4  # steps of an epoch
TAU, RATE = 0.07, 0.05
CLASSES = np.random.default_rng(3).integers(0, 3, N)


def make_model(warm_start_steps=0, *, size=N, layers=1, mix=0.5, rate=RATE) -> LocalAggregation:
    """A linear network that starts from the same weights every time, and labels to begin with."""
    images = tf.keras.Input((2, 2, 3))
    x = tf.keras.layers.Flatten()(images)
    for _ in range(layers):
        x = tf.keras.layers.Dense(D)(x)
    network = tf.keras.Model(images, tf.keras.layers.UnitNormalization()(x))
    rng = np.random.default_rng(11)
    network.set_weights([rng.normal(size=weight.shape) for weight in network.get_weights()])
    model = LocalAggregation(
        network,
        size,
        objective=ObjectiveConfig(tau=TAU, k=16, mix=mix),
        clustering=ClusteringConfig(num_clusterings=H),
        warm_start_steps=warm_start_steps,
        seed=3,
    )
    model.compile(tf.keras.optimizers.SGD(rate, momentum=0.9))
    model.optimizer.build(network.trainable_variables)
    return model


def with_labels(model: LocalAggregation) -> LocalAggregation:
    """Labels for a run of Local Aggregation without ClusteringCallback."""
    model.cluster_labels.assign(np.random.default_rng(5).integers(0, M, (N, H)))
    return model


def fit(model, callbacks, *, epochs, start=0) -> None:
    """Trains from step `start` to the end of the last epoch; a batch is a function of its step."""
    steps = range(start, epochs * SPE)
    rngs = [np.random.default_rng([7, step]) for step in steps]
    indices = np.stack([rng.choice(N, B, replace=False).astype(np.int32) for rng in rngs])
    views = np.stack([rng.normal(size=(B, 2, 2, 3)).astype(np.float32) for rng in rngs])
    data = tf.data.Dataset.from_tensor_slices((indices, views))
    epoch, done = divmod(start, SPE)
    if done:  # the rest of an epoch, then whole ones
        rest = {"initial_epoch": epoch, "epochs": epoch + 1, "steps_per_epoch": SPE - done}
        model.fit(data.take(SPE - done), **rest, callbacks=callbacks, verbose=0)
        data, epoch = data.skip(SPE - done), epoch + 1
    whole = {"initial_epoch": epoch, "epochs": epochs, "steps_per_epoch": SPE}
    model.fit(data, **whole, callbacks=callbacks, verbose=0)


class Bystander(StepCallback):
    """Calls functions of the number of steps done, before and after a step and an epoch."""

    def __init__(self, *, before=None, after=None, at_epoch_end=None):
        super().__init__(SPE)
        self.before, self.after, self.then = before, after, at_epoch_end

    def on_train_batch_begin(self, batch, logs=None):
        if self.before:
            self.before(self.step)

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        if self.after:
            self.after(self.step)

    def on_epoch_end(self, epoch, logs=None):
        if self.then:
            self.then(self.step)


class Clock:
    """Stands in for the module `time` where a callback looks at it; moves when told to."""

    def __init__(self, monkeypatch, *modules):
        self.now = 1000.0
        clock = types.SimpleNamespace(perf_counter=lambda: self.now, monotonic=lambda: self.now)
        for module in modules:
            monkeypatch.setattr(module, "time", clock)

    def wait(self, seconds):
        self.now += seconds


@pytest.fixture
def log(tmp_path):
    return RunLog(tmp_path / "log.jsonl")


@pytest.fixture
def timing(tmp_path):
    return RunLog(tmp_path / "timing.jsonl")


def of_kind(log: RunLog, kind: str) -> list[dict]:
    return [record for record in read_log(log.path) if record["kind"] == kind]


def plain_accuracy(queries, classes, bank, k) -> float:
    """Section 4.2 as it is written: k neighbours vote with exp(s / tau)."""
    right = 0
    for query, class_ in zip(queries.astype(np.float64), classes, strict=True):
        similarity = bank.astype(np.float64) @ query
        votes = dict.fromkeys(CLASSES, 0.0)
        for i in np.argsort(-similarity)[:k]:
            votes[CLASSES[i]] += math.exp(similarity[i] / TAU)
        right += max(votes, key=votes.get) == class_
    return right / len(queries)


# ClusteringCallback


def plain_nmi(a, b) -> float:
    """Mutual information over the mean of the two entropies."""
    joint = np.zeros((M, M))
    np.add.at(joint, (a, b), 1 / len(a))
    rows, columns = joint.sum(1), joint.sum(0)

    def entropy(p):
        return -sum(x * math.log(x) for x in p.ravel() if x > 0)

    information = entropy(rows) + entropy(columns) - entropy(joint)
    return information / ((entropy(rows) + entropy(columns)) / 2)


def clustering(log, timing, **options):
    crops = options.pop("center_crop_embeddings", None)
    config = ClusteringConfig(num_clusters=M, num_clusterings=H, **options)
    return ClusteringCallback(
        config,
        steps_per_epoch=SPE,
        seed=9,
        log=log,
        timing=timing,
        center_crop_embeddings=crops,
    )


@pytest.mark.parametrize(
    "warm_start_steps,every,expected",
    [(4, 0, [4, 8, 12]), (0, 5, [0, 5, 10, 15]), (7, 3, [7, 10, 13]), (16, 1, [])],
)
def test_clusters_are_made_when_due_from_the_bank_of_that_moment(
    log, timing, warm_start_steps, every, expected
):
    model, banks, labels = make_model(warm_start_steps), [], []
    callbacks = [
        Bystander(before=lambda _: banks.append(model.bank.vectors.numpy())),
        clustering(log, timing, cluster_every_steps=every, kmeans_iterations=5),
        Bystander(before=lambda _: labels.append(model.cluster_labels.numpy().T)),
    ]
    fit(model, callbacks, epochs=4)

    rounds = of_kind(log, "clustering")
    assert [r["step"] for r in rounds] == expected
    assert [r["round"] for r in rounds] == list(range(len(expected)))
    assert [r["epoch"] for r in rounds] == [step // SPE + 1 for step in expected]
    current = np.full((H, N), -1)
    for step in range(4 * SPE):
        if step in expected:
            round_ = expected.index(step)
            runs = run_clusterings(banks[step], M, H, seed=9, round_=round_, iterations=5)
            current = np.stack([run.labels for run in runs])
        np.testing.assert_array_equal(labels[step], current)


def test_what_is_not_given_for_clustering_is_the_models():
    model, banks = make_model(2), []
    bystander = Bystander(before=lambda _: banks.append(model.bank.vectors.numpy()))
    fit(model, [bystander, ClusteringCallback()], epochs=2)
    runs = run_clusterings(banks[2 + SPE], N // 5, H, seed=3, round_=1)
    np.testing.assert_array_equal(model.cluster_labels.numpy().T, [run.labels for run in runs])


def test_a_round_is_described_by_its_labels_and_those_before(log, timing):
    model, banks, labels = make_model(SPE), [], []
    callbacks = [
        clustering(log, timing, kmeans_iterations=100),
        Bystander(
            before=lambda _: (
                banks.append(model.bank.vectors.numpy()),
                labels.append(model.cluster_labels.numpy().T.astype(int)),
            )
        ),
    ]
    fit(model, callbacks, epochs=3)
    records = of_kind(log, "clustering")
    for record in records:
        now, bank = labels[record["step"]], banks[record["step"]].astype(np.float64)
        sizes = np.array([[np.sum(row == j) for j in range(M)] for row in now])
        assert record["smallest_cluster"] == sizes.min()
        assert record["largest_cluster"] == sizes.max()
        assert record["empty_clusters"] == np.sum(sizes == 0)
        # After 100 iterations over so few rows, centroids are the means of their members.
        spread = [
            np.sum((bank[row == j] - bank[row == j].mean(0)) ** 2) for row in now for j in set(row)
        ]
        np.testing.assert_allclose(record["inertia"], sum(spread) / H, rtol=1e-3)
    assert "nmi_previous" not in records[0]
    before, now = labels[SPE], labels[2 * SPE]
    expected = np.mean([plain_nmi(a, b) for a, b in zip(before, now, strict=True)])
    np.testing.assert_allclose(records[1]["nmi_previous"], expected, rtol=1e-6)


def test_clusters_that_nothing_is_left_in_are_counted(log, timing):
    model, callback = make_model(), clustering(log, timing)
    three = np.eye(3, D, dtype=np.float32)
    model.bank.vectors.assign(three[np.arange(N) % 3])  # three places for twelve clusters
    callback.set_model(model)
    callback.cluster(0)
    used = sum(len(set(row)) for row in model.cluster_labels.numpy().T)
    (record,) = of_kind(log, "clustering")
    assert used <= 3 * H and record["empty_clusters"] == M * H - used
    assert record["smallest_cluster"] == 0
    assert record["inertia"] == pytest.approx(0, abs=1e-2)


def test_centre_crops_are_clustered_instead_of_the_bank_if_asked(log, timing, unit_rows):
    model, crops = make_model(), unit_rows(N, D, seed=8)
    options = {"cluster_input": "center_crops", "center_crop_embeddings": lambda: crops}
    callback = clustering(log, timing, **options)
    callback.set_model(model)
    callback.cluster(2)
    expected = [run.labels for run in run_clusterings(crops, M, H, seed=9, round_=2)]
    np.testing.assert_array_equal(model.cluster_labels.numpy().T, expected)


def test_what_is_not_finite_is_not_clustered(log, timing):
    model, callback = make_model(), clustering(log, timing)
    vectors = model.bank.vectors.numpy()
    vectors[7, 1] = np.nan
    model.bank.vectors.assign(vectors)
    callback.set_model(model)
    with pytest.raises(TrainingDiverged, match="embeddings"):
        callback.cluster(0)
    assert read_log(log.path) == [] and (model.cluster_labels.numpy().T == -1).all()


def test_the_share_of_a_round_that_clustering_takes_is_logged(log, timing, monkeypatch):
    clock, model = Clock(monkeypatch, clustering_module), make_model(SPE)
    callback = clustering(log, timing)

    def clustering_takes_time(labels, assign=model.cluster_labels.assign):
        clock.wait(6)
        assign(labels)

    monkeypatch.setattr(model.cluster_labels, "assign", clustering_takes_time)
    fit(model, [callback, Bystander(before=lambda step: clock.wait(1 + step))], epochs=3)
    # Steps 0 to 3 take 1 + 2 + 3 + 4 seconds, steps 4 to 7 take 5 + 6 + 7 + 8.
    shares = [(r["step"], r["seconds"], r["share"]) for r in of_kind(timing, "clustering")]
    assert shares == [(4, 6, round(6 / 16, 4)), (8, 6, round(6 / 32, 4))]


# TrainLog


def train_logger(log, timing, every) -> TrainLog:
    return TrainLog(log=log, timing=timing, every=every, steps_per_epoch=SPE, batch_size=B)


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


# KNNCallback


def knn_callback(log, embed, heldout_labels, *, every=1, last, labels=CLASSES, plateau=None):
    return KNNCallback(
        embed_heldout=embed,
        heldout_labels=np.array(heldout_labels),
        train_labels=np.array(labels),
        steps_per_epoch=SPE,
        every_epochs=every,
        last_epoch=last,
        log=log,
        tau=TAU,
        plateau=plateau,
    )


def test_held_out_images_are_classified_by_the_bank_at_the_epochs_that_are_due(log, unit_rows):
    model, banks = with_labels(make_model(2 * SPE)), {}
    heldout_labels = np.random.default_rng(1).integers(0, 3, 40)
    given = iter(range(100))  # every evaluation embeds anew
    callbacks = [
        Bystander(at_epoch_end=lambda step: banks.update({step: model.bank.vectors.numpy()})),
        knn_callback(
            log, lambda: unit_rows(40, D, seed=next(given)), heldout_labels, every=3, last=7
        ),
    ]
    fit(model, callbacks, epochs=7)
    records = of_kind(log, "knn")
    # Every third, the end of the warm start, and the last.
    assert [(r["epoch"], r["step"]) for r in records] == [(2, 8), (3, 12), (6, 24), (7, 28)]
    for i, record in enumerate(records):
        queries, bank = unit_rows(40, D, seed=i), banks[record["step"]]
        assert record["knn200"] == plain_accuracy(queries, heldout_labels, bank, 200)
        assert record["knn1"] == plain_accuracy(queries, heldout_labels, bank, 1)
    assert next(given) == 4
    assert len({(r["knn200"], r["knn1"]) for r in records}) > 1


def test_the_plateau_rule_hears_of_the_many_neighbours_and_the_learning_rate_falls(log, timing):
    """Placed so that K = 1 improves every epoch while K = 200 stays the same."""
    model = with_labels(make_model(mix=0.0))
    here = np.array([1, 0, 0, 0], np.float32)
    beside = np.array([math.cos(0.1), math.sin(0.1), 0, 0], np.float32)
    there = np.array([0, 0, 1, 0], np.float32)
    # Class 1 is there, but for one of its rows, which lies beside all those of class 0.
    model.bank.vectors.assign(np.stack([here] * 119 + [beside] + [there] * 120))
    labels = [0] * 119 + [1] * 121
    rounds = iter(
        np.stack(rows)
        for rows in [
            (here, there, here, here),
            (here, there, beside, here),
            (here, there, beside, beside),
            (here, there, there, beside),
        ]
    )
    plateau = Plateau(model.optimizer, patience=2)
    callbacks = [
        train_logger(log, timing, SPE),
        knn_callback(
            log, lambda: next(rounds), [0, 1, 1, 1], last=4, labels=labels, plateau=plateau
        ),
    ]
    fit(model, callbacks, epochs=4)
    knn = of_kind(log, "knn")
    assert [r["knn1"] for r in knn] == [0.5, 0.75, 1.0, 1.0]
    assert [r["knn200"] for r in knn] == [0.5, 0.5, 0.5, 0.75]
    (drop,) = of_kind(log, "plateau")
    assert (drop["step"], drop["epoch"]) == (3 * SPE, 3)
    np.testing.assert_allclose(drop["learning_rate"], RATE / 10, rtol=1e-6)
    rates = [r["learning_rate"] for r in of_kind(log, "train")]
    np.testing.assert_allclose(rates, [RATE, RATE, RATE, RATE / 10], rtol=1e-6)
    np.testing.assert_allclose(model.optimizer.learning_rate.numpy(), RATE / 10, rtol=1e-6)


# Milestones


@pytest.mark.parametrize(
    "warm_start_epochs,ends",
    [
        (1, [("end of IR", 1), ("end of LA", 3)]),
        (0, [("end of LA", 3)]),
        (3, [("end of IR", 3)]),
    ],
)
def test_milestones_are_the_baselines_and_the_ends_of_the_phases(
    log, unit_rows, warm_start_epochs, ends
):
    heldout_labels = np.random.default_rng(1).integers(0, 3, 40)
    given = iter(range(100))

    def embed():
        seed = next(given)
        return unit_rows(N, D, seed=seed), unit_rows(40, D, seed=50 + seed)

    milestones = Milestones(
        embed=embed,
        raw_pixels=lambda: (unit_rows(N, 12, seed=200), unit_rows(40, 12, seed=201)),
        train_labels=CLASSES,
        heldout_labels=heldout_labels,
        last_epoch=3,
        steps_per_epoch=SPE,
        log=log,
        tau=TAU,
    )
    milestones.before_training()
    fit(with_labels(make_model(warm_start_epochs * SPE)), [milestones], epochs=3)
    rows = of_kind(log, "milestone")
    expected = [("raw pixels", 0), ("untrained network", 0), *ends]
    assert [(r["name"], r["epoch"]) for r in rows] == expected
    assert [r["step"] for r in rows] == [epoch * SPE for _, epoch in expected]
    pairs = [(unit_rows(N, 12, seed=200), unit_rows(40, 12, seed=201))]
    pairs += [(unit_rows(N, D, seed=i), unit_rows(40, D, seed=50 + i)) for i in range(3)]
    for row, (train, heldout) in zip(rows, pairs, strict=False):
        assert row["knn200"] == plain_accuracy(heldout, heldout_labels, train, 200)
        assert row["knn1"] == plain_accuracy(heldout, heldout_labels, train, 1)
    assert next(given) == len(rows) - 1


# The exported network


def test_the_similarity_of_exported_embeddings_is_that_of_all_pairs_at_the_ends_of_phases(
    log, unit_rows
):
    rows = unit_rows(9, D, seed=3) + 0.5
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    callback = ExportedNetwork(
        embed_sample=lambda: rows, last_epoch=3, steps_per_epoch=SPE, log=log
    )
    fit(with_labels(make_model(SPE)), [callback], epochs=3)
    records = of_kind(log, "exported")
    pairs = [a @ b for i, a in enumerate(rows) for b in rows[:i]]
    expected = [pytest.approx(np.mean(pairs), rel=1e-5)] * 2
    assert [record["similarity"] for record in records] == expected
    assert [(r["step"], r["epoch"]) for r in records] == [(SPE, 1), (3 * SPE, 3)]


# Progress


@pytest.mark.parametrize("start,shown", [(0, [1, 11, 16]), (6, [7, 16])])
def test_without_a_terminal_a_line_now_and_then_tells_how_far_the_run_is(
    tmp_path, capsys, monkeypatch, start, shown
):
    clock = Clock(monkeypatch, progress, train_log, banked_model)
    monitor = Progress(4 * SPE, SPE, B)
    log = RunLog(tmp_path / "log.jsonl", [monitor])
    timing = RunLog(tmp_path / "timing.jsonl", [monitor])
    model = with_labels(make_model(SPE))
    model.optimizer.iterations.assign(start)
    callbacks = [
        monitor,
        train_logger(log, timing, 1),
        Bystander(
            before=lambda _: clock.wait(3),  # so 10 steps in the 30 seconds between two lines
            at_epoch_end=lambda step: log.write(
                "knn", step, step // SPE, knn200=0.5, knn1=step / 80
            ),
        ),
    ]
    fit(model, callbacks, epochs=4, start=start)
    monitor.close()
    expected = []
    for step in shown:
        (record,) = [r for r in of_kind(log, "train") if r["step"] == step]
        epoch = step // SPE if step == 16 else (step - 1) // SPE  # the last one evaluated
        knn = 0 if start and step == start + 1 else epoch * SPE / 80
        expected.append(
            f"step {step}/16  epoch {(step - 1) // SPE + 1}"
            f"  loss {'IR' if step <= SPE else 'LA'} {record['loss']:.3f}"
            + (
                f"  kNN in the bank (K = 200 / 1) 50.0 / {100 * knn:.1f} % after epoch {epoch}"
                if knn
                else ""
            )
            + f"  images/s 2  wait 0%  left 00:{3 * (16 - step):02}"
        )
    output = capsys.readouterr()
    assert output.out.splitlines() == expected
    assert output.err == ""


def test_what_is_said_without_a_terminal_is_a_plain_line(capsys):
    Progress(4 * SPE, SPE, B).say("resuming.")
    assert capsys.readouterr().out == "resuming.\n"


# Checkpointing


def checkpoints(model, folder, log, *, every_steps=0, every_minutes=0, keep=3, **more):
    return Checkpointing(
        model,
        folder / "checkpoints",
        log=log,
        steps_per_epoch=SPE,
        every_steps=every_steps,
        every_minutes=every_minutes,
        keep=keep,
        **more,
    )


@pytest.mark.parametrize("every_steps,every_minutes", [(3, 0), (0, 10)])
def test_checkpoints_come_by_step_or_by_time_and_the_newest_are_kept(
    tmp_path, log, monkeypatch, every_steps, every_minutes
):
    clock, newest, folder = Clock(monkeypatch, checkpointing), [], tmp_path / "checkpoints"

    def look(_):
        name = tf.train.latest_checkpoint(str(folder))
        if name and name.split("-")[-1] not in newest:
            newest.append(name.split("-")[-1])

    def start():
        model = with_labels(make_model(SPE))
        due = {"every_steps": every_steps, "every_minutes": every_minutes}
        saver = checkpoints(model, tmp_path, log, keep=2, **due)
        waits = Bystander(before=lambda _: clock.wait(4 * 60))  # 10 minutes are over in 3 steps
        return model, saver, [waits, saver, Bystander(after=look, at_epoch_end=look)]

    model, _, callbacks = start()
    fit(model, callbacks, epochs=3)
    assert newest == ["3", "6", "9", "12"]
    assert {path.name for path in folder.glob("*.index")} == {"ckpt-9.index", "ckpt-12.index"}
    model, saver, callbacks = start()
    assert saver.restore() == 12
    fit(model, callbacks, epochs=5, start=12)
    assert newest[4:] == ["15", "18"]
    assert {path.name for path in folder.glob("*.index")} == {"ckpt-15.index", "ckpt-18.index"}


def test_without_a_checkpoint_there_is_nothing_to_restore(tmp_path, log):
    log.write("train", 1, 1)
    assert checkpoints(make_model(), tmp_path, log).restore() is None
    assert len(read_log(log.path)) == 1


@pytest.fixture
def signals():
    """The signals that reach the handlers of before the run; they end no process here."""
    reached = []
    stops = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {s: signal.signal(s, lambda number, _: reached.append(number)) for s in stops}
    mine = {s: signal.getsignal(s) for s in stops}
    yield reached
    after = {s: signal.getsignal(s) for s in stops}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == mine  # the run has put them back


@pytest.mark.parametrize("signum,step", [(signal.SIGTERM, 6), (signal.SIGINT, 2 * SPE)])
def test_a_signal_saves_the_run_and_a_new_start_ends_as_if_there_had_been_none(
    tmp_path, timing, signals, signum, step
):
    def start(name, stop=None):
        """A model, its callbacks, and the step it stands at."""
        (tmp_path / name).mkdir(exist_ok=True)
        log, model = RunLog(tmp_path / name / "log.jsonl"), make_model(SPE)
        saver = checkpoints(model, tmp_path / name, log)
        callbacks = [
            clustering(log, timing),
            train_logger(log, timing, SPE),  # so step 6 lies in the middle of a window
            Bystander(
                after=stop,
                at_epoch_end=lambda step: log.write("knn", step, step // SPE, knn1=0.5),
            ),
            saver,
        ]
        return model, callbacks, saver.restore()

    def send(done):
        if done == step:
            signal.raise_signal(signum)

    straight, callbacks, _ = start("straight")
    fit(straight, callbacks, epochs=4)
    model, callbacks, _ = start("stopped", stop=send)
    stopped = pytest.raises(Interrupted, match=f"{signum.name} after step {step}$")
    with stopped as caught, callbacks[-1].listening():
        fit(model, callbacks, epochs=4)
    assert (caught.value.signum, caught.value.step) == (signum, step)
    saved = [variable.numpy() for variable in model.variables]
    records = read_log(tmp_path / "stopped" / "log.jsonl")
    # A record that no checkpoint knows of, as before a kill between two checkpoints.
    RunLog(tmp_path / "stopped" / "log.jsonl").write("train", 99, 9, loss=9.0)

    resumed, callbacks, restored = start("stopped")
    assert restored == step
    for variable, value in zip(resumed.variables, saved, strict=True):
        np.testing.assert_array_equal(variable, value, err_msg=variable.name)
    assert read_log(tmp_path / "stopped" / "log.jsonl") == records
    fit(resumed, callbacks, epochs=4, start=step)
    for a, b in zip(straight.variables, resumed.variables, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, err_msg=a.name)
    expected = read_log(tmp_path / "straight" / "log.jsonl")
    got = read_log(tmp_path / "stopped" / "log.jsonl")
    assert len(got) == len(expected) == 4 + 4 + 3
    for a, b in zip(got, expected, strict=True):
        words = {name: value for name, value in b.items() if isinstance(value, str)}
        assert {name: a.pop(name) for name in words} == words
        numbers = {name: value for name, value in b.items() if name not in words}
        assert a == pytest.approx(numbers, rel=1e-4, abs=1e-6)
    assert signals == []


def test_a_second_signal_is_not_held_back(tmp_path, log, signals):
    model = with_labels(make_model(SPE))

    def insist(step):
        if step == 2:
            signal.raise_signal(signal.SIGINT)
            assert signals == []
            signal.raise_signal(signal.SIGINT)
            assert signals == [signal.SIGINT]

    saver = checkpoints(model, tmp_path, log)
    with pytest.raises(Interrupted), saver.listening():
        fit(model, [Bystander(after=insist), saver], epochs=1)


def test_a_run_that_ends_by_itself_gives_the_signals_back(tmp_path, log, signals):
    model, before = with_labels(make_model(SPE)), signal.getsignal(signal.SIGTERM)
    seen = []
    saver = checkpoints(model, tmp_path, log)
    watch = Bystander(after=lambda _: seen.append(signal.getsignal(signal.SIGTERM)))
    with saver.listening():
        fit(model, [saver, watch], epochs=1)
    assert before not in seen and signals == []  # the fixture sees that they are back


def test_a_signal_after_the_last_step_stops_the_run_once_it_is_saved(tmp_path, log, signals):
    model = with_labels(make_model(SPE))
    saver = checkpoints(model, tmp_path, log)
    with pytest.raises(Interrupted, match=f"after step {SPE}$"), saver.listening():
        fit(model, [saver], epochs=1)
        signal.raise_signal(signal.SIGTERM)
        saver.finish()
    assert checkpoints(make_model(SPE), tmp_path, log).restore() == SPE


def test_a_closed_terminal_saves_the_run_unless_the_caller_ignores_that(tmp_path, log, signals):
    hung_up = Bystander(after=lambda step: step == 2 and signal.raise_signal(signal.SIGHUP))
    model = with_labels(make_model(SPE))
    saver = checkpoints(model, tmp_path, log)
    with pytest.raises(Interrupted, match="SIGHUP after step 2"), saver.listening():
        fit(model, [hung_up, saver], epochs=1)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
    try:
        model = with_labels(make_model(SPE))
        saver = checkpoints(model, tmp_path / "nohup", log)
        with saver.listening():
            fit(model, [hung_up, saver], epochs=1)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_signals_are_given_back_whatever_ends_the_run(tmp_path, log, signals):
    with pytest.raises(KeyError), checkpoints(make_model(), tmp_path, log).listening():
        signal.raise_signal(signal.SIGTERM)
        raise KeyError
    assert signals == []
    signal.raise_signal(signal.SIGTERM)
    assert signals == [signal.SIGTERM]


def test_one_of_several_workers_saves_by_steps_alone_and_leaves_signals_be(
    tmp_path, log, signals, monkeypatch
):
    """Clocks and signals differ from worker to worker, and saving needs all of them at once."""
    clock, model = Clock(monkeypatch, checkpointing), with_labels(make_model(SPE))
    saver = checkpoints(model, tmp_path, log, every_minutes=1, alone=False)
    with saver.listening():
        signal.raise_signal(signal.SIGTERM)
        assert signals == [signal.SIGTERM]
        fit(model, [Bystander(before=lambda _: clock.wait(300)), saver], epochs=2)
    kept = {path.name for path in (tmp_path / "checkpoints").glob("*.index")}
    assert kept == {f"ckpt-{SPE}.index", f"ckpt-{2 * SPE}.index"}


def test_weights_that_are_no_numbers_are_never_saved(tmp_path, log):
    model = with_labels(make_model(SPE))
    saver = checkpoints(model, tmp_path, log)
    saver.save()
    fit(model, [saver], epochs=1)
    weight = model.network.trainable_variables[0]
    weight.assign(weight / 0.0)
    with pytest.raises(TrainingDiverged, match=f"between step 0 and step {SPE}"):
        saver.save()
    assert checkpoints(make_model(SPE), tmp_path, log).restore() == 0


def smaller_bank(**state):
    return make_model(size=N - 1), state


def deeper_network(**state):
    return make_model(layers=2), state


def watched(**state):
    model = make_model()
    return model, {"plateau": Plateau(model.optimizer, 2)}


def refused(tmp_path, log, model, **state):
    log.write("train", 5, 2, loss=0.5)
    with pytest.raises(RunError, match="cannot be restored") as caught:
        checkpoints(model, tmp_path, log, **state).restore()
    assert str(tmp_path / "checkpoints" / "ckpt-0") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(read_log(log.path)) == 1  # not cut to the length that the checkpoint holds


@pytest.mark.parametrize("other", [smaller_bank, deeper_network, watched])
def test_a_checkpoint_of_another_model_is_refused_both_ways(tmp_path, other):
    for name, models in (("there", 1), ("back", -1)):
        (tmp_path / name).mkdir()
        (stored, stored_state), (wanted, state) = [(make_model(), {}), other()][::models]
        log = RunLog(tmp_path / name / "log.jsonl")
        checkpoints(stored, tmp_path / name, log, **stored_state).save()
        refused(tmp_path / name, log, wanted, **state)


def test_a_checkpoint_with_labels_of_an_earlier_version_is_refused_in_words(tmp_path, log):
    labels = tf.Variable(tf.zeros([H, N], tf.int32))
    earlier = tf.train.Checkpoint(model=tf.train.Checkpoint(cluster_labels=labels))
    earlier.write(str(tmp_path / "checkpoints" / "ckpt-0"))
    with pytest.raises(RunError, match="ckpt-0 was written by an earlier version: finish"):
        checkpoints(make_model(), tmp_path, log).restore()


def test_statistics_that_are_not_finite_are_not_saved(tmp_path, log):
    """The loss of a step may be finite where a moving variance has overflowed."""
    model = make_model()
    norm = tf.keras.layers.BatchNormalization()
    model.network = tf.keras.Sequential([model.network, norm])
    norm.moving_variance.assign(tf.fill([D], np.inf))
    with pytest.raises(TrainingDiverged, match="variance"):
        checkpoints(model, tmp_path, log).save()
    assert not list(tmp_path.glob("checkpoints/*"))


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)


@pytest.mark.parametrize(
    "part,damage",
    [("data", cut), ("data", flip), ("index", cut), ("index", flip)],
)
def test_a_damaged_checkpoint_is_refused(tmp_path, log, part, damage):
    checkpoints(make_model(), tmp_path, log).save()
    (file,) = (tmp_path / "checkpoints").glob(f"ckpt-0.{part}*")
    damage(file)
    refused(tmp_path, log, make_model())


@pytest.mark.parametrize("part", ["data", "index"])
def test_checkpoints_that_are_gone_are_missed(tmp_path, log, part):
    checkpoints(make_model(), tmp_path, log).save()
    (file,) = (tmp_path / "checkpoints").glob(f"ckpt-0.{part}*")
    file.unlink()
    log.write("train", 5, 2, loss=0.5)
    with pytest.raises(RunError, match="are gone: restore one"):
        checkpoints(make_model(), tmp_path, log).restore()
    assert len(read_log(log.path)) == 1


def test_without_the_newest_checkpoint_the_run_goes_on_from_an_older_one(tmp_path, log):
    """What the message about a damaged one advises."""
    model = with_labels(make_model(SPE))
    saver = checkpoints(model, tmp_path, log, every_steps=3)
    fit(model, [train_logger(log, log, 1), saver], epochs=2)
    for file in (tmp_path / "checkpoints").glob("ckpt-6.*"):
        file.unlink()
    assert checkpoints(make_model(SPE), tmp_path, log).restore() == 3
    assert [r["step"] for r in of_kind(log, "train")] == [1, 2, 3]


def test_a_run_whose_checkpoints_are_all_gone_does_not_begin_again(tmp_path, log):
    checkpoints(make_model(), tmp_path, log).save()
    log.write("train", 5, 2, loss=0.5)
    for file in (tmp_path / "checkpoints").glob("ckpt-0.*"):
        file.unlink()
    with pytest.raises(RunError, match="are gone"):
        checkpoints(make_model(), tmp_path, log).restore()
    assert len(read_log(log.path)) == 1


def test_where_nothing_can_be_written_the_error_is_one_sentence(tmp_path, log):
    saver = checkpoints(make_model(), tmp_path, log)
    (tmp_path / "checkpoints").write_text("not a folder")
    with pytest.raises(RunError, match="no checkpoint could be written to") as caught:
        saver.save()
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
