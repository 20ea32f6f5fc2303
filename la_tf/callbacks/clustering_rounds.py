"""Clusters the memory bank before the first step of Local Aggregation, then periodically."""

import time
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from sklearn.metrics import normalized_mutual_info_score

from la_tf.callbacks.sharing import exchange
from la_tf.callbacks.step_callback import StepCallback
from la_tf.clustering import Clustering, dbscan, run_clusterings
from la_tf.config import ClusteringConfig
from la_tf.resolve import background_clusters, clusters
from la_tf.runs import runtime
from la_tf.runs.health import diverged
from la_tf.runs.log import RunLog


class ClusteringCallback(StepCallback):
    """Sets the model's `cluster_labels` from H k-means runs (section 3.1).

    It clusters before a step, never after one: a run resumed from any checkpoint clusters exactly
    where an uninterrupted one does, from the same bank.

    Several workers share the H runs: of W workers, worker w makes runs w, w + W, ..., and all
    exchange their labels. Bank and seeds are the same on each, so the labels are those that one
    worker would have made.
    """

    def __init__(
        self,
        config: ClusteringConfig | None = None,
        *,
        steps_per_epoch: int | None = None,
        seed: int | None = None,
        log: RunLog | None = None,
        timing: RunLog | None = None,
        say: Callable[[str], None] = print,
        center_crop_embeddings: Callable[[], np.ndarray] | None = None,
        describe_neighbors: Callable[[], dict[str, float]] | None = None,
    ):
        """Describes when and what to cluster.

        Args:
          config: m, H, how often, and from which vectors; default the model's.
          steps_per_epoch: steps of one epoch; default those of `fit`.
          seed: the run's seed; default the model's.
          log: takes a record of every round whose labels are set, if given.
          timing: takes the seconds that each round took, if given.
          say: takes a sentence for a person.
          center_crop_embeddings: fresh embeddings [N, D] of the training set, for
            `cluster_input="center_crops"`.
          describe_neighbors: what to log of the neighbours that the new labels make, if anything.
        """
        super().__init__(steps_per_epoch)
        self.config = config
        self.seed = seed
        self.log = log
        self.timing = timing
        self.say = say
        self.center_crop_embeddings = center_crop_embeddings
        self.describe_neighbors = describe_neighbors
        self._use_gpus = True
        self._round_began: float | None = None

    def set_model(self, model):
        """Takes from the model what was not given."""
        super().set_model(model)
        self.config = self.config or model.clustering
        self.seed = model.seed if self.seed is None else self.seed

    def on_train_begin(self, logs=None):
        """Takes the length of an epoch from `fit` if it was not given.

        Raises:
          ValueError: `fit` does not know it either.
        """
        super().on_train_begin(logs)
        self.steps_per_epoch = self.steps_per_epoch or self.params["steps"]
        if not self.steps_per_epoch:
            raise ValueError("the dataset does not know its length: give steps_per_epoch to fit.")

    @property
    def every(self) -> int:
        """Steps between two rounds."""
        return self.config.cluster_every_steps or self.steps_per_epoch

    def on_train_batch_begin(self, batch, logs=None):
        """Clusters if this step is the first of a round."""
        since = self.step - self.model.warm_start_steps
        if since % self.every == 0:
            if since >= 0:
                self.cluster(since // self.every)
            self._round_began = time.perf_counter()

    def cluster(self, round_: int) -> None:
        """Sets the labels of round `round_` and logs what they are like.

        Raises:
          TrainingDiverged: there is nothing finite to cluster.
        """
        started = time.perf_counter()
        labels = self.model.cluster_labels
        previous, vectors = labels.numpy().T.astype(np.int32), self._vectors()
        runs = self._close(vectors, round_)
        labels.assign(_columns(runs))
        if (background := getattr(self.model, "background_labels", None)) is not None:
            background.assign(_columns(self._background(vectors, round_)))
        if self.log is not None:
            epoch = self.step // self.steps_per_epoch + 1
            self.log.write("clustering", self.step, epoch, **_summary(round_, runs, previous))
            if self.describe_neighbors is not None:
                self.log.write("neighbors", self.step, epoch, **self.describe_neighbors())
        if self.timing is not None:
            self._write_times(started)

    def _write_times(self, started: float) -> None:
        now, epoch = time.perf_counter(), self.step // self.steps_per_epoch + 1
        times = {"seconds": round(now - started, 3)}
        if self._round_began is not None:  # this process has seen the whole round that ends here
            times["share"] = round((now - started) / (now - self._round_began), 4)
        self.timing.write("clustering", self.step, epoch, **times)

    def _vectors(self) -> np.ndarray:
        """What is clustered, [N, D]."""
        if self.config.cluster_input == "center_crops":
            vectors = self.center_crop_embeddings()
        else:
            # No copy, and yet it keeps its values when the variable changes.
            vectors = np.asarray(tf.convert_to_tensor(self.model.bank.vectors))
        if not np.isfinite(vectors).all():
            raise diverged("the embeddings", max(0, self.step - self.every), self.step)
        return vectors

    def _close(self, vectors: np.ndarray, round_: int) -> list[Clustering]:
        """The H clusterings of a round."""
        config = self.config
        if config.clusterer == "dbscan":
            return [dbscan(vectors, config.dbscan_eps, config.dbscan_min_samples)]
        m = clusters(config.num_clusters, len(vectors))
        return self._run(vectors, m, range(config.num_clusterings), round_)

    def _background(self, vectors: np.ndarray, round_: int) -> list[Clustering]:
        """The coarse clusterings of a round, for `--background=clusters`."""
        count = self.model.background_labels.shape[1]
        m = background_clusters(self.model.k, count, len(vectors))
        first = self.config.num_clusterings  # other random starts than those of the H
        return self._run(vectors, m, range(first, first + count), round_)

    def _run(self, vectors: np.ndarray, m: int, numbers: range, round_: int) -> list[Clustering]:
        """The k-means runs of these numbers in a round, from all workers."""
        strategy = self.model.distribute_strategy
        workers = runtime.num_workers(strategy)
        mine = numbers[runtime.worker_index(strategy) :: workers]
        runs = run_clusterings(
            vectors,
            m,
            numbers.stop,
            self.seed,
            round_,
            self.config.kmeans_iterations,
            numbers=mine,
            gpus=runtime.faiss_gpus(strategy) if self._use_gpus else [],
            say=self._leave_gpus,
        )
        if workers == 1:
            return runs
        made = {number - numbers.start: run for number, run in zip(mine, runs, strict=True)}
        return exchange(strategy, made, len(numbers), len(vectors), m)

    def _leave_gpus(self, reason: str) -> None:
        """Says why, and uses the CPU from now on: later rounds need as much memory."""
        self.say(reason)
        self._use_gpus = False


def _columns(runs: Sequence[Clustering]) -> np.ndarray:
    """Labels as the model holds them: [N, H]."""
    return np.stack([run.labels for run in runs], axis=1)


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
        # 1 if all clusters are the same as before, near 0 if they have nothing in common.
        labels = [run.labels for run in runs]
        scores = list(map(normalized_mutual_info_score, previous, labels))
        summary["nmi_previous"] = float(np.mean(scores))
    return summary
