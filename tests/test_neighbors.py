"""B_i and C_i against a full sort and an explicit union."""

import numpy as np
import pytest

from la_tf.neighbors import background_neighbors, close_neighbors


@pytest.mark.parametrize(
    "batch,size,k", [(1, 1, 1), (1, 5, 5), (7, 100, 1), (7, 100, 99), (16, 1000, 64), (3, 33, 32)]
)
def test_background_is_the_head_of_a_full_sort(unit_rows, batch, size, k):
    bank, embeddings = unit_rows(size, 16, 1), unit_rows(batch, 16, 2)
    got = background_neighbors(embeddings, bank, k).numpy()
    order = np.argsort(-(embeddings @ bank.T), axis=1, kind="stable")[:, :k]
    assert got.dtype == np.int32 and got.shape == (batch, k)
    for row, expected in zip(got, order, strict=True):
        assert set(row) == set(expected)


def test_background_breaks_ties_towards_the_lower_row():
    bank = np.tile(np.eye(1, 4, dtype=np.float32), (10, 1))
    assert set(background_neighbors(bank[:1], bank, 3).numpy()[0]) == {0, 1, 2}


def test_an_own_row_is_neither_added_nor_left_out(unit_rows):
    bank = unit_rows(50, 8)
    assert 3 in background_neighbors(bank[3:4], bank, 5).numpy()[0]  # the nearest of all
    assert 3 not in background_neighbors(-bank[3:4], bank, 5).numpy()[0]  # the farthest


@pytest.mark.parametrize("num_clusterings,size,k", [(1, 20, 20), (3, 50, 10), (10, 200, 64)])
def test_close_is_the_union_over_clusterings(num_clusterings, size, k):
    rng = np.random.default_rng(size)
    labels = rng.integers(0, 5, (num_clusterings, size)).astype(np.int32)
    indices = rng.choice(size, 8, replace=False)
    candidates = np.stack([rng.choice(size, k, replace=False) for _ in indices]).astype(np.int32)
    got = close_neighbors(labels, indices, candidates).numpy()
    for row, i, js in zip(got, indices, candidates, strict=True):
        union = set().union(*(np.flatnonzero(g == g[i]) for g in labels))
        assert row.tolist() == [j in union for j in js]


def test_an_example_is_always_close_to_itself():
    labels = np.arange(12, dtype=np.int32)[np.newaxis]  # every cluster has one member
    candidates = np.tile(np.arange(12, dtype=np.int32), (12, 1))
    got = close_neighbors(labels, np.arange(12), candidates).numpy()
    assert (got == np.eye(12, dtype=bool)).all()
