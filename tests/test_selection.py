"""The k largest against a full, stable sort."""

import numpy as np
import pytest
import tensorflow as tf

from la_tf.benchmark.step import peak_memory
from la_tf.selection import largest_of_parts, split_at


def largest(values, k):
    cut = split_at(values.shape[1], k)
    return largest_of_parts(values[:, :cut], values[:, cut:], k)


def _expected(values, k):
    return np.sort(np.argsort(-values, axis=1, kind="stable")[:, :k], axis=1)


def _check(values, k):
    found, columns = (t.numpy() for t in largest(tf.constant(values), k))
    assert columns.dtype == np.int64
    np.testing.assert_array_equal(found, np.take_along_axis(values, columns, axis=1))
    np.testing.assert_array_equal(np.sort(columns, axis=1), _expected(values, k))


# Around every boundary: sizes of groups, N that is no multiple of them, k of 1 and near N.
SHAPES = [
    (batch, count, k)
    for batch in (1, 3, 16)
    for count, k in (
        *((1, 1), (2, 1), (7, 7), (8, 1), (9, 1), (63, 1), (64, 1), (65, 1), (100, 99), (100, 100)),
        *((1000, 3), (1000, 64), (1023, 15), (1024, 16), (1025, 16), (4111, 64), (4128, 65)),
        *((5000, 600), (5000, 625), (5001, 626), (5000, 1250), (5000, 2500), (5000, 4999)),
    )
]


@pytest.mark.parametrize("batch,count,k", SHAPES)
def test_the_k_largest_are_the_head_of_a_full_sort(batch, count, k):
    rng = np.random.default_rng([batch, count, k])
    _check(rng.normal(size=(batch, count)).astype(np.float32), k)


@pytest.mark.parametrize("levels", [1, 2, 5, 40, 300])
@pytest.mark.parametrize("count,k", [(500, 7), (2051, 32), (2051, 60), (3000, 700), (3000, 2999)])
def test_ties_go_to_the_lower_column(count, k, levels):
    rng = np.random.default_rng([count, k, levels])
    _check(rng.integers(0, levels, (6, count)).astype(np.float32), k)


def test_rows_with_few_and_with_very_many_ties_do_not_disturb_each_other():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(6, 3217)).astype(np.float32)
    values[1] = 0.25
    values[4] = -1.0
    values[4, ::7] = 1.0
    values[5, 100:] = -np.inf
    _check(values, 40)


@pytest.mark.parametrize("tied", [slice(None), slice(3, 4)])
def test_ties_of_whole_rows_take_no_more_memory_than_the_values(tied):
    values = np.random.default_rng(0).normal(size=(32, 100_000)).astype(np.float32)
    values[tied] = 0.5
    values = tf.constant(values)
    graph = tf.function(lambda: largest(values, 2000))
    _, columns = graph()
    assert set(columns.numpy()[3]) == set(range(2000))
    peak = peak_memory(graph)
    if peak is None:
        pytest.skip("this build of TensorFlow does not count memory")
    assert peak < 2 * 32 * 100_000 * 4


def test_values_that_lie_together_and_values_in_the_last_columns_are_found():
    values = -np.arange(3 * 3210, dtype=np.float32).reshape(3, 3210)
    _check(values, 50)  # all in the first groups
    _check(values[:, ::-1].copy(), 50)  # all in the last, and in the rest behind them


def test_a_floor_that_few_reach_lets_the_others_out():
    # One huge value in each of k groups: exactly k values reach the floor.
    values = np.full((2, 3200), 0.0, np.float32)
    values[:, 5::100] = np.arange(1, 33)
    _check(values, 32)


def test_rows_of_nan_come_through_as_nan():
    values = np.random.default_rng(0).normal(size=(3, 3210)).astype(np.float32)
    values[1] = np.nan
    found, columns = (t.numpy() for t in largest(tf.constant(values), 40))
    assert np.isnan(found[1]).all()
    assert ((columns >= 0) & (columns < 3210)).all()
    rest = [0, 2]
    np.testing.assert_array_equal(np.sort(columns, axis=1)[rest], _expected(values[rest], 40))


@pytest.mark.parametrize("count,k", [(1, 1), (7, 2), (3210, 20), (3200, 20), (3210, 300)])
def test_two_parts_are_one_row(count, k):
    values = np.random.default_rng(1).normal(size=(4, count)).astype(np.float32)
    cut = split_at(count, k)
    _, columns = largest_of_parts(tf.constant(values[:, :cut]), tf.constant(values[:, cut:]), k)
    np.testing.assert_array_equal(np.sort(columns, axis=1), _expected(values, k))


def test_inside_a_graph_with_an_unknown_batch():
    graph = tf.function(
        lambda values: largest(values, 20), input_signature=[tf.TensorSpec([None, 3210])]
    )
    for batch in (1, 5):
        values = np.random.default_rng(batch).normal(size=(batch, 3210)).astype(np.float32)
        np.testing.assert_array_equal(np.sort(graph(values)[1], axis=1), _expected(values, 20))
