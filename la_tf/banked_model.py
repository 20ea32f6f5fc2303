"""What Local Aggregation and its baselines share: a network, its memory bank, parts of a step."""

import time
from collections.abc import Sequence

import tensorflow as tf

from la_tf.memory_bank import MemoryBank


class BankedModel(tf.keras.Model):
    """An embedding network, trained on (index, view) batches beside a memory bank.

    A subclass has the `train_step`. Under a strategy, make it in the strategy's scope.

    Attributes:
      method: its name in `--method`.
      network: views, normalised images [B, S, S, 3] where it is one of ours -> unit embeddings
        [B, D].
      bank: the `MemoryBank` of all N training images.
      warm_start_steps: steps of instance recognition before the method's own.
      seconds_waiting: time that `fit` has spent waiting for data so far.
    """

    method: str
    warm_start_steps = 0

    def __init__(
        self,
        network: tf.keras.Model,
        num_examples: int,
        *,
        mix: float,
        weight_decay: float,
        seed: int,
    ):
        """Makes the bank of N rows; the other arguments as in the subclasses."""
        super().__init__(name=self.method)
        self.network = network
        self.weight_decay = weight_decay
        self.seed = seed
        self.seconds_waiting = 0.0
        self.bank = MemoryBank(num_examples, network.output_shape[-1], mix, seed)
        # Means over the steps since the last reset.
        self._loss = tf.keras.metrics.Mean("loss")
        self._spread = tf.keras.metrics.Mean("spread")

    @property
    def optimized_weights(self) -> list[tf.Variable]:
        """The weights that the optimizer changes."""
        return self.network.trainable_variables

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """What the network takes, normalised images [B, S, S, 3], to unit embeddings [B, D]."""
        return self.network(images, training=training)

    def _train_mode(self, network: tf.keras.Model, views: tf.Tensor) -> tf.Tensor:
        """A network in training mode, compiled by XLA if that was asked for.

        The rest of the step is not, since XLA does not have the operations that select neighbours.
        """
        if not self.jit_compile:
            return network(views, training=True)

        @tf.function(jit_compile=True, autograph=False)
        def compiled(views: tf.Tensor) -> tf.Tensor:
            # Without this, XLA would also compute the gradient with respect to the pixels.
            return network(tf.stop_gradient(views), training=True)

        return compiled(views)

    def _weight_penalty(self) -> tf.Tensor:
        """Eq. 4, second term; halved as in the official code, so its gradient is lambda theta."""
        return self.weight_decay * tf.add_n(
            [tf.nn.l2_loss(kernel) for kernel in decayed_weights(self)]
        )

    def _update_bank(
        self, indices: tf.Tensor, embeddings: tf.Tensor, after: Sequence[tf.Tensor] = ()
    ) -> tf.Tensor:
        """Eq. 5 for the global batch, once `after` is computed.

        Every replica writes the rows of the whole batch into its own copy of the bank.

        Args:
          indices: [B] of this replica's part of the batch.
          embeddings: [B, D] unit rows.
          after: what reads the bank as it was before the step.

        Returns:
          The embeddings of the global batch.
        """
        replica = tf.distribute.get_replica_context()
        # int64, because int32 tensors cannot be gathered between GPUs.
        all_indices = replica.all_gather(tf.cast(indices, tf.int64), axis=0)
        all_embeddings = replica.all_gather(tf.stop_gradient(embeddings), axis=0)
        with tf.control_dependencies(after):
            self.bank.update(all_indices, all_embeddings)
        return all_embeddings

    @staticmethod
    def _means(*values: tf.Tensor) -> list[tf.Tensor]:
        """Means over the global batch of values [B] of every replica's part."""
        means = tf.stack([tf.reduce_mean(x) for x in values])
        replica = tf.distribute.get_replica_context()
        return tf.unstack(replica.all_reduce(tf.distribute.ReduceOp.MEAN, means))

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
            # No `if` in a step depends on a tensor, and AutoGraph would take half of the tracing to
            # find that out.
            distributed_step = tf.function(
                tf.autograph.experimental.do_not_convert(distributed_step)
            )

        def train_function(iterator):
            started = time.perf_counter()
            data = next(iterator)
            self.seconds_waiting += time.perf_counter() - started
            return distributed_step(data)

        self.train_function = train_function
        return train_function


def decayed_weights(model: tf.keras.Model) -> list[tf.Variable]:
    """The weights that Eq. 4 decays: kernels of convolutions and dense layers.

    Batch norm's scales and offsets and the biases are left out, as in the official code; so are the
    kernels of depthwise convolutions, as is usual for MobileNets.
    """
    kernels = [
        layer.kernel
        for layer in model.submodules
        if isinstance(layer, (tf.keras.layers.Conv2D, tf.keras.layers.Dense))
    ]
    separable = tf.keras.layers.SeparableConv2D
    return kernels + [
        layer.pointwise_kernel for layer in model.submodules if isinstance(layer, separable)
    ]


def spread(embeddings: tf.Tensor) -> tf.Tensor:
    """Standard deviation over [B, D] embeddings of one coordinate, averaged over coordinates."""
    return tf.reduce_mean(tf.math.reduce_std(embeddings, axis=0))
