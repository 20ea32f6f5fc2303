"""A batch in blocks, so that its similarities to the whole bank need not exist at once."""

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf


def map_blocks(function: Callable[[Any], Any], batch: Any, block_size: int, dtypes: Any) -> Any:
    """Applies a function to blocks of a batch, one after the other.

    The result is that of the whole batch, for a function that takes each row for itself; the
    memory is that of one block. No gradient is meant to pass: it would keep what the blocks made.

    Args:
      function: a structure like `batch` to tensors of the same first axis.
      batch: tensors [B, ...].
      block_size: rows of a block, a divisor of B; 0 is the whole batch at once.
      dtypes: of the results, in their structure.

    Returns:
      What `function` returns of the whole batch.

    Raises:
      tf.errors.InvalidArgumentError: `block_size` does not divide B.
    """
    if not block_size:
        return function(batch)

    def cut(rows: tf.Tensor) -> tf.Tensor:
        return tf.reshape(rows, tf.concat([[-1, block_size], tf.shape(rows)[1:]], axis=0))

    def join(blocks: tf.Tensor) -> tf.Tensor:
        return tf.reshape(blocks, tf.concat([[-1], tf.shape(blocks)[2:]], axis=0))

    blocks = tf.map_fn(
        function,
        tf.nest.map_structure(cut, batch),
        fn_output_signature=dtypes,
        parallel_iterations=1,
    )
    return tf.nest.map_structure(join, blocks)


_PIECES = 8  # several for each of few cores, since they may not be equally fast


def map_pieces(function: Callable[..., Any], *batch: tf.Tensor) -> Any:
    """Applies a function that keeps one core busy to pieces of a batch, on all cores.

    Args:
      function: of tensors [b, ...], to a structure of tensors of the same first axis.
      batch: tensors [B, ...]. Unless B is known and even, there is but one piece.

    Returns:
      What `function` returns of the whole batch.
    """
    count = math.gcd(batch[0].shape[0] or 1, _PIECES)
    pieces = zip(*(tf.split(tensor, count) for tensor in batch), strict=True)
    results = [function(*piece) for piece in pieces]
    return tf.nest.map_structure(lambda *parts: tf.concat(parts, axis=0), *results)
