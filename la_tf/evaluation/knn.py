"""Weighted k-nearest-neighbour classification (section 4.2)."""

import numpy as np
import tensorflow as tf

CHUNK_BYTES = 1 << 29  # of similarities at once, so that any number of queries fits in memory


def nearest(queries: np.ndarray, bank: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar rows of a bank, exactly.

    Args:
      queries: [Q, D] unit rows.
      bank: [N, D] unit rows.
      k: how many; at most N.

    Returns:
      Similarities [Q, k], falling, and row numbers [Q, k].
    """
    bank = tf.convert_to_tensor(bank, tf.float32)

    @tf.function(reduce_retracing=True)
    def search(chunk):
        return tf.math.top_k(tf.matmul(chunk, bank, transpose_b=True), k)

    rows = max(1, CHUNK_BYTES // (4 * bank.shape[0]))
    found = [
        search(tf.convert_to_tensor(queries[i : i + rows], tf.float32))
        for i in range(0, len(queries), rows)
    ]
    return (
        np.concatenate([values.numpy() for values, _ in found]),
        np.concatenate([indices.numpy() for _, indices in found]),
    )


def votes(similarities: np.ndarray, labels: np.ndarray, num_classes: int, tau: float) -> np.ndarray:
    """Sums the neighbours' votes, each weighted by exp(s / tau).

    Args:
      similarities: [Q, k].
      labels: [Q, k] the neighbours' classes.
      num_classes: number of classes.
      tau: temperature.

    Returns:
      [Q, num_classes] float64 scores.
    """
    weights = np.exp(similarities.astype(np.float64) / tau)
    scores = np.zeros((len(labels), num_classes))
    np.add.at(scores, (np.arange(len(labels))[:, np.newaxis], labels), weights)
    return scores


def weighted_knn(
    queries: np.ndarray,
    bank: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    k: int = 200,
    tau: float = 0.07,
) -> np.ndarray:
    """Class scores by the k nearest rows of a bank, votes weighted by exp(s / tau).

    Args:
      queries: [Q, D] unit rows.
      bank: [N, D] unit rows.
      labels: [N] classes of the bank's rows.
      num_classes: number of classes.
      k: neighbours that vote; at most N.
      tau: temperature.

    Returns:
      [Q, num_classes] scores; the prediction is the largest.
    """
    similarities, rows = nearest(queries, bank, k)
    return votes(similarities, labels[rows], num_classes, tau)


def knn_accuracy(
    queries: np.ndarray,
    query_labels: np.ndarray,
    bank: np.ndarray,
    labels: np.ndarray,
    ks: tuple[int, ...] = (200, 1),
    tau: float = 0.07,
) -> dict[int, float]:
    """Accuracy for several k from one search, each clipped to N.

    Args:
      queries: [Q, D] unit rows.
      query_labels: [Q] their classes.
      bank: [N, D] unit rows.
      labels: [N] classes of the bank's rows.
      ks: numbers of neighbours.
      tau: temperature.

    Returns:
      k as asked for -> share of queries whose class was predicted.
    """
    num_classes = int(max(labels.max(), query_labels.max())) + 1
    similarities, rows = nearest(queries, bank, min(max(ks), len(bank)))
    neighbours = labels[rows]
    accuracy = {}
    for k in ks:
        scores = votes(similarities[:, :k], neighbours[:, :k], num_classes, tau)
        accuracy[k] = float(np.mean(scores.argmax(axis=1) == query_labels))
    return accuracy
