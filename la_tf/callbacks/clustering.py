"""Clusters the memory bank before the first step of Local Aggregation, then periodically."""

import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from sklearn.metrics import normalized_mutual_info_score

from la_tf.callbacks.background import BackgroundClustering
from la_tf.callbacks.base import StepCallback
from la_tf.clustering import Clustering, run_clusterings
from la_tf.config import ClusteringConfig
from la_tf.health import diverged
from la_tf.run_directory import RunLog


class ClusteringCallback(StepCallback):
    """Sets the model's `cluster_labels` from H k-means runs (section 3.1).

    Due before a step, never after one: a run resumed from any checkpoint clusters exactly where
    an uninterrupted one does, from the same bank.

    In the background, round r > 0 sets the labels of the bank as it was at the start of round
    r - 1, which were made meanwhile. Round 0 waits for its own, and round 1 keeps them.
    """

    def __init__(
        self,
        config: ClusteringConfig,
        *,
        warm_start_steps: int,
        steps_per_epoch: int,
        total_steps: int,
        seed: int,
        log: RunLog,
        timing: RunLog,
        background: BackgroundClustering | None = None,
        center_crop_embeddings: Callable[[], np.ndarray] | None = None,
    ):
        """Describes when and what to cluster.

        Args:
          config: m, H, how often, and from which vectors; m must be a number.
          warm_start_steps: the first step of Local Aggregation.
          steps_per_epoch: steps of one epoch.
          total_steps: steps of the whole run.
          seed: the run's seed.
          log: takes a record of every round whose labels are set.
          timing: takes the seconds that training stood still for it.
          background: clusters beside training; its `state` must be in the checkpoints.
          center_crop_embeddings: fresh embeddings [N, D] of the training set, for
            `cluster_input="center_crops"`.
        """
        super().__init__(steps_per_epoch)
        self.config = config
        self.warm_start_steps = warm_start_steps
        self.every = config.cluster_every_steps or steps_per_epoch
        self.total_steps = total_steps
        self.seed = seed
        self.log = log
        self.timing = timing
        self.background = background
        self.center_crop_embeddings = center_crop_embeddings
        self._round_began: float | None = None

    def on_train_begin(self, logs=None):
        """Begins again what a checkpoint was written beside."""
        super().on_train_begin(logs)
        # Due before this step, not at it: that is still to come.
        round_ = (self.step - 1 - self.warm_start_steps) // self.every
        if self.background and not self.background.is_running and self._runs_beside(round_):
            self.background.resume(round_)

    def _runs_beside(self, round_: int) -> bool:
        """Whether the vectors of this round are clustered in the background.

        The labels of the last round would come after the end.
        """
        next_due = self.warm_start_steps + (round_ + 1) * self.every
        return round_ > 0 and next_due < self.total_steps

    def on_train_batch_begin(self, batch, logs=None):
        """Clusters if this step is the first of a round."""
        since = self.step - self.warm_start_steps
        if since % self.every == 0:
            if since >= 0:
                self.cluster(since // self.every)
            self._round_began = time.perf_counter()

    def cluster(self, round_: int) -> None:
        """Does what is due at the start of round `round_` and logs how it went.

        Raises:
          TrainingDiverged: there is nothing finite to cluster.
        """
        started = time.perf_counter()
        beside = {}
        if self.background is None or round_ == 0:
            self._set_labels(round_, self._run(round_))
        elif self.background.is_running:
            runs, seconds = self.background.take()
            beside = {"background_seconds": round(seconds, 3)}
            self._set_labels(round_ - 1, runs)
        if self.background and self._runs_beside(round_):
            self.background.start(self._vectors(), round_)
        self._log_time(started, beside)

    def _vectors(self) -> np.ndarray:
        """[N, D], not to be changed; the bank goes on changing beside them."""
        if self.config.cluster_input == "center_crops":
            vectors = self.center_crop_embeddings()
        else:
            # A tensor keeps its values when its variable changes, and is an array without a copy.
            vectors = np.asarray(tf.convert_to_tensor(self.model.bank.vectors))
        if not np.isfinite(vectors).all():
            raise diverged("the embeddings", max(0, self.step - self.every), self.step)
        return vectors

    def _run(self, round_: int) -> list[Clustering]:
        return run_clusterings(
            self._vectors(),
            self.config.num_clusters,
            self.config.num_clusterings,
            self.seed,
            round_,
            self.config.kmeans_iterations,
        )

    def _set_labels(self, round_: int, runs: list[Clustering]) -> None:
        """Sets the labels of round `round_` and logs what they are like."""
        previous = self.model.cluster_labels.numpy().T
        self.model.cluster_labels.assign(np.stack([run.labels for run in runs], axis=1))
        epoch = self.step // self.steps_per_epoch + 1
        self.log.write("clustering", self.step, epoch, **_summary(round_, runs, previous))

    def _log_time(self, started: float, beside: dict[str, float]) -> None:
        """Logs how long training stood still; `share` is of the round that has just ended."""
        now = time.perf_counter()
        times = {"seconds": round(now - started, 3), **beside}
        if self._round_began is not None:  # else this process has not seen a whole round yet
            times["share"] = round((now - started) / (now - self._round_began), 4)
        epoch = self.step // self.steps_per_epoch + 1
        self.timing.write("clustering", self.step, epoch, **times)


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
