"""DeepCluster (Caron et al., ECCV 2018), the paper's baseline of Table 1."""

import numpy as np
import tensorflow as tf

from la_tf.baselines.classification import Classification

TOP_STDDEV = 0.01  # of the initial weights of the layer on top; official code of DeepCluster


class DeepCluster(Classification):
    """Predicts the clusters of the network's own features, found anew in every round.

    `DeepClusterCallback` clusters before the first step of a round and calls `begin_round`. As in
    the official code (facebookresearch/deepcluster), each round has a new layer on top, trained by
    gradient descent without momentum; features are clustered before their last ReLU, and that layer
    stands behind it. The deviations:

    - The features are the D numbers before the L2 normalisation, with every network, since these
      give the embedding that is exported and compared; officially they are the 4096 of fc7. A step
      moves a logit by its rate times h . h of the features h, so that fewer features need a higher
      rate on top: `top_rate`, which `resolve` sets to 4096 / D.
    - An epoch is a permutation of all images, and the loss of an image is weighted by the inverse
      size of its cluster. Officially images are drawn uniformly over clusters, which has the same
      mean; with weights, every batch is a function of (seed, epoch), whatever the clusters are.
    - Weight decay is on kernels alone, and there is no dropout: the network is that of Local
      Aggregation.
    - Views are those of Local Aggregation, whose colours vary. Officially they are crops and flips,
      behind fixed Sobel filters that leave no colour.

    Attributes:
      cluster_labels: [N, 1] variable of whole numbers, see `LocalAggregation`.
      cluster_weights: [m] variable, what a loss counts in each cluster; 0 in those without images,
        which are never predicted rightly, as officially.
    """

    method = "deepcluster"
    background_labels = None  # it compares nothing with a background

    def __init__(
        self,
        network: tf.keras.Model,
        num_examples: int,
        *,
        num_clusters: int,
        top_rate: float,
        **shared,
    ):
        """Makes labels and weights of the m clusters; under a strategy, call it in its scope.

        Args:
          network: see `Classification`.
          num_examples: N.
          num_clusters: m.
          top_rate: learning rate of the layer on top, as a multiple of the network's.
          **shared: see `Classification`.
        """
        super().__init__(network, num_examples, num_clusters, **shared)
        self.top_rate = top_rate
        fixed = {
            "trainable": False,
            "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA,
        }
        self.cluster_labels = tf.Variable(
            lambda: tf.fill([num_examples, 1], -1.0), name="cluster_labels", **fixed
        )
        self.cluster_weights = tf.Variable(
            lambda: tf.zeros([num_clusters]), name="cluster_weights", **fixed
        )

    def begin_round(self, round_: int) -> None:
        """Weighs the clusters that `cluster_labels` now holds, and starts with a new layer on top.

        Args:
          round_: how many times this run has clustered before; the layer depends on the seed and
            on it.
        """
        labels = self.cluster_labels.numpy()[:, 0].astype(np.int64)
        sizes = np.bincount(labels, minlength=self.cluster_weights.shape[0])
        self.cluster_weights.assign(balanced_weights(sizes))
        kernel, bias = self.classifier.kernel, self.classifier.bias
        kernel.assign(
            tf.random.stateless_normal(kernel.shape, seed=[self.seed, round_], stddev=TOP_STDDEV)
        )
        bias.assign(tf.zeros_like(bias))

    def _targets(self, indices):
        clustered = tf.debugging.Assert(
            self.cluster_labels[0, 0] >= 0.0,
            ["DeepCluster has no clusters yet: add DeepClusterCallback to fit's callbacks."],
        )
        with tf.control_dependencies([clustered]):
            labels = tf.cast(tf.gather(self.cluster_labels, indices)[:, 0], tf.int32)  # [B]
        return labels, tf.gather(self.cluster_weights, labels)

    def _logits(self, features):
        return self.classifier(tf.nn.relu(features))

    def _apply(self, network_gradients, top_gradients):
        self.optimizer.apply_gradients(zip(network_gradients, self.optimized_weights, strict=True))
        # After the optimizer, which has just set the learning rate of this step.
        rate = self.top_rate * self.optimizer.learning_rate
        replica = tf.distribute.get_replica_context()
        sums = replica.all_reduce(tf.distribute.ReduceOp.SUM, top_gradients)
        for weight, gradient in zip(self.classifier.trainable_variables, sums, strict=True):
            # In a replica, `handle` is that replica's own copy, as in `MemoryBank.update`.
            tf.raw_ops.ResourceApplyGradientDescent(var=weight.handle, alpha=rate, delta=gradient)


def balanced_weights(sizes: np.ndarray) -> np.ndarray:
    """What the loss of an image counts, so that every cluster counts the same.

    Args:
      sizes: [m] images of each cluster.

    Returns:
      float32 [m], N / (number of clusters with images * size); 0 without images. The mean over all
      images is 1.
    """
    sizes = np.asarray(sizes, np.float64)
    used = sizes > 0
    return np.where(used, sizes.sum() / (used.sum() * np.maximum(sizes, 1)), 0).astype(np.float32)
