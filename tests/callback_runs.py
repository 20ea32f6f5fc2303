"""Runs of `fit` for tests of callbacks: a small model, its batches, a bystander and a clock."""

import types

import numpy as np
import tensorflow as tf

from la_tf.callbacks.clustering_rounds import ClusteringCallback
from la_tf.callbacks.step_callback import StepCallback
from la_tf.callbacks.train_log import TrainLog
from la_tf.config import ClusteringConfig, ObjectiveConfig
from la_tf.model import LocalAggregation
from la_tf.runs.log import RunLog, read_log

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


def of_kind(log: RunLog, kind: str) -> list[dict]:
    return [record for record in read_log(log.path) if record["kind"] == kind]


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


def train_logger(log, timing, every) -> TrainLog:
    return TrainLog(log=log, timing=timing, every=every, steps_per_epoch=SPE, batch_size=B)
