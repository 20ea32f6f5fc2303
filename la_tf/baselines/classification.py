"""What the two baselines share: cross-entropy by a layer on top of the embedding network."""

import functools

import tensorflow as tf

from la_tf.banked_model import BankedModel, spread
from la_tf.networks import top_features


class Classification(BankedModel):
    """Trains an embedding network by predicting a class of each image.

    The network is the one of Local Aggregation. The layer that tells the classes stands on its
    features before the L2 normalisation, [B, D]; their unit vectors are the embeddings, for kNN as
    for the export.

    The memory bank plays no part in the training. It is a convenience of this library: with the
    running averages of Eq. 5, kNN while training, densities and reports are those of Local
    Aggregation.

    Attributes:
      classifier: features to logits, [B, D] -> [B, C].
    """

    def __init__(self, network: tf.keras.Model, num_examples: int, num_classes: int, **shared):
        """Makes the layer on top; under a strategy, call it in its scope.

        Args:
          network: images to unit embeddings, see `networks.build_network`.
          num_examples: N.
          num_classes: C.
          **shared: `mix` of the bank, `weight_decay` and `seed`, see `LocalAggregation`.
        """
        super().__init__(network, num_examples, **shared)
        # In float32, as the features are.
        self.classifier = tf.keras.layers.Dense(num_classes, dtype="float32", name="classifier")
        self.classifier.build([None, self.bank.vectors.shape[1]])
        # Not an attribute that Keras sees: a checkpoint would hold the network under two names.
        self._features = functools.partial(self._train_mode, top_features(network))
        self._accuracy = tf.keras.metrics.Mean("accuracy")

    @property
    def metrics(self) -> list[tf.keras.metrics.Metric]:
        """The three means of `train_step`."""
        return [self._loss, self._accuracy, self._spread]

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step on (indices [B], views [B, S, S, 3]); B is this replica's part of the batch.

        Returns:
          Means over the global batch, then over the steps since the last reset:
          loss: the cross-entropy; without weight decay.
          accuracy: share of images whose class has the largest logit.
          spread: as in `LocalAggregation.train_step`.
        """
        indices, views = data
        replicas = tf.distribute.get_replica_context().num_replicas_in_sync
        classes, importance = self._targets(indices)  # [B] each
        with tf.GradientTape() as tape:
            features = self._features(views)  # [B, D]
            logits = self._logits(features)  # [B, C]
            losses = importance * tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits)
            # The optimizer sums gradients over replicas: each gives its share of the global mean.
            objective = tf.reduce_mean(losses) / replicas
            objective += self._weight_penalty() / replicas
        network, top = self.network.trainable_variables, self.classifier.trainable_variables
        gradients = tape.gradient(objective, [*network, *top])
        self._apply(gradients[: len(network)], gradients[len(network) :])

        embeddings = self._update_bank(indices, tf.math.l2_normalize(features, axis=1))
        right = tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), classes)
        loss, accuracy = self._means(losses, tf.cast(right, tf.float32))
        self._loss.update_state(loss)
        self._accuracy.update_state(accuracy)
        self._spread.update_state(spread(embeddings))
        return {metric.name: metric.result() for metric in self.metrics}

    def _targets(self, indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Of images [B]: int32 classes [B], and float32 weights [B] of their losses."""
        raise NotImplementedError

    def _logits(self, features: tf.Tensor) -> tf.Tensor:
        """Features [B, D] to logits [B, C]."""
        return self.classifier(features)

    def _apply(self, network_gradients: list[tf.Tensor], top_gradients: list[tf.Tensor]) -> None:
        """Changes the weights of the network and of the layer on top."""
        raise NotImplementedError
