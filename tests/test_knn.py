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
