"""`train_step` against the paper's equations, written out in NumPy for a linear network."""

import dataclasses
import types

import numpy as np
import pytest
import tensorflow as tf
from imitation import needs_bfloat16
from scipy.special import log_softmax, logsumexp

from la_tf import banked_model
from la_tf.banked_model import decayed_weights
from la_tf.config import ClusteringConfig, ObjectiveConfig
from la_tf.model import LocalAggregation
from la_tf.networks import build_network

N, D, B, K, TAU, MIX = 30, 4, 6, 8, 0.2, 0.5
RATE, MOMENTUM, DECAY = 0.05, 0.9, 0.01
OBJECTIVE = ObjectiveConfig(tau=TAU, k=K, mix=MIX)
LABELS = np.random.default_rng(5).integers(0, 4, (N, 2)).astype(np.float32)


def linear_network() -> tf.keras.Model:
    images = tf.keras.Input((2, 2, 3))
    x = tf.keras.layers.Flatten()(images)
    start = tf.keras.initializers.GlorotUniform(seed=21)
    x = tf.keras.layers.Dense(D, kernel_initializer=start, name="linear")(x)
    return tf.keras.Model(images, tf.keras.layers.UnitNormalization()(x))


def make_model(network, warm_start_steps, objective=OBJECTIVE, **options) -> LocalAggregation:
    model = LocalAggregation(
        network,
        N,
        objective=objective,
        clustering=ClusteringConfig(num_clusterings=2),
        warm_start_steps=warm_start_steps,
        weight_decay=DECAY,
        seed=3,
    )
    model.compile(tf.keras.optimizers.SGD(RATE, momentum=MOMENTUM), **options)
    return model


def batches(steps):
    rng = np.random.default_rng(7)
    return [
        (
            rng.choice(N, B, replace=False).astype(np.int32),
            rng.normal(size=(B, 2, 2, 3)).astype(np.float32),
        )
        for _ in range(steps)
    ]


def dataset(steps):
    indices, views = zip(*batches(steps), strict=True)
    return tf.data.Dataset.from_tensor_slices((np.stack(indices), np.stack(views)))


class PlainTraining:
    """The method in float64 NumPy; gradients by central differences."""

    def __init__(self, kernel, bias, bank, warm_start_steps):
        self.weights = np.concatenate([kernel.ravel(), bias]).astype(np.float64)
        self.velocity = np.zeros_like(self.weights)
        self.decayed = np.arange(len(self.weights)) < kernel.size  # the kernel, not the bias
        self.bank = bank.astype(np.float64)
        self.warm_start_steps = warm_start_steps
        self.step = 0

    def embed(self, weights, views):
        kernel = weights[: 12 * D].reshape(12, D)
        v = views.reshape(B, 12).astype(np.float64) @ kernel + weights[12 * D :]
        return v / np.linalg.norm(v, axis=1, keepdims=True)

    def losses(self, weights, indices, views, background=None):
        v = self.embed(weights, views)
        similarities = v @ self.bank.T
        if self.step < self.warm_start_steps:
            return -log_softmax(similarities / TAU, axis=1)[np.arange(B), indices]
        losses = []
        for i, row, b in zip(indices, similarities, background, strict=True):
            close = [j for j in b if (LABELS[j] == LABELS[i]).any()]
            losses.append(logsumexp(row[b] / TAU) - logsumexp(row[close] / TAU) if close else 0.0)
        return np.array(losses)

    def train(self, indices, views):
        v = self.embed(self.weights, views)
        order = np.argsort(-v @ self.bank.T, axis=1)
        background = order[:, :K]
        nearest = np.take_along_axis(v @ self.bank.T, order, axis=1)
        # Else rounding would decide which row is the k-th.
        assert (nearest[:, K - 1] - nearest[:, K]).min() > 1e-4

        def mean_loss(weights):
            return self.losses(weights, indices, views, background).mean()

        loss, gradient, eps = mean_loss(self.weights), np.zeros_like(self.weights), 1e-5
        for j in range(len(gradient)):
            shift = np.eye(1, len(gradient), j)[0] * eps
            up, down = mean_loss(self.weights + shift), mean_loss(self.weights - shift)
            gradient[j] = (up - down) / (2 * eps)
        gradient += DECAY * self.weights * self.decayed
        self.velocity = MOMENTUM * self.velocity - RATE * gradient
        self.weights = self.weights + self.velocity
        mixed = (1 - MIX) * self.bank[indices] + MIX * v
        self.bank[indices] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
        self.step += 1
        return loss


@pytest.mark.parametrize("jit_compile", [False, True])
def test_ten_steps_over_the_switch_equal_the_equations(jit_compile):
    network = linear_network()
    layer = network.get_layer("linear")
    model = make_model(network, warm_start_steps=4, jit_compile=jit_compile)
    model.cluster_labels.assign(LABELS)
    plain = PlainTraining(layer.kernel.numpy(), layer.bias.numpy(), model.bank.vectors.numpy(), 4)
    for step, batch in enumerate(batches(10)):
        history = model.fit(dataset(10).skip(step).take(1), verbose=0).history
        expected = plain.train(*batch)
        np.testing.assert_allclose(history["loss"], [expected], rtol=1e-4, atol=1e-5)
        weights = np.concatenate([layer.kernel.numpy().ravel(), layer.bias.numpy()])
        np.testing.assert_allclose(weights, plain.weights, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(model.bank.vectors, plain.bank, atol=1e-4)


def test_the_metrics_are_means_of_what_they_say():
    network = linear_network()
    model = make_model(network, warm_start_steps=0)
    labels = np.tile(np.arange(N, dtype=np.float32)[:, np.newaxis], (1, 2))
    labels[10:20] = 10  # one cluster of ten, the rest alone
    model.cluster_labels.assign(labels)
    indices, views = batches(1)[0]
    v = network(views).numpy()
    background = np.argsort(-v @ model.bank.vectors.numpy().T, axis=1)[:, :K]
    close = np.array(
        [labels[b, 0] == labels[i, 0] for i, b in zip(indices, background, strict=True)]
    )
    history = model.fit(dataset(1), verbose=0).history
    np.testing.assert_allclose(history["empty_close"], [1 - close.any(1).mean()], atol=1e-6)
    np.testing.assert_allclose(history["close_share"], [close.mean()], atol=1e-6)
    np.testing.assert_allclose(history["spread"], [v.std(axis=0).mean()], rtol=1e-4)


def test_local_aggregation_before_any_clustering_is_an_error():
    model = make_model(linear_network(), warm_start_steps=0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="add ClusteringCallback"):
        model.fit(dataset(1), verbose=0)


def test_noise_contrastive_warm_start_is_a_function_of_seed_and_step():
    objective = dataclasses.replace(OBJECTIVE, ir_loss="nce", nce_negatives=5)

    def train():
        network = linear_network()
        network.set_weights([np.full((12, D), 0.1) + np.eye(12, D), np.zeros(D)])
        model = make_model(network, warm_start_steps=9, objective=objective)
        losses = [model.fit(dataset(1), verbose=0).history["loss"][0] for _ in range(3)]
        return losses, network.get_weights()[0]

    (losses, weights), (again, weights_again) = train(), train()
    assert losses == again and len(set(losses)) == 3
    np.testing.assert_array_equal(weights, weights_again)


@pytest.mark.parametrize("name", ["alexnet", "resnet18"])
def test_weight_decay_is_on_kernels_alone(name):
    network = build_network(name, 32, 16)
    decayed = {id(v) for v in decayed_weights(network)}
    for variable in network.trainable_variables:
        last = variable.name.split("/")[-1].split(":")[0]
        assert last in ("kernel", "gamma", "beta", "bias")
        assert (id(variable) in decayed) == (last == "kernel"), variable.name
    assert len(decayed) == sum("kernel" in v.name for v in network.trainable_variables)


def test_weights_of_the_bank_and_labels_are_not_trained():
    model = make_model(linear_network(), warm_start_steps=1)
    assert {v.name.split("/")[-1] for v in model.trainable_variables} == {"kernel:0", "bias:0"}


@needs_bfloat16
def test_losses_stay_float32_under_mixed_precision():
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        network = build_network("smallnet", 16, 16)
        model = make_model(network, warm_start_steps=1)
        model.cluster_labels.assign(LABELS)
        views = np.random.default_rng(0).normal(size=(2, B, 16, 16, 3)).astype(np.float32)
        data = tf.data.Dataset.from_tensor_slices((np.tile(np.arange(B), (2, 1)), views))
        history = model.fit(data, verbose=0).history
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert network.get_layer("backbone").get_layer("conv1").compute_dtype == "bfloat16"
    assert network.output.dtype == tf.float32 and model.bank.vectors.dtype == tf.float32
    norms = np.linalg.norm(model.bank.vectors.numpy(), axis=1)
    np.testing.assert_allclose(norms, 1.0, atol=1e-6)
    assert np.isfinite(history["loss"]).all()


def test_waiting_for_data_is_measured(monkeypatch):
    """By a clock of our own, which runs while the data are made and at no other time."""
    clock = [0.0]
    monkeypatch.setattr(banked_model, "time", types.SimpleNamespace(perf_counter=lambda: clock[0]))

    class SlowData:
        """Batches that take two seconds each."""

        def __init__(self, batches):
            self.batches = iter(batches)

        def __next__(self):
            clock[0] += 2.0
            return next(self.batches)

    model = make_model(linear_network(), warm_start_steps=9)
    step = model.make_train_function()
    data = SlowData(dataset(3))
    for number in range(3):
        step(data)
        clock[0] += 100.0  # whatever else takes time
        assert model.seconds_waiting == 2.0 * (number + 1)
