"""Weighted kNN against points placed by hand and a plain NumPy loop."""

import math

import numpy as np
import pytest

from la_tf.evaluation import knn


def plain_knn(queries, bank, labels, num_classes, k, tau):
    scores = np.zeros((len(queries), num_classes))
    for q, query in enumerate(queries.astype(np.float64)):
        similarity = bank.astype(np.float64) @ query
        for i in sorted(range(len(bank)), key=lambda i: -similarity[i])[:k]:
            scores[q, labels[i]] += math.exp(similarity[i] / tau)
    return scores


def scores_of(queries, bank, labels, num_classes, k, tau):
    similarities, rows = knn.nearest(queries, bank, k)
    return knn.votes(similarities, labels[rows], num_classes, tau)


def test_one_near_vote_outweighs_two_far_ones():
    def angle(a):
        return [math.cos(a), math.sin(a)]

    bank = np.array([angle(0.1), angle(1.0), angle(-1.0)], np.float32)
    labels = np.array([1, 0, 0])
    query = np.array([angle(0.0)], np.float32)
    scores = scores_of(query, bank, labels, 2, k=3, tau=0.07)
    np.testing.assert_allclose(
        scores,
        [[2 * math.exp(math.cos(1.0) / 0.07), math.exp(math.cos(0.1) / 0.07)]],
        rtol=1e-4,
    )
    # At a high temperature the two far votes win; with k = 1 only the near one is heard.
    assert scores_of(query, bank, labels, 2, k=3, tau=10.0).argmax() == 0
    assert scores_of(query, bank, labels, 2, k=1, tau=10.0).argmax() == 1


@pytest.mark.parametrize("k,tau", [(1, 0.07), (7, 0.07), (60, 0.5)])
def test_scores_equal_a_plain_loop(unit_rows, k, tau):
    queries, bank = unit_rows(9, 8, 1), unit_rows(60, 8, 2)
    labels = np.random.default_rng(0).integers(0, 4, 60)
    np.testing.assert_allclose(
        scores_of(queries, bank, labels, 4, k, tau),
        plain_knn(queries, bank, labels, 4, k, tau),
        rtol=1e-4,
    )


def test_accuracy_for_several_k_is_that_of_each_alone(unit_rows):
    queries, bank = unit_rows(40, 4, 1), unit_rows(100, 4, 2)
    rng = np.random.default_rng(0)
    labels, truth = rng.integers(0, 3, 100), rng.integers(0, 3, 40)
    got = knn.knn_accuracy(queries, truth, bank, labels, ks=(200, 10, 1))
    for k, accuracy in got.items():
        scores = plain_knn(queries, bank, labels, 3, min(k, 100), 0.07)
        assert accuracy == np.mean(scores.argmax(1) == truth)
    assert len(set(got.values())) > 1


def test_many_queries_against_many_rows_equal_a_full_sort(unit_rows):
    """More than Faiss takes at once, on either side."""
    queries, bank = unit_rows(4100, 8, 1), unit_rows(2100, 8, 2)
    similarities, rows = knn.nearest(queries, bank, 5)
    expected = -np.sort(-(queries @ bank.T), axis=1)[:, :5]
    np.testing.assert_allclose(similarities, expected, atol=1e-6)
    np.testing.assert_allclose(np.einsum("qd,qkd->qk", queries, bank[rows]), expected, atol=1e-6)


def all_pairs(vectors: np.ndarray) -> list[tuple[float, int, int]]:
    """Every pair of rows with its similarity, the most similar first."""
    rows = vectors.astype(np.float64)
    found = [(rows[i] @ rows[j], i, j) for j in range(len(rows)) for i in range(j)]
    return sorted(found, key=lambda pair: -pair[0])


@pytest.mark.parametrize("count", [1, 7, 300, 5000])
@pytest.mark.parametrize("products", [1, 700, 1 << 20])
def test_nearest_pairs_are_those_of_a_full_sort(unit_rows, monkeypatch, count, products):
    monkeypatch.setattr(knn, "_PRODUCTS", products)  # blocks of one row, of some, of all
    vectors = unit_rows(60, 5)
    expected = all_pairs(vectors)[:count]
    similarities, pairs = knn.nearest_pairs(vectors, count)
    np.testing.assert_allclose(similarities, [s for s, _, _ in expected], atol=1e-6)
    assert [tuple(pair) for pair in pairs] == [(i, j) for _, i, j in expected]


def test_pairs_below_the_threshold_are_left_out(unit_rows):
    vectors = unit_rows(60, 5)
    expected = [(i, j) for s, i, j in all_pairs(vectors) if s >= 0.8]
    assert 5 < len(expected) < 1000
    _, pairs = knn.nearest_pairs(vectors, 1000, 0.8)
    assert [tuple(pair) for pair in pairs] == expected
    assert len(knn.nearest_pairs(vectors, 4, 0.8)[0]) == 4
    assert knn.nearest_pairs(vectors[:1], 4)[1].shape == (0, 2)


def test_copies_are_pairs_of_similarity_one(unit_rows):
    vectors = np.concatenate([unit_rows(50, 64), unit_rows(50, 64)[[3, 3, 20]]])
    _, pairs = knn.nearest_pairs(vectors, 100, 1)
    assert sorted(map(tuple, pairs)) == [(3, 50), (3, 51), (20, 52), (50, 51)]
