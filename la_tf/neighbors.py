"""The two kinds of neighbours of section 3.1: background B_i and close C_i."""

import tensorflow as tf


def background_neighbors(embeddings: tf.Tensor, bank: tf.Tensor, k: int) -> tf.Tensor:
    """B_i of section 3.1: the k bank rows nearest to each embedding by cosine.

    An embedding's own row is neither added nor left out, as in the official code.

    Args:
      embeddings: [B, D] unit rows.
      bank: [N, D] unit rows.
      k: how many, at most N.

    Returns:
      [B, k] int32 row numbers, in no particular order. Ties at the k-th place are broken towards
      the lower row number.
    """
    similarities = tf.matmul(embeddings, bank, transpose_b=True)  # [B, N]
    return tf.math.top_k(similarities, k, sorted=False).indices


def close_neighbors(
    cluster_labels: tf.Tensor, indices: tf.Tensor, candidates: tf.Tensor
) -> tf.Tensor:
    """C_i of section 3.1, as far as it lies among given candidates.

    C_i is the union over the H clusterings of the cluster that holds i, found by index: a
    candidate is close if it shares i's label in any clustering. Only the part of C_i inside B_i
    ever enters Eq. 3, so the whole union is never formed.

    Args:
      cluster_labels: [H, N] label of every example in every clustering.
      indices: [B] the examples i.
      candidates: [B, k] row numbers, usually B_i.

    Returns:
      [B, k] bool.
    """
    own = tf.gather(cluster_labels, indices, axis=1)  # [H, B]
    theirs = tf.gather(cluster_labels, candidates, axis=1)  # [H, B, k]
    return tf.reduce_any(tf.equal(theirs, own[:, :, tf.newaxis]), axis=0)
