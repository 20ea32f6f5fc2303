"""The evaluation's embedder against the network itself, row by row, and raw pixels by NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from la_tf.embedding.embedder import Embedder, pixels
from la_tf.networks import build_network


def batched(images: np.ndarray, batch_size: int) -> tf.data.Dataset:
    indices = np.arange(len(images), dtype=np.int32)
    return tf.data.Dataset.from_tensor_slices((indices, images)).batch(batch_size)


def random_images(count: int, side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, side, side, 3)).astype(np.float32)


@pytest.fixture
def network():
    """smallnet as after some training: statistics that are neither the initial nor a batch's."""
    tf.keras.utils.set_random_seed(0)
    network, rng = build_network("smallnet", 16, 8), np.random.default_rng(1)
    for variable in network.non_trainable_variables:
        variable.assign(rng.uniform(0.2, 0.6, variable.shape))
    return network


@pytest.mark.parametrize("batch_size", [1, 3, 7, 16])
def test_every_row_is_the_network_s_embedding_of_that_image(network, batch_size):
    images = random_images(7, 16)
    got = Embedder(network)(batched(images, batch_size))
    assert got.shape == (7, 8)
    for row, image in zip(got, images, strict=True):
        alone = network(image[np.newaxis], training=False).numpy()[0]
        np.testing.assert_allclose(row, alone, atol=1e-5)


def test_batch_norm_uses_its_moving_statistics():
    images = tf.keras.Input((2, 2, 3))
    norm = tf.keras.layers.BatchNormalization(epsilon=0.01)
    outputs = tf.keras.layers.UnitNormalization()(tf.keras.layers.Flatten()(norm(images)))
    network = tf.keras.Model(images, outputs)
    mean, variance = np.array([1.0, -2.0, 0.5]), np.array([4.0, 0.25, 1.0])
    norm.moving_mean.assign(mean)
    norm.moving_variance.assign(variance)
    views = random_images(5, 2)
    got = Embedder(network)(batched(views, 2))
    expected = ((views - mean) / np.sqrt(variance + 0.01)).reshape(5, 12)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_embedding_changes_no_variable(network):
    before = network.get_weights()
    Embedder(network)(batched(random_images(7, 16), 4))
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_weights_are_those_of_the_moment(network):
    images, embedder = random_images(4, 16), Embedder(network)
    first = embedder(batched(images, 4))
    layer = network.get_layer("embedding")
    layer.kernel.assign(-layer.kernel)
    layer.bias.assign(-layer.bias)
    np.testing.assert_allclose(embedder(batched(images, 4)), -first, atol=1e-6)


def test_a_network_is_traced_once_and_again_for_another_batch_size_only(network):
    traces = []

    def counted(images, training):
        traces.append(images.shape[0])
        return network(images, training=training)

    embedder = Embedder(counted)
    for batch_size in (3, 3, 2, 5, 7):  # the last batches hold 1, 1, 1, 2 and 7
        embedder(batched(random_images(7, 16), batch_size))
    assert traces == [3, None]


def test_pixels_are_flattened_and_scaled_to_unit_length():
    images = random_images(5, 4)
    got = pixels(batched(images, 2))
    expected = np.stack([image.ravel() / np.sqrt((image**2).sum()) for image in images])
    assert got.shape == (5, 48)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


def test_an_image_without_any_contrast_to_the_mean_has_a_row_of_zeros():
    images = random_images(3, 4)
    images[1] = 0
    got = pixels(batched(images, 3))
    np.testing.assert_array_equal(got[1], np.zeros(48))
    np.testing.assert_allclose(np.linalg.norm(got[[0, 2]], axis=1), 1.0, atol=1e-6)
