"""Local Aggregation as a Keras model: warm start by instance recognition, then Eq. 3."""

import tensorflow as tf

from la_tf.banked_model import BankedModel, spread
from la_tf.config import ClusteringConfig, Config, ObjectiveConfig
from la_tf.masks import masked_local_aggregation, masks_pay
from la_tf.neighborhoods import (
    BACKGROUND_CLUSTERINGS,
    background_choice,
    close_choice,
    is_the_papers,
)
from la_tf.objective import (
    instance_recognition_loss,
    local_aggregation_loss,
    noise_contrastive_loss,
)
from la_tf.resolve import background_neighbours, close_neighbours, clusters

_PAPER = Config()  # its defaults are the paper's


class LocalAggregation(BankedModel):
    """Trains an embedding network on (index, view) batches with `compile` and `fit`.

    Steps before `warm_start_steps` minimise the instance-recognition loss, later ones Local
    Aggregation (section 4.1). Which one is read off the optimizer's step count, so bank, momentum
    and learning-rate schedule go on over the switch, and a restored checkpoint is in the right
    phase by itself. Local Aggregation needs `cluster_labels`, which `ClusteringCallback` sets.

    Attributes:
      cluster_labels: [N, H] variable of whole numbers, exact up to 2**24; -1 until the first
        clustering. float32, since TensorFlow keeps int32 variables on the host and would copy all
        of them to the GPU in every step.
      background_labels: the same, [N, 3], where clusters are the background; else None.
      find_background, find_close: B_i and C_i of a batch, see `neighborhoods`.
      by_masks: whether steps take `masked_local_aggregation` instead of these two, to the same end.
    """

    method = "local_aggregation"

    def __init__(
        self,
        network: tf.keras.Model,
        num_examples: int,
        *,
        objective: ObjectiveConfig = _PAPER.objective,
        clustering: ClusteringConfig = _PAPER.clustering,
        warm_start_steps: int = 0,
        weight_decay: float = 1e-4,
        block_size: int = 0,
        seed: int = 0,
    ):
        """Makes the bank and the labels; under a strategy, call it in its scope.

        Args:
          network: views [B, ...] to unit embeddings [B, D]: one of `networks.build_network`, which
            takes normalised images, or any Keras model that ends with UnitNormalization.
          num_examples: N.
          objective: Equations 1 to 5; k is derived from N where it is open.
          clustering: H, m, and which neighbours are close; m is derived from N where it is open.
          warm_start_steps: steps of instance recognition.
          weight_decay: lambda of Eq. 4.
          block_size: embeddings to compare with the bank at once, see `map_blocks`; 0 is all.
          seed: seed of the bank and of the noise samples.

        Raises:
          ConfigError: k or m exceeds N, or k' exceeds k.
        """
        super().__init__(
            network, num_examples, mix=objective.mix, weight_decay=weight_decay, seed=seed
        )
        self.objective, self.clustering = objective, clustering
        self.k = background_neighbours(objective.k, num_examples)
        self.warm_start_steps = warm_start_steps
        self.block_size = block_size
        self.cluster_labels = _labels(num_examples, clustering.num_clusterings, "cluster_labels")
        self.background_labels = None
        if objective.background == "clusters":
            self.background_labels = _labels(
                num_examples, BACKGROUND_CLUSTERINGS, "background_labels"
            )
        self.find_background = background_choice(
            objective, self.k, self.background_labels, block_size
        )
        m = clusters(clustering.num_clusters, num_examples)
        close_k = close_neighbours(clustering.close_k, m, self.k, num_examples)
        self.find_close = close_choice(clustering, close_k, self.cluster_labels)
        self.by_masks = is_the_papers(objective, clustering) and masks_pay(num_examples, self.k)
        # Means over the steps since the last reset; see train_step for what they hold.
        self._empty_close = tf.keras.metrics.Mean("empty_close")
        self._close_share = tf.keras.metrics.Mean("close_share")

    @property
    def metrics(self) -> list[tf.keras.metrics.Metric]:
        """The four means of `train_step`."""
        return [self._loss, self._empty_close, self._close_share, self._spread]

    def end_warm_start(self, step: int) -> None:
        """Makes the steps from `step` on those of Local Aggregation.

        `fit` then traces its step anew, since the old one holds the number.
        """
        self.warm_start_steps = step
        self.make_train_function(force=True)

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
        replicas = tf.distribute.get_replica_context().num_replicas_in_sync
        bank = self.bank.read()  # [N, D]
        with tf.GradientTape() as tape:
            embeddings = self._train_mode(self.network, views)  # [B, D]
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

        # After loss and gradients, which read the bank as it was before the step.
        all_embeddings = self._update_bank(indices, embeddings, after=[losses, *gradients])
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))

        loss, empty_close, close_share = self._means(losses, empty_close, close_share)
        self._loss.update_state(loss)
        self._empty_close.update_state(empty_close)
        self._close_share.update_state(close_share)
        self._spread.update_state(spread(all_embeddings))
        return {metric.name: metric.result() for metric in self.metrics}

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
        if self.by_masks:
            losses, meets = masked_local_aggregation(
                embeddings,
                indices,
                bank,
                self.cluster_labels,
                self.k,
                self.objective.tau,
                self.block_size,
            )
            share = tf.cast(meets, tf.float32) / self.k
        else:
            background = self.find_background(embeddings, indices, bank)  # [B, K] rows
            close = self.find_close(indices, background)  # [B, K]
            losses = local_aggregation_loss(
                background.similarities, close, self.objective.tau, background.members
            )
            share = background.share(close)
        return losses, tf.cast(tf.equal(share, 0.0), tf.float32), share


def _labels(num_examples: int, num_clusterings: int, name: str) -> tf.Variable:
    """A label for every example in every clustering, none yet: [N, H]."""
    return tf.Variable(
        lambda: tf.fill([num_examples, num_clusterings], -1.0),
        trainable=False,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        name=name,
    )
