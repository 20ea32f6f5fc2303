"""The choices of Tables 4 and 5, against sets and sums in plain Python."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from la_tf.clustering import dbscan
from la_tf.config import ClusteringConfig, ConfigError, ObjectiveConfig
from la_tf.evaluation.neighbor_quality import neighbor_quality
from la_tf.model import LocalAggregation

N, D, B, K, CLOSE_K, TAU = 40, 6, 7, 12, 4, 0.5
CHOICES = [
    *itertools.product(("nearest", "clusters", "all"), ("clusters", "self", "nearest"), ("union",)),
    ("nearest", "clusters", "intersection"),
]


def unit_rows(count: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, D)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def model_of(background: str, close: str, combine: str = "union") -> LocalAggregation:
    inputs = tf.keras.Input([D])
    model = LocalAggregation(
        tf.keras.Model(inputs, tf.keras.layers.UnitNormalization()(inputs)),
        N,
        objective=ObjectiveConfig(k=K, tau=TAU, background=background),
        clustering=ClusteringConfig(
            num_clusterings=2, close=close, close_k=CLOSE_K, combine=combine
        ),
        warm_start_steps=0,
    )
    rng = np.random.default_rng(1)
    model.bank.vectors.assign(unit_rows(N, 2))
    model.cluster_labels.assign(rng.integers(0, 4, (N, 2)))
    if background == "clusters":
        model.background_labels.assign(rng.integers(0, 5, (N, 3)))
    return model


def nearest(similarities: np.ndarray, among: set[int], k: int) -> set[int]:
    return set(sorted(among, key=lambda row: -similarities[row])[:k])


def sharing(labels: np.ndarray, i: int, needed) -> set[int]:
    return {
        j for j in range(N) if needed(labels[j, h] == labels[i, h] for h in range(len(labels[0])))
    }


def expected_sets(
    model, close, combine, i: int, similarities: np.ndarray
) -> tuple[set[int], set[int]]:
    """C_i and B_i."""
    everything = set(range(N))
    background = {
        "nearest": lambda: nearest(similarities, everything, K),
        "all": lambda: everything,
        "clusters": lambda: sharing(model.background_labels.numpy(), i, any),
    }[model.objective.background]()
    return {
        "clusters": lambda: sharing(
            model.cluster_labels.numpy(), i, any if combine == "union" else all
        ),
        "self": lambda: {i},
        "nearest": lambda: nearest(similarities, background, CLOSE_K),
    }[close](), background


@pytest.mark.parametrize("background,close,combine", CHOICES)
def test_loss_is_that_of_the_chosen_sets(background, close, combine):
    model = model_of(background, close, combine)
    embeddings, indices = unit_rows(B, 3), np.arange(B) * 5
    bank = model.bank.vectors.numpy()
    found = model._local_aggregation(
        tf.constant(indices), tf.constant(embeddings), tf.constant(bank)
    )
    losses, empty, share = (x.numpy() for x in found)
    for b, i in enumerate(indices):
        similarities = bank @ embeddings[b]
        c, rows = expected_sets(model, close, combine, i, similarities)

        def p(members, similarities=similarities):
            return sum(math.exp(similarities[j] / TAU) for j in members)

        expected = -math.log(p(c & rows) / p(rows)) if c & rows else 0.0
        assert losses[b] == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert share[b] == pytest.approx(len(c & rows) / len(rows))
        assert empty[b] == (not c & rows)


def test_quality_counts_neighbors_by_hand():
    model = model_of("nearest", "clusters")
    rows, embeddings = np.array([3, 8, 20]), unit_rows(3, 5)
    classes = np.arange(N) % 3
    counts = dict.fromkeys(("close", "alike", "within", "own", "background", "background_alike"), 0)
    own_shares = []
    for i, embedding in zip(rows, embeddings, strict=True):
        similarities = model.bank.vectors.numpy() @ embedding
        c = sharing(model.cluster_labels.numpy(), i, any)
        b = nearest(similarities, set(range(N)), K)
        counts["own"] += i in b
        weights = {j: math.exp(similarities[j] / TAU) for j in c & b}
        if weights:
            own_shares.append(weights.get(i, 0.0) / sum(weights.values()))
        c, b = c - {i}, b - {i}
        counts["close"] += len(c)
        counts["alike"] += sum(classes[j] == classes[i] for j in c)
        counts["within"] += len(c & b)
        counts["background"] += len(b)
        counts["background_alike"] += sum(classes[j] == classes[i] for j in b)
    expected = {
        "close_neighbors": counts["close"] / 3,
        "close_in_background": counts["within"] / counts["close"],
        "own_in_background": counts["own"] / 3,
        "own_share": sum(own_shares) / len(own_shares),
    }
    assert neighbor_quality(model, rows, embeddings) == pytest.approx(expected)
    expected["close_purity"] = counts["alike"] / counts["close"]
    expected["background_purity"] = counts["background_alike"] / counts["background"]
    assert neighbor_quality(model, rows, embeddings, classes) == pytest.approx(expected)


def test_quality_of_images_without_neighbors_is_none():
    found = neighbor_quality(model_of("all", "self"), np.array([1]), unit_rows(1, 6))
    assert found == {
        "close_neighbors": 0,
        "close_in_background": None,
        "own_in_background": 1,
        "own_share": 1,
    }


def test_dbscan_finds_groups_and_leaves_noise_alone():
    corners = np.repeat(np.eye(3, dtype=np.float32), 6, axis=0)
    corners += np.random.default_rng(0).normal(0, 0.01, corners.shape).astype(np.float32)
    lonely = -np.eye(3, dtype=np.float32)[:2]
    found = dbscan(np.concatenate([corners, lonely]), eps=0.2, min_samples=4)
    groups = found.labels[:18].reshape(3, 6)
    assert (groups == groups[:, :1]).all()
    assert len(set(found.labels)) == 5
    assert sorted(found.sizes) == [1, 1, 6, 6, 6]


def test_more_close_than_background_neighbors_are_refused():
    with pytest.raises(ConfigError, match=r"--close_k=13 is more than the 12 background"):
        LocalAggregation(
            tf.keras.Sequential([tf.keras.layers.Dense(D, input_shape=[D])]),
            N,
            objective=ObjectiveConfig(k=K),
            clustering=ClusteringConfig(close="nearest", close_k=13),
            warm_start_steps=0,
        )
