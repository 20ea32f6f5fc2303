"""Linear readouts: what is trained and what is not, the step, and ten-crop validation."""

import numpy as np
import pytest
import tensorflow as tf

from la_tf.data.base import Source
from la_tf.data.crops import ten_crop_views
from la_tf.evaluation.linear import (
    MAX_FEATURES,
    Readouts,
    layer_features,
    pixel_features,
    ten_crop_accuracy,
    train_step,
)
from la_tf.networks import build_network, readouts


class Pictures(Source):
    """Encoded pictures in memory."""

    def __init__(self, encoded, labels, class_names):
        super().__init__("pictures", len(encoded), np.array(labels), class_names)
        self._encoded = tf.constant(encoded)

    def describe(self, i):
        return f"picture {i}"

    def load(self, index):
        return tf.gather(self._encoded, index)


def test_maps_are_pooled_until_they_are_small_enough():
    """AlexNet at 224: conv1 from 54 to 27 pixels, conv2 from 26 to 13, the others as they are."""
    features = layer_features(build_network("alexnet", 224))
    widths = [features.output[f"conv{i}"].shape[1] for i in range(1, 6)]
    assert widths == [27 * 27 * 64, 13 * 13 * 192, 12 * 12 * 384, 12 * 12 * 384, 12 * 12 * 256]


def test_a_pixel_with_too_many_channels_is_the_least_there_is():
    features = layer_features(build_network("smallnet", 16), max_features=40)
    assert [features.output[f"conv{i}"].shape[1] for i in range(1, 6)] == [32, 64, 128, 128, 256]


@pytest.mark.parametrize("name", ["resnet18", "vgg16"])
def test_no_readout_has_more_features_than_it_may(name):
    network = build_network(name, 224)
    features = layer_features(network)
    for tensor, flat in zip(readouts(network).values(), features.output.values(), strict=True):
        assert flat.shape[1] <= MAX_FEATURES
        # Not pooled further than needed: at one pixel less a square, it would be too large.
        assert flat.shape[1] == np.prod(tensor.shape[1:]) or flat.shape[1] > MAX_FEATURES / 4


def test_pooled_features_are_means_over_squares():
    features = pixel_features(224)  # 224 * 224 * 3 > 100,000: by 2
    images = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype(np.float32)
    expected = images.reshape(2, 112, 2, 112, 2, 3).mean(axis=(2, 4)).reshape(2, -1)
    np.testing.assert_allclose(features(images)["pixels"], expected, atol=1e-6)


def linear_problem():
    """Readouts on 4 x 4 pixels, with weights that are not zero."""
    trained = Readouts(pixel_features(4), 3)
    rng = np.random.default_rng(0)
    layer = trained.dense["pixels"]
    layer.set_weights([0.1 * rng.normal(size=w.shape) for w in layer.get_weights()])
    features = rng.normal(size=(6, 48)).astype(np.float32)
    labels = rng.integers(0, 3, 6).astype(np.int32)
    return trained, layer, features, labels


def test_a_step_is_the_gradient_of_cross_entropy_and_decay_written_out():
    trained, layer, features, labels = linear_problem()
    kernel, bias = (w.astype(np.float64) for w in layer.get_weights())
    optimizer = tf.keras.optimizers.SGD(0.5, momentum=0.9)
    optimizer.build(trained.weights)
    velocity_w, velocity_b = np.zeros_like(kernel), np.zeros_like(bias)
    for _ in range(3):
        logits = features @ kernel + bias
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        expected_loss = -np.log(p[np.arange(6), labels]).mean()
        error = (p - np.eye(3)[labels]) / 6
        velocity_w = 0.9 * velocity_w - 0.5 * (features.T @ error + 0.01 * kernel)
        velocity_b = 0.9 * velocity_b - 0.5 * error.sum(0)
        kernel, bias = kernel + velocity_w, bias + velocity_b
        losses = train_step(trained, optimizer, 0.01, 6, {"pixels": features}, labels)
        np.testing.assert_allclose(losses["pixels"], expected_loss, rtol=1e-5)
    got_kernel, got_bias = layer.get_weights()
    np.testing.assert_allclose(got_kernel, kernel, atol=1e-5)
    np.testing.assert_allclose(got_bias, bias, atol=1e-5)


def test_accuracy_is_that_of_the_mean_softmax_over_ten_crops():
    """Against NumPy, on pictures where the crops disagree."""
    rng = np.random.default_rng(3)
    encoded = [
        tf.io.encode_png(rng.integers(0, 256, (h, w, 3)).astype(np.uint8)).numpy()
        for h, w in [(20, 30), (40, 18), (16, 16), (25, 25), (19, 40), (31, 16), (60, 50)]
    ]
    labels = [0, 1, 2, 0, 1, 2, 0]
    trained = Readouts(pixel_features(16), 3)
    layer = trained.dense["pixels"]
    layer.set_weights([rng.normal(size=w.shape) for w in layer.get_weights()])
    kernel, bias = layer.get_weights()
    right, disagreements = 0, 0
    for picture, label in zip(encoded, labels, strict=True):
        logits = ten_crop_views(picture, 16).numpy().reshape(10, -1) @ kernel + bias
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        right += p.mean(0).argmax() == label
        disagreements += len(set(p.argmax(1))) > 1
    assert disagreements >= 3
    source = Pictures(encoded, labels, ("a", "b", "c"))
    for batch_size in (1, 3, 12):
        got = ten_crop_accuracy(trained, source, 16, batch_size=batch_size)
        assert got == {"pixels": right / 7}
