"""Supervised training on the labels, the control."""

import numpy as np
import tensorflow as tf

from la_tf.baselines.classification import Classification


class Supervised(Classification):
    """Softmax cross-entropy on the labels, with the network, the views and the schedule of LA.

    One linear layer with bias stands on the D features, and is trained like the network.
    """

    method = "supervised"

    def __init__(self, network: tf.keras.Model, labels: np.ndarray, **shared):
        """Makes a class for each label; under a strategy, call it in its scope.

        Args:
          network: see `Classification`.
          labels: [N] int, from 0.
          **shared: see `Classification`.
        """
        super().__init__(network, len(labels), int(labels.max()) + 1, **shared)
        # float32, since TensorFlow keeps int32 variables on the host.
        self.labels = tf.Variable(
            labels.astype(np.float32),
            trainable=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            name="labels",
        )

    @property
    def optimized_weights(self) -> list[tf.Variable]:
        """Those of the network and of the layer on top."""
        return [*self.network.trainable_variables, *self.classifier.trainable_variables]

    def _targets(self, indices):
        classes = tf.cast(tf.gather(self.labels, indices), tf.int32)
        return classes, tf.ones_like(indices, tf.float32)

    def _apply(self, network_gradients, top_gradients):
        gradients = [*network_gradients, *top_gradients]
        self.optimizer.apply_gradients(zip(gradients, self.optimized_weights, strict=True))
