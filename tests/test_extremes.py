"""Nearest pairs and farthest images, against full sorts."""

import types

import numpy as np
import pytest
import tensorflow as tf

from la_tf.analysis import extremes
from la_tf.analysis.images import EmbeddedImages, RunImages
from la_tf.analysis.part import Unavailable
from la_tf.data.base import Subset
from la_tf.data.digits import DigitsSource


def part_of(vectors: np.ndarray):
    train = Subset(DigitsSource(), range(len(vectors)))
    train.labels = None
    config = types.SimpleNamespace(
        data=types.SimpleNamespace(image_size=8), schedule=types.SimpleNamespace(seed=0)
    )
    run = types.SimpleNamespace(network=None, config=config)
    images = RunImages(run, train, None, lambda sentence: None)
    return extremes.extremes_part(images, EmbeddedImages(train, vectors, "the bank"))


def test_pairs_and_outliers_are_those_of_full_sorts(unit_rows):
    vectors = unit_rows(80, 4)
    products = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    pairs = sorted(((products[i, j], i, j) for j in range(80) for i in range(j)), reverse=True)
    nearest, farthest = part_of(vectors).groups
    for strip, (similarity, i, j) in zip(nearest.strips, pairs, strict=False):
        assert strip.words == f"{similarity:.3f}: digits[{i}] and digits[{j}]"
        assert [t.similarity for t in strip.tiles] == pytest.approx([similarity] * 2, abs=1e-6)
    assert len(nearest.strips) == extremes.PAIRS
    np.fill_diagonal(products, -np.inf)
    others = -np.sort(-products, axis=1)
    means = others[:, :10].mean(axis=1)
    for strip, row in zip(farthest.strips, np.argsort(means), strict=False):
        assert strip.words == f"digits[{row}], mean similarity {means[row]:.3f}"
        query, *shown = strip.tiles
        assert query.similarity is None
        assert [t.similarity for t in shown] == pytest.approx(others[row, :5], abs=1e-6)
    assert len(farthest.strips) == extremes.OUTLIERS


def test_of_many_images_a_sample_is_looked_at_and_the_caption_says_so(unit_rows, monkeypatch):
    monkeypatch.setattr(extremes, "MAX_ROWS", 30)
    caption = part_of(unit_rows(80, 4)).caption
    assert "Pairs, and the farthest, are of a sample of 30 images." in caption
    assert "sample" not in part_of(unit_rows(15, 4)).caption


def test_a_copy_is_the_nearest_whatever_the_bank_makes_of_it(unit_rows):
    """The rows of the bank are averages over random views: those of copies differ."""
    train = Subset(DigitsSource(), [0, 1, 2, 3, 4, 5, 2])
    layers = [tf.keras.layers.Flatten(), tf.keras.layers.UnitNormalization()]
    network = tf.keras.Sequential([tf.keras.layers.InputLayer((8, 8, 3)), *layers])
    config = types.SimpleNamespace(
        data=types.SimpleNamespace(image_size=8), schedule=types.SimpleNamespace(seed=0)
    )
    run = types.SimpleNamespace(
        network=network, config=config, bank=unit_rows(7, 4), holds=lambda source: source is train
    )
    images = RunImages(run, train, None, lambda sentence: None)
    bank = images.gallery()
    assert bank.vectors is run.bank
    part = extremes.extremes_part(images, images.as_used(bank))
    assert part.groups[0].strips[0].words == "1.000: digits[2] and digits[2]"
    assert "centre crops of 7 training images" in part.caption


def test_two_images_are_a_pair_and_one_is_none(unit_rows):
    nearest, farthest = part_of(unit_rows(2, 4)).groups
    assert len(nearest.strips) == 1 and [len(s.tiles) for s in farthest.strips] == [2, 2]
    with pytest.raises(Unavailable, match="no neighbours"):
        part_of(unit_rows(1, 4))
