"""B_i and C_i against a full sort and an explicit union."""

import numpy as np
import pytest
import tensorflow as tf

from la_tf.neighbors import close_neighbors, nearest_rows, weighted_rows

# The last ones are large enough to be searched in groups, all of them or all but the last rows.
SHAPES = [
    *((1, 1, 1), (1, 5, 5), (7, 100, 1), (7, 100, 99), (16, 1000, 64), (3, 33, 32)),
    *((6, 1000, 20), (6, 3200, 20), (6, 3217, 20)),
]


@pytest.mark.parametrize("block_size", [0, 1, 3])
@pytest.mark.parametrize("batch,size,k", SHAPES)
def test_background_is_the_head_of_a_full_sort(unit_rows, batch, size, k, block_size):
    if block_size and batch % block_size:
        pytest.skip("blocks divide the batch")
    bank, embeddings = unit_rows(size, 16, 1), unit_rows(batch, 16, 2)
    _, got = (t.numpy() for t in nearest_rows(embeddings, bank, k, block_size))
    order = np.argsort(-(embeddings @ bank.T), axis=1, kind="stable")[:, :k]
    assert got.dtype == np.int64 and got.shape == (batch, k)
    for row, expected in zip(got, order, strict=True):
        assert set(row) == set(expected)


def test_background_breaks_ties_towards_the_lower_row():
    bank = np.tile(np.eye(1, 4, dtype=np.float32), (10, 1))
    assert set(nearest_rows(bank[:1], bank, 3)[1].numpy()[0]) == {0, 1, 2}


def test_an_own_row_is_neither_added_nor_left_out(unit_rows):
    bank = unit_rows(50, 8)
    assert 3 in nearest_rows(bank[3:4], bank, 5)[1].numpy()[0]  # the nearest of all
    assert 3 not in nearest_rows(-bank[3:4], bank, 5)[1].numpy()[0]  # the farthest


@pytest.mark.parametrize("block_size", [0, 2])
@pytest.mark.parametrize("size,k", [(40, 30), (1000, 5), (3217, 20)])
def test_similarities_and_their_gradient_are_those_of_the_rows(unit_rows, size, k, block_size):
    bank, embeddings = unit_rows(size, 8, 1), tf.Variable(unit_rows(4, 8, 2))
    weights = np.random.default_rng(3).normal(size=(4, k)).astype(np.float32)

    # In a graph and a branch, as in training.
    @tf.function
    def take():
        with tf.GradientTape() as tape:
            similarities, rows = tf.cond(
                tf.reduce_sum(embeddings) > -100,
                lambda: nearest_rows(embeddings, bank, k, block_size),
                lambda: (tf.zeros([4, k]), tf.zeros([4, k], tf.int64)),
            )
            total = tf.reduce_sum(weights * similarities)
        return similarities, rows, tape.gradient(total, embeddings)

    similarities, rows, gradient = (t.numpy() for t in take())
    taken = bank[rows]  # [B, k, D]
    np.testing.assert_allclose(
        similarities, np.einsum("bd,bkd->bk", embeddings.numpy(), taken), atol=1e-6
    )
    np.testing.assert_allclose(gradient, np.einsum("bk,bkd->bd", weights, taken), atol=1e-5)


@pytest.mark.parametrize("size", [30, 500])  # a product with all rows, and rows picked one by one
def test_weighted_rows_are_a_sum_of_rows(size):
    rng = np.random.default_rng(size)
    bank = rng.normal(size=(size, 6)).astype(np.float32)
    rows = np.stack([rng.choice(size, 9, replace=False) for _ in range(5)])
    weights = rng.normal(size=(5, 9)).astype(np.float32)
    expected = [
        sum(w * bank[r] for w, r in zip(*example, strict=True))
        for example in zip(weights, rows, strict=True)
    ]
    np.testing.assert_allclose(
        weighted_rows(tf.constant(weights), tf.constant(bank), tf.constant(rows)),
        expected,
        atol=1e-5,
    )


@pytest.mark.parametrize("num_clusterings,size,k", [(1, 20, 20), (3, 50, 10), (10, 200, 64)])
def test_close_is_the_union_over_clusterings(num_clusterings, size, k):
    rng = np.random.default_rng(size)
    labels = rng.integers(0, 5, (size, num_clusterings)).astype(np.float32)
    indices = rng.choice(size, 8, replace=False)
    candidates = np.stack([rng.choice(size, k, replace=False) for _ in indices])
    got = close_neighbors(labels, indices, candidates).numpy()
    for row, i, js in zip(got, indices, candidates, strict=True):
        union = set().union(*(np.flatnonzero(g == g[i]) for g in labels.T))
        assert row.tolist() == [j in union for j in js]


def test_an_example_is_always_close_to_itself():
    labels = np.arange(12, dtype=np.float32)[:, np.newaxis]  # every cluster has one member
    candidates = np.tile(np.arange(12), (12, 1))
    got = close_neighbors(labels, np.arange(12), candidates).numpy()
    assert (got == np.eye(12, dtype=bool)).all()
