"""What the head sees of a region, against what the classifier computes on the whole picture."""

import numpy as np
import pytest
import tensorflow as tf
from official.vision.modeling.layers.roi_aligner import MultilevelROIAligner
from sklearn.metrics.pairwise import paired_cosine_distances

from detection.backbones import NETWORKS
from detection.regions import ROIAligner
from la_tf.networks import build_network
from la_tf.networks.layers import NORM_EPSILON
from la_tf.networks.vgg import VGG16

SIDE = 224


def pictures(count, side):
    """Blurred noise: like photographs, alike in places that lie close together."""
    noise = np.random.default_rng(0).normal(size=(count, side // 8, side // 8, 3))
    return tf.image.resize(noise.astype(np.float32), [side, side])


def whole(count, side):
    return tf.fill([count, 1, 4], float(side)) * [0.0, 0.0, 1.0, 1.0]


def likeness(one, other):
    """Mean cosine of the rows of two arrays of any rank."""
    rows = (np.reshape(values, [len(values), -1]) for values in (one, other))
    return 1 - paired_cosine_distances(*rows).mean()


@pytest.fixture(scope="module")
def classifier():
    """An AlexNet whose batch norm has the statistics of some pictures, and those pictures."""
    tf.keras.utils.set_random_seed(0)
    network = build_network("alexnet", SIDE)
    images = pictures(4, SIDE)
    backbone = network.get_layer("backbone")
    for layer in (*backbone.layers, *network.layers):
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.momentum = 0.0
    network(images, training=True)
    return network, images


def test_a_region_reaches_fc6_and_fc7_of_alexnet_more_like_the_whole_picture(classifier):
    network, images = classifier
    ends = {name: network.get_layer(f"{name}_relu").output for name in ("fc6", "fc7")}
    expected = tf.keras.Model(network.input, ends)(images, training=False)
    backbone = NETWORKS["alexnet"].build(norm_epsilon=NORM_EPSILON)
    backbone.set_weights(network.get_layer("backbone").get_weights())
    features = {"4": backbone(images, training=False)["4"]}

    def likeness_by_layer(aligner):
        x = tf.reshape(aligner(features, whole(len(images), SIDE)), [len(images), -1])
        found = {}
        for name in ("fc6", "fc7"):
            for part in ("", "_bn", "_relu"):
                x = network.get_layer(f"{name}{part}")(x, training=False)
            found[name] = likeness(x, expected[name])
        return found

    plain = likeness_by_layer(MultilevelROIAligner(crop_size=5))
    ours = likeness_by_layer(ROIAligner(crop_size=5, pool_size=3))
    assert ours["fc6"] > plain["fc6"] and ours["fc7"] > plain["fc7"]


def test_a_region_of_vgg16_is_pooled_as_in_the_network():
    """Exactly, where a region's samples fall on the pixels of the map."""
    side = 96
    images = pictures(2, side)
    levels = VGG16()(images, training=False)
    crops = ROIAligner(crop_size=3, pool_size=2)({"4": levels["4"]}, whole(2, side))
    np.testing.assert_allclose(crops[:, 0], levels["5"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("crop_size", "pool_size"), [(7, 0), (7, 2), (5, 3), (6, 3)])
def test_crops_are_sampled_at_the_places_of_their_region(crop_size, pool_size):
    """Of a map that holds its own coordinates, against arithmetic."""
    rows = tf.range(20.0)
    features = tf.stack(tf.meshgrid(rows, rows, indexing="ij"), axis=-1)[tf.newaxis]
    boxes = np.array([[[40.0, 64.0, 200.0, 96.0], [0.0, 0.0, 8.0, 4.0]]], np.float32)
    crops = ROIAligner(crop_size, pool_size)({"4": features}, tf.constant(boxes))
    assert crops.shape == [1, 2, crop_size, crop_size, 2]
    samples = 2 * (crop_size - 1) + pool_size if pool_size else crop_size
    for crop, (ymin, xmin, ymax, xmax) in zip(crops[0].numpy(), boxes[0], strict=True):
        for axis, (low, high) in enumerate(((ymin, ymax), (xmin, xmax))):
            places = low + (np.arange(samples) + 0.5) * (high - low) / samples
            places = np.maximum(places / 16 - 0.5, 0)  # pixel i lies in the middle of its 16
            if pool_size:  # the maximum is the last of a window
                places = places[pool_size - 1 :: 2]
            along = np.moveaxis(crop[..., axis], axis, 0)
            expected = np.broadcast_to(places[:, np.newaxis], along.shape)
            np.testing.assert_allclose(along, expected, atol=1e-5)
