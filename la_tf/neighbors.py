"""The two kinds of neighbours of section 3.1: background B_i and close C_i."""

from collections.abc import Callable

import tensorflow as tf

from la_tf.blocks import map_blocks, map_pieces
from la_tf.selection import largest_of_parts, split_at
from la_tf.vectors import fold


def nearest_rows(
    embeddings: tf.Tensor, bank: tf.Tensor, k: int, block_size: int = 0
) -> tuple[tf.Tensor, tf.Tensor]:
    """B_i of section 3.1: the k bank rows nearest to each embedding by cosine.

    An embedding's own row is neither added nor left out, as in the official code.

    Gradients reach the embeddings through the similarities, and only the k rows carry them: the
    derivative of the product would multiply all N again, most of them by zero.

    Args:
      embeddings: [B, D] unit rows.
      bank: [N, D] unit rows, taken as constant.
      k: how many, at most N.
      block_size: embeddings to compare with the bank at once, see `map_blocks`; 0 is all.

    Returns:
      Similarities [B, k] and row numbers [B, k] int64, in no particular order. Ties at the k-th
      place are broken towards the lower row number.
    """
    bank = tf.convert_to_tensor(bank)

    @tf.custom_gradient
    def nearest(embeddings: tf.Tensor):
        # Else a tape in eager mode would want the derivatives of the selection, too.
        embeddings = tf.stop_gradient(embeddings)
        similarities, rows = map_blocks(
            lambda block: _nearest(block, bank, k), embeddings, block_size, (tf.float32, tf.int64)
        )

        def gradient(of_similarities, _):
            return weighted_rows(of_similarities, bank, rows)

        return (similarities, rows), gradient

    return nearest(tf.convert_to_tensor(embeddings))


def _nearest(embeddings: tf.Tensor, bank: tf.Tensor, k: int) -> tuple[tf.Tensor, tf.Tensor]:
    """`nearest_rows` of one block, without a gradient."""
    cut = split_at(bank.shape[0], k)
    head = tf.matmul(embeddings, bank[:cut], transpose_b=True)
    tail = tf.matmul(embeddings, bank[cut:], transpose_b=True)
    return largest_of_parts(head, tail, k)


def weighted_rows(weights: tf.Tensor, bank: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """For each example, the sum of its rows of the bank, each times its weight.

    Args:
      weights: [B, k].
      bank: [N, D].
      rows: [B, k] row numbers.

    Returns:
      [B, D].
    """
    if tf.config.list_logical_devices("GPU"):
        return tf.einsum("bk,bkd->bd", weights, tf.gather(bank, rows))
    return map_pieces(lambda *piece: _weighted_rows(*piece, bank), weights, rows)


@tf.function(jit_compile=True, autograph=False)
def _weighted_rows(weights: tf.Tensor, rows: tf.Tensor, bank: tf.Tensor) -> tf.Tensor:
    def one(example: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        return fold(
            tf.reduce_sum, lambda w, row: w[:, tf.newaxis] * tf.gather(bank, row), *example
        )  # [D]

    # Gathered, weighted and summed in one loop: [B, k, D] would be half the bank of ImageNet.
    return tf.map_fn(one, (weights, rows), fn_output_signature=weights.dtype)


def close_neighbors(
    cluster_labels: tf.Tensor,
    indices: tf.Tensor,
    candidates: tf.Tensor,
    combine: Callable[..., tf.Tensor] = tf.reduce_any,
) -> tf.Tensor:
    """C_i of section 3.1, as far as it lies among given candidates.

    C_i is the union over the H clusterings of the cluster that holds i, found by index: a
    candidate is close if it shares i's label in any clustering. Only the part of C_i inside B_i
    ever enters Eq. 3, so the whole union is never formed.

    Args:
      cluster_labels: [N, H] label of every example in every clustering.
      indices: [B] the examples i.
      candidates: [B, k] row numbers, usually B_i; [1, k] where they are the same for all.
      combine: `tf.reduce_any` for the union over the clusterings, the paper's; `tf.reduce_all` for
        their intersection.

    Returns:
      [B, k] bool.
    """
    own = tf.gather(cluster_labels, indices)  # [B, H]
    # Candidates that are the same for all cannot be cut into pieces of a batch.
    if tf.config.list_logical_devices("GPU") or candidates.shape[0] == 1:
        return _share_labels(own, candidates, cluster_labels, combine)
    return map_pieces(
        lambda *piece: _share_labels_fused(*piece, cluster_labels, combine), own, candidates
    )


def _share_labels(
    own: tf.Tensor, candidates: tf.Tensor, cluster_labels: tf.Tensor, combine: Callable
) -> tf.Tensor:
    theirs = tf.gather(cluster_labels, candidates)  # [B, k, H]
    return combine(tf.equal(theirs, own[:, tf.newaxis]), axis=2)


# XLA compares the labels as it gathers them.
_share_labels_fused = tf.function(_share_labels, jit_compile=True, autograph=False)
