"""The rows of the table that a small run ends with: pixels, untrained, end of IR, end of LA."""

from collections.abc import Callable, Sequence

import numpy as np

from la_tf.callbacks.step_callback import EvaluationCallback
from la_tf.evaluation.knn import KS, knn_accuracy
from la_tf.results.knn_metric import named
from la_tf.runs.log import RunLog

# Embeddings of the training images [N, D], then of the held-out images [Q, D].
Embeddings = Sequence[np.ndarray]


class Milestones(EvaluationCallback):
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
        log: RunLog,
        tau: float,
        **epochs: int,
    ):
        """Describes the evaluation.

        Args:
          embed: embeddings of both sets by the network as it is now.
          raw_pixels: the baseline's embeddings of both sets.
          train_labels: [N].
          heldout_labels: [Q].
          log: takes a record a row.
          tau: temperature of the votes.
          **epochs: when, see `EvaluationCallback`.
        """
        super().__init__(**epochs)
        self.embed = embed
        self.raw_pixels = raw_pixels
        self.train_labels = train_labels
        self.heldout_labels = heldout_labels
        self.log = log
        self.tau = tau

    def before_training(self) -> None:
        """Logs the two baselines."""
        self._write("raw pixels", self.raw_pixels(), epoch=0)
        self._write("untrained network", self.embed(), epoch=0)

    def evaluate_epoch(self, epoch: int) -> None:
        """Logs the end of the warm start, or of the run."""
        self._write(f"end of {self.phase}", self.embed(), epoch)

    def _write(self, name: str, embeddings: Embeddings, epoch: int) -> None:
        train, heldout = embeddings
        accuracy = knn_accuracy(
            heldout, self.heldout_labels, train, self.train_labels, KS, self.tau
        )
        self.log.write("milestone", self.step, epoch, name=name, **named(accuracy))
