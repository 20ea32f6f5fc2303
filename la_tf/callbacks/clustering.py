"""Clusters the memory bank before the first step of Local Aggregation, then periodically."""

import time
from collections.abc import Callable

import numpy as np
from sklearn.metrics import normalized_mutual_info_score

from la_tf.callbacks.base import StepCallback
from la_tf.clustering import Clustering, run_clusterings
from la_tf.config import ClusteringConfig
from la_tf.health import diverged
from la_tf.run_directory import RunLog


class ClusteringCallback(StepCallback):
    """Sets the model's `cluster_labels` from H k-means runs (section 3.1).

    Due before a step, never after one: a run resumed from any checkpoint clusters exactly where
    an uninterrupted one does, from the same bank.
    """

    def __init__(
        self,
        config: ClusteringConfig,
        *,
        warm_start_steps: int,
        steps_per_epoch: int,
        seed: int,
        log: RunLog,
        timing: RunLog,
        center_crop_embeddings: Callable[[], np.ndarray] | None = None,
    ):
        """Describes when and what to cluster.

        Args:
          config: m, H, how often, and from which vectors; m must be a number.
          warm_start_steps: the first step of Local Aggregation.
          steps_per_epoch: steps of one epoch.
          seed: the run's seed.
          log: takes a record of every round.
          timing: takes its seconds.
          center_crop_embeddings: fresh embeddings [N, D] of the training set, for
            `cluster_input="center_crops"`.
        """
        super().__init__(steps_per_epoch)
        self.config = config
        self.warm_start_steps = warm_start_steps
        self.every = config.cluster_every_steps or steps_per_epoch
        self.seed = seed
        self.log = log
        self.timing = timing
        self.center_crop_embeddings = center_crop_embeddings

    def on_train_batch_begin(self, batch, logs=None):
        """Clusters if this step is the first of a round."""
        since = self.step - self.warm_start_steps
        if since >= 0 and since % self.every == 0:
            self.cluster(since // self.every)

    def cluster(self, round_: int) -> None:
        """Runs round `round_` and logs how it went.

        Raises:
          TrainingDiverged: there is nothing finite to cluster.
        """
        started = time.perf_counter()
        if self.config.cluster_input == "center_crops":
            vectors = self.center_crop_embeddings()
        else:
            vectors = self.model.bank.vectors.numpy()
        if not np.isfinite(vectors).all():
            raise diverged("the embeddings", max(0, self.step - self.every), self.step)
        runs = run_clusterings(
            vectors,
            self.config.num_clusters,
            self.config.num_clusterings,
            self.seed,
            round_,
            self.config.kmeans_iterations,
        )
        labels = np.stack([run.labels for run in runs])
        previous = self.model.cluster_labels.numpy()
        self.model.cluster_labels.assign(labels)
        epoch = self.step // self.steps_per_epoch + 1
        self.log.write("clustering", self.step, epoch, **_summary(round_, runs, previous))
        seconds = time.perf_counter() - started
        self.timing.write("clustering", self.step, epoch, seconds=round(seconds, 3))


def _summary(round_: int, runs: list[Clustering], previous: np.ndarray) -> dict:
    """What to log of one round: objective, cluster sizes, and agreement with the last round."""
    sizes = np.stack([run.sizes for run in runs])
    summary = {
        "round": round_,
        "inertia": float(np.mean([run.inertia for run in runs])),
        "smallest_cluster": int(sizes.min()),
        "largest_cluster": int(sizes.max()),
        "empty_clusters": int((sizes == 0).sum()),
    }
    if previous.min() >= 0:
        # 1 if every C_i is what it was, towards 0 if nothing of it is left.
        summary["nmi_previous"] = float(
            np.mean(
                [
                    normalized_mutual_info_score(before, run.labels)
                    for before, run in zip(previous, runs, strict=True)
                ]
            )
        )
    return summary
