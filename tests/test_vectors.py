"""Sums of one vector and the floor of its k largest against NumPy and a full sort."""

import numpy as np
import pytest
import tensorflow as tf

from la_tf.vectors import floor_of_largest, fold

compiled_floor = tf.function(floor_of_largest, jit_compile=True, autograph=False)


# Around the sizes of parts: less than one of each, no rest, a rest, parts of parts.
@pytest.mark.parametrize("size", [1, 15, 16, 17, 300, 4111])
@pytest.mark.parametrize("name", ["reduce_sum", "reduce_min", "reduce_max"])
def test_a_fold_is_a_reduction_of_the_whole(name, size):
    reduce = getattr(tf, name)
    a, b = np.random.default_rng(size).integers(-50, 50, (2, size))
    expected = getattr(np, name.removeprefix("reduce_"))(a * b)
    for compiled in (False, True):
        folded = tf.function(lambda *v: fold(reduce, tf.multiply, *v), jit_compile=compiled)
        assert folded(tf.constant(a), tf.constant(b)) == expected


def check(values, k):
    floor, reaching = (t.numpy() for t in compiled_floor(tf.constant(values), k))
    kth = -np.sort(-values)[k - 1]
    assert reaching == (values >= floor).sum() == (values >= kth).sum()
    assert reaching == k or floor == kth


@pytest.mark.parametrize("size", [1, 40, 1003])
def test_the_k_largest_alone_reach_the_floor(size):
    rng = np.random.default_rng(size)
    normal = rng.normal(size=size)
    shapes = {
        "normal": normal,
        "uniform": rng.random(size),
        "far from zero": 1000 + normal,
        "heavy tails": normal / rng.random(size) ** 4,
        "two heaps": np.where(rng.random(size) < 0.1, 5.0, -5.0) + 1e-3 * normal,
        "all negative": -np.abs(normal),
    }
    for k in sorted({1, size // 10 + 1, size // 2 + 1, size}):
        for values in shapes.values():
            check(values.astype(np.float32), k)


@pytest.mark.parametrize("k", [1, 7, 500, 999, 1000])
@pytest.mark.parametrize("levels", [1, 2, 3, 40])
def test_where_several_tie_at_the_kth_place_the_floor_is_their_value(k, levels):
    values = np.random.default_rng(levels).integers(-levels // 2, levels // 2 + 1, 1000)
    check(values.astype(np.float32), k)
    check(np.float32(0.1) * values.astype(np.float32), k)


@pytest.mark.parametrize("bad", [slice(None), slice(30, 31), slice(0, 99)])
def test_the_search_ends_with_nan_too(bad):
    values = np.random.default_rng(0).normal(size=100).astype(np.float32)
    values[bad] = np.nan
    floor = compiled_floor(tf.constant(values), 7)[0].numpy()
    if np.isnan(values).all():
        assert not (values < floor).any()
