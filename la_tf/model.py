"""Local Aggregation as a Keras model: warm start by instance recognition, then Eq. 3."""

import time

import tensorflow as tf

from la_tf.config import ObjectiveConfig
from la_tf.masks import masked_local_aggregation, masks_pay
from la_tf.memory_bank import MemoryBank
from la_tf.neighbors import close_neighbors, nearest_rows
from la_tf.objective import (
    instance_recognition_loss,
    local_aggregation_loss,
    noise_contrastive_loss,
)
from la_tf.resolve import background_neighbours


class LocalAggregation(tf.keras.Model):
    """Trains an embedding network on (index, view) batches with `compile` and `fit`.

    Steps before `warm_start_steps` minimise the instance-recognition loss, later ones Local
    Aggregation (section 4.1). Which one is read off the optimizer's step count, so bank, momentum
    and learning-rate schedule go on over the switch, and a restored checkpoint is in the right
    phase by itself. Local Aggregation needs `cluster_labels`, which `ClusteringCallback` sets.

    Attributes:
      network: images [B, S, S, 3] -> unit embeddings [B, D].
      bank: the `MemoryBank` of all N training images.
      cluster_labels: [N, H] variable of whole numbers, exact up to 2**24; -1 until the first
        clustering. float32, since TensorFlow keeps int32 variables on the host and would copy all
        of them to the GPU in every step.
      seconds_waiting: time that `fit` has spent waiting for data so far.
    """

    def __init__(
        self,
        network: tf.keras.Model,
        num_examples: int,
        *,
        objective: ObjectiveConfig,
        num_clusterings: int,
        warm_start_steps: int,
        weight_decay: float = 1e-4,
        block_size: int = 0,
        seed: int = 0,
    ):
        """Makes the bank and the labels; under a strategy, call it in its scope.

        Args:
          network: images to unit embeddings, see `networks.build_network`.
          num_examples: N.
          objective: Equations 1 to 5; k is derived from N where it is open.
          num_clusterings: H.
          warm_start_steps: steps of instance recognition.
          weight_decay: lambda of Eq. 4.
          block_size: embeddings to compare with the bank at once, see `map_blocks`; 0 is all.
          seed: seed of the bank and of the noise samples.

        Raises:
          ConfigError: k exceeds N.
        """
        super().__init__(name="local_aggregation")
        self.network = network
        self.objective = objective
        self.k = background_neighbours(objective.k, num_examples)
        self.warm_start_steps = warm_start_steps
        self.weight_decay = weight_decay
        self.block_size = block_size
        self.seed = seed
        self.seconds_waiting = 0.0
        self.bank = MemoryBank(num_examples, network.output_shape[-1], objective.mix, seed)
        self.cluster_labels = tf.Variable(
            lambda: tf.fill([num_examples, num_clusterings], -1.0),
            trainable=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            name="cluster_labels",
        )
        # Means over the steps since the last reset; see train_step for what they hold.
        self._loss = tf.keras.metrics.Mean("loss")
        self._empty_close = tf.keras.metrics.Mean("empty_close")
        self._close_share = tf.keras.metrics.Mean("close_share")
        self._spread = tf.keras.metrics.Mean("spread")

    @property
    def metrics(self) -> list[tf.keras.metrics.Metric]:
        """The four means of `train_step`."""
        return [self._loss, self._empty_close, self._close_share, self._spread]

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Images [B, S, S, 3] to unit embeddings [B, D]."""
        return self.network(images, training=training)

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step on (indices [B], views [B, S, S, 3]); B is this replica's part of the batch.

        Returns:
          Means over the global batch, then over the steps since the last reset:
          loss: Eq. 3, or the IR loss; without weight decay.
          empty_close: share of images whose close and background neighbours do not meet.
          close_share: share of the background neighbours that are close.
          spread: standard deviation of the embeddings' coordinates over the batch; 1/sqrt(D) when
            they cover the sphere evenly, 0 when they have collapsed into a point.
        """
        indices, views = data
        replica = tf.distribute.get_replica_context()
        replicas = replica.num_replicas_in_sync
        bank = self.bank.read()  # [N, D]
        with tf.GradientTape() as tape:
            embeddings = self._embed(views)  # [B, D]
            losses, empty_close, close_share = tf.cond(
                self.optimizer.iterations < self.warm_start_steps,
                lambda: self._instance_recognition(indices, embeddings, bank),
                lambda: self._local_aggregation(indices, embeddings, bank),
            )
            # The optimizer sums gradients over replicas: each gives its share of the global mean.
            objective = tf.reduce_mean(losses) / replicas
            objective += self._weight_penalty() / replicas
        weights = self.network.trainable_variables
        gradients = tape.gradient(objective, weights)

        # Every replica writes the rows of the whole batch into its own copy of the bank. This
        # stands after loss and gradients, which read the bank as it was before the step. int64,
        # because int32 tensors cannot be gathered between GPUs.
        all_indices = replica.all_gather(tf.cast(indices, tf.int64), axis=0)
        all_embeddings = replica.all_gather(tf.stop_gradient(embeddings), axis=0)
        with tf.control_dependencies([losses, *gradients]):
            self.bank.update(all_indices, all_embeddings)
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))

        means = tf.stack([tf.reduce_mean(x) for x in (losses, empty_close, close_share)])
        loss, empty_close, close_share = tf.unstack(
            replica.all_reduce(tf.distribute.ReduceOp.MEAN, means)
        )
        self._loss.update_state(loss)
        self._empty_close.update_state(empty_close)
        self._close_share.update_state(close_share)
        self._spread.update_state(tf.reduce_mean(tf.math.reduce_std(all_embeddings, axis=0)))
        return {metric.name: metric.result() for metric in self.metrics}

    def _embed(self, views: tf.Tensor) -> tf.Tensor:
        """The network in training mode, compiled by XLA if that was asked for.

        The rest of the step is not, since XLA does not have the operations that select neighbours.
        """
        if not self.jit_compile:
            return self.network(views, training=True)

        @tf.function(jit_compile=True)
        def compiled(views: tf.Tensor) -> tf.Tensor:
            # Without this, XLA would also compute the gradient with respect to the pixels.
            return self.network(tf.stop_gradient(views), training=True)

        return compiled(views)

    def _instance_recognition(self, indices, embeddings, bank):
        """The warm start: ([B] losses, [B] zeros, [B] zeros), shaped as `_local_aggregation`."""
        if self.objective.ir_loss == "nce":
            noise = tf.random.stateless_uniform(
                [self.objective.nce_negatives],
                seed=tf.stack([tf.constant(self.seed, tf.int64), self.optimizer.iterations]),
                maxval=self.cluster_labels.shape[0],
                dtype=tf.int32,
            )
            losses = noise_contrastive_loss(embeddings, indices, noise, bank, self.objective.tau)
        else:
            losses = instance_recognition_loss(
                embeddings, indices, bank, self.objective.tau, self.block_size
            )
        return losses, tf.zeros_like(losses), tf.zeros_like(losses)

    def _local_aggregation(self, indices, embeddings, bank):
        """Eq. 3: ([B] losses, [B] 1 where C and B are disjoint, [B] share of B that is in C)."""
        tf.debugging.Assert(
            self.cluster_labels[0, 0] >= 0.0,
            ["Local Aggregation has no clusters yet: add ClusteringCallback to fit's callbacks."],
        )
        tau, labels = self.objective.tau, self.cluster_labels
        if masks_pay(labels.shape[0], self.k):
            losses, meets = masked_local_aggregation(
                embeddings, indices, bank, labels, self.k, tau, self.block_size
            )
            share = tf.cast(meets, tf.float32) / self.k
        else:
            similarities, background = nearest_rows(
                embeddings, bank, self.k, self.block_size
            )  # [B, k] each
            close = close_neighbors(labels, indices, background)  # [B, k]
            losses = local_aggregation_loss(similarities, close, tau)
            share = tf.reduce_mean(tf.cast(close, tf.float32), axis=1)
        return losses, tf.cast(tf.equal(share, 0.0), tf.float32), share

    def _weight_penalty(self) -> tf.Tensor:
        """Eq. 4, second term; halved as in the official code, so its gradient is lambda theta."""
        return self.weight_decay * tf.add_n(
            [tf.nn.l2_loss(kernel) for kernel in decayed_weights(self.network)]
        )

    def make_train_function(self, force: bool = False):
        """Keras's step function, with the time it waits for data added to `seconds_waiting`.

        Keras takes the batch inside its compiled function, where the wait cannot be timed.
        """
        if self.train_function is not None and not force:
            return self.train_function
        strategy = self.distribute_strategy

        def distributed_step(data):
            # All replicas return the same means, see train_step.
            outputs = strategy.run(self.train_step, args=(data,))
            return tf.nest.map_structure(
                lambda value: strategy.experimental_local_results(value)[0], outputs
            )

        if not self.run_eagerly:
            distributed_step = tf.function(distributed_step)

        def train_function(iterator):
            started = time.perf_counter()
            data = next(iterator)
            self.seconds_waiting += time.perf_counter() - started
            return distributed_step(data)

        self.train_function = train_function
        return train_function


def decayed_weights(network: tf.keras.Model) -> list[tf.Variable]:
    """The weights that Eq. 4 decays: kernels of convolutions and dense layers.

    Batch norm's scales and offsets and the biases are left out, as in the official code.
    """
    return [
        layer.kernel
        for layer in network.submodules
        if isinstance(layer, (tf.keras.layers.Conv2D, tf.keras.layers.Dense))
    ]
