"""Figure 4: maps of points whose distances are known, and which classes are mapped."""

import types
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import tensorflow as tf
from scipy.spatial import procrustes
from scipy.spatial.distance import pdist

from la_tf.analysis import mds
from la_tf.analysis.images import EmbeddedImages, RunImages
from la_tf.analysis.part import Unavailable
from la_tf.analysis.retrieval import Classified
from la_tf.data.base import Subset
from la_tf.data.digits import DigitsSource


def test_points_of_a_plane_are_found_again_wherever_the_plane_lies():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(40, 2))
    basis, _ = np.linalg.qr(rng.normal(size=(9, 2)))
    points, stress = mds.planar_map(plane @ basis.T + rng.normal(size=9))
    assert procrustes(plane, points)[2] < 1e-12
    np.testing.assert_allclose(pdist(points), pdist(plane), rtol=1e-6)
    assert stress < 1e-6


def test_stress_is_kruskals(unit_rows):
    vectors = unit_rows(30, 8)
    points, stress = mds.planar_map(vectors)
    given, planar = pdist(vectors), pdist(points)
    assert stress == pytest.approx(np.sqrt(((given - planar) ** 2).sum() / (planar**2).sum()))
    start = vectors - vectors.mean(axis=0)
    u, s, _ = np.linalg.svd(start, full_matrices=False)
    classical = pdist(u[:, :2] * s[:2])
    raw = ((given - classical) ** 2).sum()
    assert ((given - planar) ** 2).sum() < 0.5 * raw  # better than where it started from
    assert (mds.planar_map(vectors)[0] == points).all()


def test_collapsed_embeddings_have_no_map():
    with pytest.raises(Unavailable, match="collapsed"):
        mds.planar_map(np.full((10, 4), 0.3, np.float32))


def test_best_and_worst_classes():
    best, worst = mds.extreme_classes(np.array([0.2, np.nan, 0.9, 0.5, 0.9, 0.1]), 2)
    assert (best.tolist(), worst.tolist()) == ([2, 4], [0, 5])
    with pytest.raises(Unavailable, match=r"6 classes .* are needed; there are 5\."):
        mds.extreme_classes(np.array([0.2, np.nan, 0.9, 0.5, 0.9, 0.1]), 3)


def test_pictures_lie_apart():
    points = np.array([[0.0, 0.0], [0.1, 0.0], [4.0, 0.0], [4.0, 0.3], [-1.0, -1.0], [1.0, 9.0]])
    # The mean is (1.35, 1.38): row 1 is nearest. Then the furthest by the larger coordinate: row 5
    # (9), row 2 (3.9, before row 3, which is as far), row 4 (1.1).
    assert mds.spread_out(points, gap=1.0, count=9).tolist() == [1, 5, 2, 4]
    assert mds.spread_out(points, gap=1.0, count=2).tolist() == [1, 5]


def test_the_map_shows_the_classes_that_are_classified_best_and_worst():
    digits = DigitsSource()

    def network(images, training):
        del training
        rows = tf.reshape(images, [tf.shape(images)[0], -1])
        return tf.math.l2_normalize(rows, axis=1)

    config = types.SimpleNamespace(
        data=types.SimpleNamespace(image_size=32), schedule=types.SimpleNamespace(seed=0)
    )
    run = types.SimpleNamespace(network=network, config=config)
    images = RunImages(run, Subset(digits, range(300)), digits, lambda sentence: None)
    heldout = Subset(digits, range(300, 500))
    predicted = heldout.labels.copy()
    # Of the first 4 images of a class, some are taken for another class: 1 of class 1, 2 of class
    # 2, ...; the accuracies fall from class 0 to class 4, the others stay at 100 %.
    for label in range(5):
        predicted[np.flatnonzero(heldout.labels == label)[:label]] = 9 - label
    none = np.zeros((200, 7), int)
    found = Classified(predicted, np.ones(200), none, none.astype(float))
    part = mds.mds_part(images, EmbeddedImages(heldout, np.zeros((200, 1)), "200 images"), found)
    high, low = part.plots
    assert (high.name, low.name) == ("mds-high", "mds-low")
    assert high.alt.endswith("0 (100%), 5 (100%), 6 (100%).")
    sizes = np.bincount(heldout.labels)
    expected = ", ".join(f"{c} ({1 - c / sizes[c]:.0%})" for c in (2, 3, 4))
    assert low.alt.endswith(f"{expected}.")
    mapped = np.bincount(images.train.labels)[[0, 5, 6, 2, 3, 4]].clip(max=100).sum()
    assert f"scaling of all {mapped} (SMACOF)" in part.caption
    assert "7 nearest neighbours" in part.caption and "Euclidean" in part.caption
    for plot in part.plots:
        tags = [element.tag for element in ElementTree.fromstring(plot.svg.encode()).iter()]
        assert 3 <= sum(tag.endswith("}image") for tag in tags) <= mds.PICTURES
