"""Figure 3: neighbours of points placed by hand, and which images are shown."""

import io
import math
import types

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from la_tf.analysis import retrieval
from la_tf.analysis.images import EmbeddedImages, RunImages
from la_tf.analysis.part import Unavailable
from la_tf.data.base import Subset
from la_tf.data.digits import DigitsSource
from la_tf.evaluation.knn import nearest_others


def angles(*degrees: float) -> np.ndarray:
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def pixels_of(source, row: int) -> np.ndarray:
    """An image as Pillow decodes it, uint8 [S, S, 3]."""
    return np.asarray(Image.open(io.BytesIO(source.read(row))).convert("RGB"))


def images_of(train, heldout=None) -> RunImages:
    """The images of a run whose network takes the mean over rows for an embedding."""

    def network(images, training):
        del training
        columns = tf.reshape(tf.reduce_mean(images, axis=1), [tf.shape(images)[0], -1])
        return tf.math.l2_normalize(columns, axis=1)

    config = types.SimpleNamespace(
        data=types.SimpleNamespace(image_size=32), schedule=types.SimpleNamespace(seed=0)
    )
    run = types.SimpleNamespace(network=network, config=config)
    return RunImages(run, train, heldout, lambda sentence: None)


def test_neighbours_of_rows_leave_the_rows_themselves_out():
    gallery = angles(0, 10, 25, 90, 100)
    similarities, rows = nearest_others(gallery[[1, 4]], np.array([1, 4]), gallery, 2)
    assert rows.tolist() == [[0, 2], [3, 2]]
    expected = [[math.cos(math.radians(a)) for a in pair] for pair in ((10, 15), (10, 75))]
    np.testing.assert_allclose(similarities, expected, atol=1e-6)


def test_an_own_row_that_lies_far_takes_no_place():
    gallery = angles(0, 10, 25, 180)
    _, rows = nearest_others(angles(1), np.array([3]), gallery, 2)
    assert rows.tolist() == [[0, 1]]


@pytest.mark.parametrize("k", [1, 7, 200])
def test_prediction_and_confidence_equal_votes_counted_one_by_one(unit_rows, k):
    queries, gallery = unit_rows(30, 5, 1), unit_rows(60, 5, 2)
    labels = np.random.default_rng(0).integers(0, 4, 60)
    found = retrieval.classify(queries, gallery, labels, 4, tau=0.1, k=k)
    for q, query in enumerate(queries.astype(np.float64)):
        similarity = gallery.astype(np.float64) @ query
        voters = np.argsort(-similarity)[:k]
        votes = [
            sum(math.exp(similarity[i] / 0.1) for i in voters if labels[i] == label)
            for label in range(4)
        ]
        assert found.predicted[q] == np.argmax(votes)
        assert found.confidence[q] == pytest.approx(max(votes) / sum(votes), rel=1e-4)
        assert found.rows[q].tolist() == voters.tolist()


def test_the_highest_scores_come_from_as_many_classes_as_there_are():
    scores = np.array([0.9, 0.8, 0.99, 0.7, 0.8, 0.95])
    labels = np.array([0, 0, 1, 2, 0, 1])
    eligible = np.array([True, True, True, True, True, False])

    def chosen(count):
        return retrieval.highest(scores, labels, eligible, count).tolist()

    assert chosen(2) == [2, 0]
    assert chosen(3) == [2, 0, 3]
    assert chosen(4) == [2, 0, 1, 3]  # a second of class 0, the earlier of two that are equal
    assert chosen(9) == [2, 0, 1, 4, 3]
    assert retrieval.highest(scores, labels, ~eligible & False, 3).tolist() == []


def test_strips_show_the_right_pictures_with_their_classes():
    digits = DigitsSource()
    train, heldout = Subset(digits, range(10)), Subset(digits, [11, 12])  # train: 0 to 9 in order
    images = images_of(train, heldout)
    gallery = EmbeddedImages(train, angles(*range(0, 100, 10)), "the gallery")
    queries = EmbeddedImages(heldout, angles(11, 52), "2 images")  # a 1 near row 1; a 2 near row 5
    found = retrieval.classify(queries.vectors, gallery.vectors, train.labels, 10, 0.07, k=3)
    part = retrieval.labelled_part(images, gallery, queries, found)
    success, failure, same = (group.strips[0] for group in part.groups)
    assert [group.heading for group in part.groups] == [
        "Most confident successes",
        "Least confident failures",
        "Most confident failures",
    ]
    assert same.words == failure.words  # the only one
    assert success.words.startswith("True class 1, predicted 1, confidence 0.")
    assert failure.words.startswith("True class 2, predicted 5, confidence 0.")
    for strip, query, rows in ((success, 0, [1, 2, 0]), (failure, 1, [5, 6, 4])):
        shown, *neighbours = strip.tiles
        assert [tile.name for tile in neighbours] == [str(row) for row in rows]
        np.testing.assert_array_equal(shown.picture, pixels_of(heldout, query))
        for tile, row in zip(neighbours, rows, strict=True):
            # 32-pixel images at 32 pixels: a centre crop is the image itself.
            np.testing.assert_array_equal(tile.picture, pixels_of(train, row))
            cosine = float(queries.vectors[query] @ gallery.vectors[row])
            assert tile.similarity == pytest.approx(cosine, abs=1e-6)
    assert [tile.same for tile in success.tiles] == [None, True, False, False]
    assert "50.0% are classified rightly by their 3 nearest neighbours" in part.caption


def test_without_held_out_images_a_sample_of_training_images_is_shown():
    train = Subset(DigitsSource(), range(40))
    train.labels = train.class_names = None
    images = images_of(train)
    gallery = EmbeddedImages(train, images.embed(train, np.arange(40)), "the gallery")
    part = retrieval.sampled_part(images, gallery)
    (group,) = part.groups
    assert len(group.strips) == retrieval.SAMPLED_STRIPS
    for strip in group.strips:
        # words name the image as digits[i]; its neighbours, by a sort of all others
        row = int(strip.words.removeprefix("digits[").removesuffix("]"))
        similarity = gallery.vectors @ gallery.vectors[row]
        expected = [i for i in np.argsort(-similarity, kind="stable") if i != row]
        shown, *neighbours = strip.tiles
        np.testing.assert_array_equal(shown.picture, pixels_of(train, row))
        for tile, neighbour in zip(neighbours, expected, strict=False):
            assert tile.similarity == pytest.approx(similarity[neighbour], abs=1e-5)
            assert (tile.name, tile.same) == ("", None)
    assert len(group.strips[0].tiles) == 1 + retrieval.NEIGHBOURS


def test_failures_of_high_and_of_low_confidence_stand_beside_each_other():
    digits = DigitsSource()
    train, heldout = Subset(digits, range(20)), Subset(digits, range(20, 40))
    confidence = np.random.default_rng(2).permutation(np.linspace(0.3, 0.9, 20))
    wrong = (heldout.labels + 1) % 10
    rows = np.tile(np.arange(3), (20, 1))
    found = retrieval.Classified(wrong, confidence, rows, np.ones((20, 3)))
    gallery = EmbeddedImages(train, np.eye(20), "the gallery")
    queries = EmbeddedImages(heldout, np.zeros((20, 20)), "20 images")
    low, high = retrieval.labelled_part(images_of(train, heldout), gallery, queries, found).groups
    for group, end in ((low, confidence.min()), (high, confidence.max())):
        assert len(group.strips) == retrieval.STRIPS
        assert group.strips[0].words.endswith(f"confidence {end:.2f}")
    assert (low.heading, high.heading) == ("Least confident failures", "Most confident failures")


def test_a_single_image_has_no_neighbours():
    train = Subset(DigitsSource(), [0])
    gallery = EmbeddedImages(train, angles(0), "the gallery")
    with pytest.raises(Unavailable, match="no neighbours"):
        retrieval.sampled_part(images_of(train), gallery)
