"""The k largest of very many numbers, exactly, without a heap over all of them.

`tf.math.top_k` keeps a heap of k over all N values of a row, which takes several times as long as
the product that made them. Here groups of values are reduced to their maxima first. The k-th
largest of these maxima is a floor: k groups reach it, so at least k values do, and the k largest
are among those. With several times k groups few other values reach it, and only those that do are
compared with each other.
"""

import tensorflow as tf

from la_tf.blocks import map_pieces
from la_tf.vectors import floor_of_largest

_GROUPS_OF_K = 3  # groups, in multiples of k: fewer let more values reach the floor
# From this size of a group on, it pays to search only the groups that reach the floor.
_LARGE_GROUP = 32


def split_at(count: int, k: int) -> int:
    """The number of columns that `largest_of_parts` wants as `head`; the rest are `tail`."""
    return count - count % _LARGE_GROUP if _group_size(count, k) >= _LARGE_GROUP else count


def largest_of_parts(head: tf.Tensor, tail: tf.Tensor, k: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The k largest of each row, as `tf.math.top_k` finds them; N is known.

    Args:
      head: [B, `split_at(N, k)`] float32, the first columns. Rows come in two parts because joining
        them would copy them.
      tail: [B, the other columns] float32.
      k: how many, at most N.

    Returns:
      values [B, k] and their columns [B, k] int64, in no particular order. Ties at the k-th place
      are broken towards the lower column. A row of NaN gives NaN; the result of a row with some is
      not defined.
    """
    size = _group_size(head.shape[1] + tail.shape[1], k)
    if size >= _LARGE_GROUP:
        few, columns = _few_of_groups(head, k)
        few = tf.concat([few, tail], axis=1)
        tail_columns = tf.range(head.shape[1], head.shape[1] + tail.shape[1], dtype=tf.int64)
        columns = tf.concat([columns, tf.zeros_like(tail, tf.int64) + tail_columns], axis=1)
    elif size > 1:
        few, columns = _few_of_all(head, k, size)
    else:
        best = tf.math.top_k(head, k, sorted=False)
        return best.values, tf.cast(best.indices, tf.int64)
    best = tf.math.top_k(few, k, sorted=False)
    return best.values, tf.gather(columns, best.indices, batch_dims=1)


# Columns are int64: on a machine with GPUs TensorFlow keeps int32 on the host, where each use of
# [B, k] of them would wait for a copy.


def _group_size(count: int, k: int) -> int:
    return min(_LARGE_GROUP, count // (_GROUPS_OF_K * k))


def _few_of_all(values: tf.Tensor, k: int, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Few values of each row, with the k largest among them, and their columns, rising: [B, P]."""
    num_groups = values.shape[1] // size
    # Groups of columns at equal distances are faster to reduce than groups of neighbours.
    groups = tf.reshape(values[:, : num_groups * size], [-1, size, num_groups])
    maxima = tf.reduce_max(groups, axis=1)
    floor = _kth_largest(maxima, k)[:, tf.newaxis]

    def above_floor() -> tuple[tf.Tensor, tf.Tensor]:
        columns, present = _true_columns(~(values < floor))
        few = tf.gather(values, columns, batch_dims=1)
        return tf.where(present, few, -float("inf")), columns

    def of_tied_rows() -> tuple[tf.Tensor, tf.Tensor]:
        best = tf.math.top_k(values, k, sorted=False)
        return best.values, tf.cast(best.indices, tf.int64)

    # Not below, instead of at least, the floor: NaN passes too, and shows in the result.
    reaching = tf.reduce_sum(tf.cast(~(maxima < floor), tf.float32), axis=1)
    # Where whole rows tie, as those of a collapsed embedding do, nearly all values reach the floor.
    return tf.cond(tf.reduce_max(reaching) <= 2 * k, above_floor, of_tied_rows)


def _few_of_groups(values: tf.Tensor, k: int) -> tuple[tf.Tensor, tf.Tensor]:
    """`_few_of_all`, searching only the groups that reach the floor."""
    num_groups = values.shape[1] // _LARGE_GROUP
    groups = tf.reshape(values, [-1, _LARGE_GROUP])  # [B * G, g], groups of neighbours
    maxima = tf.reshape(tf.reduce_max(groups, axis=1), [-1, num_groups])  # [B, G]
    floor = _kth_largest(maxima, k)[:, tf.newaxis]  # [B, 1]

    chosen, present = _groups_above(maxima, floor, k)  # [B, C]
    first = tf.range(tf.shape(maxima, tf.int64)[0])[:, tf.newaxis] * num_groups
    candidates = tf.gather(groups, first + chosen)  # [B, C, g]
    reaching = ~(candidates < floor[:, :, tf.newaxis]) & present[:, :, tf.newaxis]
    width = tf.shape(chosen)[1] * _LARGE_GROUP
    positions, present = _true_columns(tf.reshape(reaching, [-1, width]))  # [B, P]
    few = tf.gather(tf.reshape(candidates, [-1, width]), positions, batch_dims=1)
    columns = tf.gather(chosen, positions // _LARGE_GROUP, batch_dims=1) * _LARGE_GROUP
    columns += positions % _LARGE_GROUP
    return tf.where(present, few, -float("inf")), columns


def _groups_above(maxima: tf.Tensor, floor: tf.Tensor, k: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Groups, rising, that hold the k largest values of each row; see `_true_columns`."""
    columns, present = _true_columns(~(maxima < floor))

    def first_k() -> tuple[tf.Tensor, tf.Tensor]:
        # Of groups that tie, the first hold the lower columns.
        best = tf.cast(tf.math.top_k(maxima, k, sorted=False).indices, tf.int64)
        best = tf.sort(best, axis=1)
        return best, tf.fill(tf.shape(best), True)

    # Where whole rows tie, as those of a collapsed embedding do, all groups reach the floor.
    return tf.cond(tf.shape(columns)[1] <= 2 * k, lambda: (columns, present), first_k)


def _kth_largest(values: tf.Tensor, k: int) -> tf.Tensor:
    """[B, G] to a number for each row, [B], that its k largest reach, and others where they tie."""
    if tf.config.list_logical_devices("GPU"):
        return tf.reduce_min(tf.math.top_k(values, k, sorted=False).values, axis=1)
    return map_pieces(lambda piece: _floors(piece, k), values)


@tf.function(jit_compile=True, autograph=False)
def _floors(values: tf.Tensor, k: int) -> tf.Tensor:
    return tf.map_fn(lambda row: floor_of_largest(row, k)[0], values)


def _true_columns(mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Where each row of a mask is true.

    Args:
      mask: [B, N] bool, true at least once.

    Returns:
      columns: [B, C] int64, rising; C is that of the fullest row, the others are filled up.
      present: [B, C] bool, false where it was filled up.
    """
    num_rows, count = tf.unstack(tf.shape(mask, tf.int64))
    true = tf.where(tf.reshape(mask, [-1]))[:, 0]  # [M]
    edges = tf.searchsorted(true, tf.range(num_rows + 1) * count, out_type=tf.int64)  # [B + 1]
    sizes = edges[1:] - edges[:-1]
    place = tf.range(tf.reduce_max(sizes))
    last = tf.shape(true, tf.int64)[0] - 1
    columns = tf.gather(true % count, tf.minimum(edges[:-1, tf.newaxis] + place, last))
    return columns, place < sizes[:, tf.newaxis]
