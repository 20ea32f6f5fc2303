"""Runs a frozen network over a whole data set."""

import numpy as np
import tensorflow as tf

from la_tf.memory import require_memory


class Embedder:
    """Embeds whole data sets with one network, traced once.

    Batch norm uses its moving statistics. Everything runs on one device; of several replicas that
    is the first, with the mean of their statistics.
    """

    def __init__(self, network: tf.keras.Model):
        """Wraps a network: normalised images [B, S, S, 3] -> embeddings [B, D]."""
        self._forward = tf.function(
            lambda images: network(images, training=False),
            autograph=False,
            reduce_retracing=True,
        )

    def __call__(self, dataset: tf.data.Dataset) -> np.ndarray:
        """Embeds (index, view) batches that come in the order of their index: [N, D].

        Views are normalised where the network is one of ours, as `data.pipeline.eval_dataset` has
        them.
        """
        return np.concatenate([self._forward(images).numpy() for _, images in dataset])


def pixels(dataset: tf.data.Dataset) -> np.ndarray:
    """Raw pixels as a baseline embedding: (index, image) batches to [N, S*S*3] unit rows.

    Raises:
      RunError: they do not fit in memory.
    """
    batches = []
    for _, images in dataset:
        if not batches:  # all but the last have the same size
            needed = 2 * images.numpy().nbytes * len(dataset)
            require_memory(needed, "raw pixels", "leave out --baselines")
        batches.append(images.numpy().reshape(len(images), -1))
    rows = np.concatenate(batches)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
