"""DeepCluster and supervised training, against the same written out in NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax
from sklearn.decomposition import PCA

from la_tf.banked_model import decayed_weights
from la_tf.baselines.deepcluster import TOP_STDDEV, DeepCluster, balanced_weights
from la_tf.baselines.supervised import Supervised
from la_tf.baselines.whitening import pca_whitened
from la_tf.callbacks.deepcluster_rounds import DeepClusterCallback
from la_tf.clustering import run_clusterings
from la_tf.config import ClusteringConfig
from la_tf.networks import build_network, top_features
from la_tf.runs.health import TrainingDiverged
from la_tf.runs.log import RunLog, read_log

N, D, B, C, MIX = 30, 4, 6, 5, 0.5
RATE, MOMENTUM, DECAY, TOP_RATE, DROP_AFTER = 0.05, 0.9, 0.01, 3.0, 3
SHARED = {"mix": MIX, "weight_decay": DECAY, "seed": 3}
LABELS = np.random.default_rng(5).integers(0, C, N).astype(np.int32)
LABELS[:C] = range(C)  # of each at least one


def linear_network(dim: int = D) -> tf.keras.Model:
    images = tf.keras.Input((2, 2, 3))
    x = tf.keras.layers.Flatten()(images)
    start = tf.keras.initializers.GlorotUniform(seed=21)
    x = tf.keras.layers.Dense(dim, kernel_initializer=start, name="linear")(x)
    return tf.keras.Model(images, tf.keras.layers.UnitNormalization(name="unit")(x))


def compiled(model, **options):
    """With a learning rate that falls tenfold after some steps."""
    rate = tf.keras.optimizers.schedules.PiecewiseConstantDecay([DROP_AFTER - 1], [RATE, RATE / 10])
    model.compile(tf.keras.optimizers.SGD(rate, momentum=MOMENTUM), **options)
    model.optimizer.build(model.optimized_weights)
    return model


def supervised(**options) -> Supervised:
    return compiled(Supervised(linear_network(), LABELS, **SHARED), **options)


def deepcluster(**options) -> DeepCluster:
    """In its first round."""
    network = linear_network()
    model = DeepCluster(network, N, num_clusters=C + 1, top_rate=TOP_RATE, **SHARED)
    model.cluster_labels.assign(LABELS[:, np.newaxis])  # the last cluster is empty
    model.begin_round(0)
    return compiled(model, **options)


def batches(steps):
    rng = np.random.default_rng(7)
    indices = np.stack([rng.choice(N, B, replace=False).astype(np.int32) for _ in range(steps)])
    return indices, rng.normal(size=(steps, B, 2, 2, 3)).astype(np.float32)


class PlainTraining:
    """Both methods in float64 NumPy, with the gradients worked out by hand."""

    def __init__(self, model, relu: bool, plain_top: bool, importance):
        linear = model.network.get_layer("linear")
        layers = (linear, model.classifier)
        # Kernel and bias of the network, then of the layer on top.
        self.weights = [w.numpy().astype(np.float64) for layer in layers for w in layer.weights]
        self.velocities = [np.zeros_like(w) for w in self.weights]
        self.bank = model.bank.vectors.numpy().astype(np.float64)
        self.relu, self.plain_top, self.importance = relu, plain_top, importance
        self.step = 0

    def train(self, indices, views):
        kernel, bias, top, top_bias = self.weights
        x = views.reshape(B, 12).astype(np.float64)
        f = x @ kernel + bias
        h = np.maximum(f, 0) if self.relu else f
        log_p, targets = log_softmax(h @ top + top_bias, axis=1), LABELS[indices]
        importance = self.importance[targets]
        loss = -(importance * log_p[np.arange(B), targets]).mean()
        right = (log_p.argmax(1) == targets).mean()
        d_logits = np.exp(log_p)
        d_logits[np.arange(B), targets] -= 1
        d_logits *= importance[:, np.newaxis] / B
        d_f = d_logits @ top.T * ((f > 0) if self.relu else 1)
        gradients = [
            x.T @ d_f + DECAY * kernel,
            d_f.sum(0),
            h.T @ d_logits + DECAY * top,
            d_logits.sum(0),
        ]
        rate = RATE / (1 if self.step < DROP_AFTER else 10)
        for j, gradient in enumerate(gradients):
            if j >= 2 and self.plain_top:
                self.weights[j] = self.weights[j] - TOP_RATE * rate * gradient
                continue
            self.velocities[j] = MOMENTUM * self.velocities[j] - rate * gradient
            self.weights[j] = self.weights[j] + self.velocities[j]
        v = f / np.linalg.norm(f, axis=1, keepdims=True)
        mixed = (1 - MIX) * self.bank[indices] + MIX * v
        self.bank[indices] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
        self.step += 1
        return loss, right, v.std(axis=0).mean()


def uniform_over_clusters():
    """The weights of losses, written out: of C clusters with images, each counts the same."""
    return np.array([N / (C * np.sum(j == LABELS)) for j in range(C)])


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("make", [supervised, deepcluster])
def test_steps_over_a_drop_of_the_rate_equal_numpy(make, jit_compile):
    model = make(jit_compile=jit_compile)
    if make is supervised:
        plain = PlainTraining(model, relu=False, plain_top=False, importance=np.ones(C))
    else:
        plain = PlainTraining(model, relu=True, plain_top=True, importance=uniform_over_clusters())
    indices, views = batches(6)
    data = tf.data.Dataset.from_tensor_slices((indices, views))
    for step in range(6):
        history = model.fit(data.skip(step).take(1), verbose=0).history
        expected = plain.train(indices[step], views[step])
        got = [history[name][0] for name in ("loss", "accuracy", "spread")]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
        layers = (model.network.get_layer("linear"), model.classifier)
        weights = [w for layer in layers for w in layer.weights]
        for weight, value in zip(weights, plain.weights, strict=True):
            np.testing.assert_allclose(weight, value, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(model.bank.vectors, plain.bank, atol=1e-5)


def test_decay_is_on_the_kernels_of_network_and_top_layer_each_once():
    network = build_network("smallnet", 16, 8)
    model = Supervised(network, LABELS, **SHARED)
    expected = {id(v) for v in network.trainable_variables if "kernel" in v.name}
    assert len(expected) == 6
    decayed = [id(v) for v in decayed_weights(model)]
    assert sorted(decayed) == sorted([*expected, id(model.classifier.kernel)])


def test_features_are_what_the_embeddings_are_the_unit_vectors_of():
    network = build_network("smallnet", 16, 8)
    views = np.random.default_rng(0).normal(size=(B, 16, 16, 3)).astype(np.float32)
    features = top_features(network)(views).numpy()
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    assert np.abs(norms - 1).min() > 1e-3
    np.testing.assert_allclose(network(views), features / norms, atol=1e-6)


def test_deepcluster_before_any_clustering_is_an_error():
    model = compiled(DeepCluster(linear_network(), N, num_clusters=C, top_rate=1.0, **SHARED))
    with pytest.raises(tf.errors.InvalidArgumentError, match="add DeepClusterCallback"):
        model.fit(tf.data.Dataset.from_tensor_slices(batches(1)), verbose=0)


def test_weighted_losses_have_the_mean_of_images_drawn_uniformly_over_clusters():
    sizes = np.array([7, 0, 1, 22])
    labels, losses = np.repeat(range(4), sizes), np.random.default_rng(2).random(30)
    drawn = np.mean([losses[labels == j].mean() for j in (0, 2, 3)])
    weighted = (balanced_weights(sizes)[labels] * losses).mean()
    np.testing.assert_allclose(weighted, drawn, rtol=1e-6)
    assert balanced_weights(sizes)[1] == 0


@pytest.mark.parametrize("dim,kept", [(3, 3), (256, 8)])
def test_whitening_is_that_of_scikit_learn_up_to_signs(dim, kept):
    rng = np.random.default_rng(1)
    turn, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    # Deviations of 1 to 8: which component comes when is no matter of rounding.
    features = (rng.normal(size=(200, 8)) * range(1, 9) @ turn + 5).astype(np.float32)
    rows = pca_whitened(features, dim)
    assert rows.dtype == np.float32
    expected = PCA(kept, whiten=True).fit_transform(features.astype(np.float64))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    signs = np.sign((rows * expected).sum(axis=0))
    np.testing.assert_allclose(rows * signs, expected, atol=1e-4)


def test_a_feature_that_is_the_same_for_all_images_does_not_matter():
    features = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)
    constant = np.concatenate([features, np.full((50, 1), 7.3, np.float32)], axis=1)
    expected, got = pca_whitened(features, 3), pca_whitened(constant, 4)
    np.testing.assert_allclose(got @ got.T, expected @ expected.T, atol=1e-3)


def callback_for(model, log, features) -> DeepClusterCallback:
    callback = DeepClusterCallback(
        ClusteringConfig(num_clusters=C, num_clusterings=1, cluster_input="center_crops"),
        pca_dim=2,
        steps_per_epoch=5,
        seed=9,
        log=log,
        timing=log,
        center_crop_embeddings=lambda: features,
    )
    callback.set_model(model)
    return callback


def test_a_round_has_the_clusters_of_the_features_their_weights_and_a_new_layer(tmp_path):
    features = np.random.default_rng(4).normal(size=(N, D)).astype(np.float32)
    model, tops = DeepCluster(linear_network(), N, num_clusters=C, top_rate=1.0, **SHARED), []
    callback = callback_for(compiled(model), RunLog(tmp_path / "log"), features)
    model.classifier.bias.assign(tf.ones([C]))
    for round_ in (0, 1, 0):
        callback.cluster(round_)
        (run,) = run_clusterings(pca_whitened(features, 2), C, 1, seed=9, round_=round_)
        np.testing.assert_array_equal(model.cluster_labels.numpy()[:, 0], run.labels)
        used = len(set(run.labels))
        expected = [N / (used * size) if size else 0 for size in run.sizes]
        np.testing.assert_allclose(model.cluster_weights, expected, rtol=1e-6)
        np.testing.assert_array_equal(model.classifier.bias, np.zeros(C))
        tops.append(model.classifier.kernel.numpy())
    assert (tops[0] == tops[2]).all() and (tops[0] != tops[1]).all()
    assert [r["round"] for r in read_log(tmp_path / "log") if "round" in r] == [0, 1, 0]


def test_a_new_layer_has_weights_of_the_size_that_it_should():
    """20,000 draws know their standard deviation to half a percent."""
    model = DeepCluster(linear_network(100), N, num_clusters=200, top_rate=1.0, **SHARED)
    model.cluster_labels.assign(LABELS[:, np.newaxis])
    model.begin_round(0)
    kernel = model.classifier.kernel.numpy()
    np.testing.assert_allclose(kernel.std(), TOP_STDDEV, rtol=0.03)
    assert abs(kernel.mean()) < 0.03 * TOP_STDDEV


def test_features_that_are_not_finite_are_not_clustered(tmp_path):
    features = np.full((N, D), np.nan, np.float32)
    model = compiled(DeepCluster(linear_network(), N, num_clusters=C, top_rate=1.0, **SHARED))
    callback = callback_for(model, RunLog(tmp_path / "log"), features)
    with pytest.raises(TrainingDiverged, match="embeddings"):
        callback.cluster(0)
    assert (model.cluster_labels.numpy() == -1).all()
