"""The sheet of clusters, of groups whose members and spread are known."""

import types

import numpy as np
import pytest

from la_tf.analysis import clusters
from la_tf.analysis.images import EmbeddedImages, RunImages
from la_tf.analysis.part import Unavailable
from la_tf.data.base import Subset
from la_tf.data.digits import DigitsSource


def images_of(train, read_clusters, holds=True) -> RunImages:
    config = types.SimpleNamespace(data=types.SimpleNamespace(image_size=8))
    run = types.SimpleNamespace(
        network=None, config=config, read_clusters=read_clusters, holds=lambda source: holds
    )
    return RunImages(run, train, None, lambda sentence: None)


def test_compactness_is_the_mean_cosine_to_the_normalised_mean(unit_rows):
    vectors, labels = unit_rows(200, 6), np.random.default_rng(1).integers(0, 9, 200)
    labels[labels == 4] = 5
    found, means = clusters.compactness(vectors, labels)
    for cluster in np.unique(labels):
        members = vectors[labels == cluster].astype(np.float64)
        mean = members.mean(axis=0)
        cosines = members @ mean / np.linalg.norm(mean)
        assert found[cluster] == pytest.approx(cosines.mean(), abs=1e-6)
        np.testing.assert_allclose(means[cluster], mean, atol=1e-6)
    assert np.isnan(found[4])


@pytest.fixture(scope="module")
def groups():
    """90 digits: nine clusters of five around an axis each, the wider the higher their number."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(90) % 18)
    labels[labels >= 9] = np.arange(9, 54)  # the others are alone
    vectors = np.zeros((90, 16))
    for cluster in range(9):
        # All at one angle to the axis: the mean is on the axis, and the angle's cosine is known.
        members, angle = np.flatnonzero(labels == cluster), 0.1 * (cluster + 1)
        turn = 2 * np.pi * np.arange(5) / 5
        vectors[members, cluster] = np.cos(angle)
        vectors[members, 14] = np.sin(angle) * np.cos(turn)
        vectors[members, 15] = np.sin(angle) * np.sin(turn)
    vectors[labels >= 9, 0] = 1
    return Subset(DigitsSource(), range(90)), vectors.astype(np.float32), labels


def test_the_most_and_the_least_compact_clusters_are_shown_with_their_members(groups):
    train, vectors, labels = groups
    stored = np.stack([labels, np.zeros(90)], axis=1).astype(np.float32)
    gallery = EmbeddedImages(train, vectors, "the bank")
    part = clusters.clusters_part(images_of(train, lambda: stored), gallery)
    most, least = part.groups
    assert (most.heading, least.heading) == ("Most compact clusters", "Least compact clusters")
    for group, expected in ((most, [0, 1, 2, 3]), (least, [8, 7, 6, 5])):
        for strip, cluster in zip(group.strips, expected, strict=True):
            cosine = np.cos(0.1 * (cluster + 1))
            assert strip.words == f"5 images, compactness {cosine:.3f}"
            members = train.labels[labels == cluster]
            assert sorted(tile.name for tile in strip.tiles) == sorted(map(str, members))
            for tile in strip.tiles:
                assert tile.similarity == pytest.approx(cosine, abs=1e-6)
    assert "the first of its 2 clusterings, in the bank" in part.caption


def test_of_a_large_cluster_the_nearest_and_the_farthest_are_among_those_shown(unit_rows):
    train, vectors = Subset(DigitsSource(), range(40)), unit_rows(40, 3)
    gallery = EmbeddedImages(train, vectors, "the bank")
    labels = np.zeros((40, 1), np.float32)
    (group,) = clusters.clusters_part(images_of(train, lambda: labels), gallery).groups
    (strip,) = group.strips
    mean = vectors.mean(axis=0)
    cosines = np.sort(vectors @ mean / np.linalg.norm(mean))[::-1]
    shown = [tile.similarity for tile in strip.tiles]
    assert len(shown) == clusters.MEMBERS
    np.testing.assert_allclose(shown, cosines[[0, 6, 11, 17, 22, 28, 33, 39]], atol=1e-6)


def test_without_clusters_of_these_images_there_is_no_sheet(groups):
    train, vectors, labels = groups
    gallery = EmbeddedImages(train, vectors, "the bank")

    def refused(read, words, holds=True):
        with pytest.raises(Unavailable, match=words):
            clusters.clusters_part(images_of(train, read, holds), gallery)

    refused(None, "does not cluster")
    refused(lambda: np.full((90, 1), -1.0), "not clustered its images yet")
    refused(lambda: labels[:, np.newaxis], "which these are not", holds=False)
    refused(lambda: np.arange(90.0)[:, np.newaxis], "has 4 images or more")
