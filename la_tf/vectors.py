"""Passes over one long vector, to be compiled by XLA: sums, and the floor of the k largest.

A vector of 50,000 numbers stays in a core's cache, so that ten passes over it cost less than one
over the [B, N] of a whole batch. What stands here is for one example; `tf.map_fn` takes them all.
"""

import functools
from collections.abc import Callable

import tensorflow as tf

_PARTS = 16
_PAIRWISE = {tf.reduce_sum: tf.add, tf.reduce_min: tf.minimum, tf.reduce_max: tf.maximum}


def fold(
    reduce: Callable[..., tf.Tensor], function: Callable[..., tf.Tensor], *vectors: tf.Tensor
) -> tf.Tensor:
    """`reduce(function(*vectors), axis=0)`, without the vector in between.

    On processors XLA writes down what it reduces, and reduces it number by number. Adding parts of
    a vector to each other is one loop with `function`, and eight or sixteen numbers at a time.

    Args:
      reduce: `tf.reduce_sum`, `tf.reduce_max` or `tf.reduce_min`.
      function: of vectors, element by element, to a vector [N] or rows [N, D].
      vectors: [N] each.

    Returns:
      [], or [D].
    """
    size = vectors[0].shape[0] // _PARTS
    if size == 0:
        return reduce(function(*vectors), axis=0)
    parts = zip(*(tf.split(v[: _PARTS * size], _PARTS) for v in vectors), strict=True)
    sums = functools.reduce(_PAIRWISE[reduce], (function(*part) for part in parts))  # [size]
    rest = [v[_PARTS * size :] for v in vectors]  # fewer than _PARTS, maybe none
    return _PAIRWISE[reduce](fold(reduce, tf.identity, sums), reduce(function(*rest), axis=0))


def floor_of_largest(values: tf.Tensor, k: int) -> tuple[tf.Tensor, tf.Tensor]:
    """A number that the k largest of a vector reach, and no others.

    How many values reach a floor falls with the floor, and where it is k is found as the root of
    any falling function: ten counts on average, whatever the vector.

    Args:
      values: [N] float32, not infinite.
      k: how many, at most N.

    Returns:
      The floor, [], and how many values reach it, [] int32. These are more than k only where
      several tie at the k-th place: then the floor is equal to them. No value of a vector of
      NaN is below its floor, and with some of NaN it is not defined.
    """

    def height(count: tf.Tensor | int) -> tf.Tensor:
        # 0 at k. Tails of distributions fall about exponentially, and their logarithm evenly.
        return tf.math.log((tf.cast(count, tf.float32) + 0.5) / (k + 0.5))

    def is_open(low, high, reaching, *_):
        return tf.not_equal(reaching, k) & (low < high)

    # At least k values reach `low`, and fewer reach `high`.
    def narrow(low, high, reaching, at_low, at_high, moved):
        middle = low + (high - low) * at_low / (at_low - at_high)
        middle = tf.where((low < middle) & (middle < high), middle, low / 2 + high / 2)
        between = (low < middle) & (middle < high)  # else nothing is: there are ties at `low`
        count = fold(tf.reduce_sum, lambda part: tf.cast(part >= middle, tf.int32), values)

        # The Illinois method: an end that stays twice in turn counts half, else it may stay long.
        def raise_low():
            return middle, high, count, height(count), tf.where(moved > 0, at_high / 2, at_high), 1

        def lower_high():
            end = tf.where(between, middle, low)
            return low, end, reaching, tf.where(moved < 0, at_low / 2, at_low), height(count), -1

        return tf.cond(between & (count >= k), raise_low, lower_high)

    size = values.shape[0]
    lowest = fold(tf.reduce_min, tf.identity, values)
    highest = fold(tf.reduce_max, tf.identity, values)
    start = lowest, highest + (highest - lowest), size, height(size), height(0), 0
    floor, _, reaching, *_ = tf.while_loop(is_open, narrow, start)
    return floor, reaching
