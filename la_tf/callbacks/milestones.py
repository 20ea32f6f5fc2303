"""The rows of the table that a small run ends with: pixels, untrained, end of IR, end of LA."""

from collections.abc import Callable, Sequence

import numpy as np

from la_tf.callbacks.step_callback import StepCallback
from la_tf.evaluation.knn import KS, knn_accuracy
from la_tf.results.knn_metric import named
from la_tf.runs.log import RunLog

# Embeddings of the training images [N, D], then of the held-out images [Q, D].
Embeddings = Sequence[np.ndarray]


class Milestones(StepCallback):
    """Held-out kNN against centre crops of the training images, as for Places (section 4.2).

    Raw pixels and an untrained network have no memory bank; this protocol serves them and the
    trained network alike.
    """

    def __init__(
        self,
        *,
        embed: Callable[[], Embeddings],
        raw_pixels: Callable[[], Embeddings],
        train_labels: np.ndarray,
        heldout_labels: np.ndarray,
        last_epoch: int,
        steps_per_epoch: int,
        log: RunLog,
        tau: float,
    ):
        """Describes the evaluation.

        Args:
          embed: embeddings of both sets by the network as it is now.
          raw_pixels: the baseline's embeddings of both sets.
          train_labels: [N].
          heldout_labels: [Q].
          last_epoch: epochs in total.
          steps_per_epoch: steps of one epoch.
          log: takes a record a row.
          tau: temperature of the votes.
        """
        super().__init__(steps_per_epoch)
        self.embed = embed
        self.raw_pixels = raw_pixels
        self.train_labels = train_labels
        self.heldout_labels = heldout_labels
        self.last_epoch = last_epoch
        self.log = log
        self.tau = tau

    def before_training(self) -> None:
        """Logs the two rows that no training can change."""
        self._write("raw pixels", self.raw_pixels(), epoch=0)
        self._write("untrained network", self.embed(), epoch=0)

    def on_epoch_end(self, epoch, logs=None):
        """Logs the end of the warm start and the end of the run."""
        if epoch + 1 == self.last_epoch or self.step == self.model.warm_start_steps:
            self._write(f"end of {self.phase}", self.embed(), epoch + 1)

    def _write(self, name: str, embeddings: Embeddings, epoch: int) -> None:
        train, heldout = embeddings
        accuracy = knn_accuracy(
            heldout, self.heldout_labels, train, self.train_labels, KS, self.tau
        )
        self.log.write("milestone", self.step, epoch, name=name, **named(accuracy))
