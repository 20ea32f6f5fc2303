"""Other close and background neighbours than the method's own: Tables 4 and 5 of the paper.

Each choice is one function. `background_choice` and `close_choice` pick among them once, when a
model is made, so that a step holds no switch.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from la_tf.config import ClusteringConfig, ObjectiveConfig
from la_tf.neighbors import close_neighbors, nearest_rows

# H of background neighbours that are found by clusters, the caption of Table 4.
BACKGROUND_CLUSTERINGS = 3


class Background(NamedTuple):
    """B_i of a batch, as K rows of the bank of which all or some belong to it.

    Attributes:
      similarities: [B, K] dot products of each embedding with its rows.
      rows: [B, K] row numbers, or [1, K] where they are the same for all.
      members: [B, K] bool, which of them B_i holds; None is all.
    """

    similarities: tf.Tensor
    rows: tf.Tensor
    members: tf.Tensor | None = None

    def share(self, rows: tf.Tensor) -> tf.Tensor:
        """The share of B_i that some of its rows make: [B, K] bool to [B]."""
        if self.members is None:
            return tf.reduce_mean(tf.cast(rows, tf.float32), axis=1)
        counts = [
            tf.math.count_nonzero(x, axis=1, dtype=tf.float32)
            for x in (rows & self.members, self.members)
        ]
        return tf.math.divide_no_nan(*counts)


# (embeddings [B, D], indices [B], bank [N, D]) -> B_i
FindBackground = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], Background]
# (indices [B], B_i) -> [B, K] bool, which of its rows C_i holds
FindClose = Callable[[tf.Tensor, Background], tf.Tensor]


def is_the_papers(objective: ObjectiveConfig, clustering: ClusteringConfig) -> bool:
    """Whether the neighbours are the method's own, as section 3.1 has them."""
    choice = objective.background, clustering.close, clustering.combine
    return choice == ("nearest", "clusters", "union")


def background_choice(
    objective: ObjectiveConfig, k: int, labels: tf.Variable | None, block_size: int = 0
) -> FindBackground:
    """The background neighbours that `--background` names.

    Args:
      objective: names the choice.
      k: of the nearest.
      labels: [N, 3] label of every example in every clustering made for the background; only for
        clusters.
      block_size: of the nearest, see `nearest_rows`.
    """
    if objective.background == "clusters":
        return functools.partial(background_by_clusters, labels)
    if objective.background == "all":
        return background_of_all
    return functools.partial(nearest_background, k, block_size)


def close_choice(clustering: ClusteringConfig, k: int, labels: tf.Variable) -> FindClose:
    """The close neighbours that `--close` names.

    Args:
      clustering: names the choice.
      k: of the nearest, k' in section 5.2.
      labels: [N, H] label of every example in every clustering.
    """
    if clustering.close == "self":
        return close_is_self
    if clustering.close == "nearest":
        return functools.partial(close_is_nearest, k)
    combine = {"union": tf.reduce_any, "intersection": tf.reduce_all}[clustering.combine]
    return functools.partial(close_by_clusters, labels, combine)


def nearest_background(k: int, block_size: int, embeddings, indices, bank) -> Background:
    """N_k, the method's choice: the k bank rows nearest to v_i (section 3.1)."""
    del indices
    return Background(*nearest_rows(embeddings, bank, k, block_size))


def background_of_all(embeddings, indices, bank) -> Background:
    """Everything is background: "All" of Table 4."""
    del indices
    bank = tf.stop_gradient(bank)
    rows = tf.range(bank.shape[0], dtype=tf.int64)[tf.newaxis]
    return Background(tf.matmul(embeddings, bank, transpose_b=True), rows)


def background_by_clusters(labels: tf.Variable, embeddings, indices, bank) -> Background:
    """The clusters of i in a few coarse clusterings, joined: "Clusters" of Table 4.

    Found by index, from the bank alone: they do not follow v_i within a round of clustering.
    """
    everything = background_of_all(embeddings, indices, bank)
    return everything._replace(members=close_neighbors(labels, indices, everything.rows))


def close_by_clusters(labels: tf.Variable, combine, indices, background: Background) -> tf.Tensor:
    """The method's choice: rows that share i's cluster, in any clustering (section 3.1) or in all.

    `combine` is `tf.reduce_any` for the union of the clusterings, `tf.reduce_all` for their
    intersection.
    """
    return close_neighbors(labels, indices, background.rows, combine)


def close_is_self(indices: tf.Tensor, background: Background) -> tf.Tensor:
    """{i} of Table 5: the image alone."""
    return tf.equal(background.rows, tf.cast(indices, tf.int64)[:, tf.newaxis])


def close_is_nearest(k: int, indices: tf.Tensor, background: Background) -> tf.Tensor:
    """N_k' of Table 5: the k' nearest of the background; of a tie at the k'-th place, all."""
    del indices
    similarities = background.similarities
    if background.members is not None:
        similarities = tf.where(background.members, similarities, -float("inf"))
    least = tf.math.top_k(similarities, k).values[:, -1:]
    return similarities >= least
