"""Held-out kNN accuracy while training, against the memory bank."""

from collections.abc import Callable

import numpy as np

from la_tf.callbacks.step_callback import EvaluationCallback
from la_tf.evaluation.knn import KS, knn_accuracy
from la_tf.results.knn_metric import named
from la_tf.runs.log import RunLog
from la_tf.schedules import Plateau


class KNNCallback(EvaluationCallback):
    """Classifies the held-out images by their neighbours in the bank (section 4.2)."""

    def __init__(
        self,
        *,
        embed_heldout: Callable[[], np.ndarray],
        heldout_labels: np.ndarray,
        train_labels: np.ndarray,
        log: RunLog,
        tau: float,
        plateau: Plateau | None = None,
        **epochs: int,
    ):
        """Describes the evaluation.

        Args:
          embed_heldout: embeds the held-out images' centre crops with the network as it is: [Q, D].
          heldout_labels: [Q] their classes.
          train_labels: [N] classes of the bank's rows.
          log: takes the accuracies.
          tau: temperature of the votes.
          plateau: told the accuracy at the largest K, if given.
          **epochs: when, see `EvaluationCallback`.
        """
        super().__init__(**epochs)
        self.embed_heldout = embed_heldout
        self.heldout_labels = heldout_labels
        self.train_labels = train_labels
        self.log = log
        self.tau = tau
        self.plateau = plateau

    def evaluate(self, model) -> dict[int, float]:
        """K -> accuracy, for the model as it is."""
        return knn_accuracy(
            self.embed_heldout(),
            self.heldout_labels,
            model.bank.vectors.numpy(),
            self.train_labels,
            KS,
            self.tau,
        )

    def evaluate_epoch(self, epoch: int) -> None:
        """Logs the accuracies, and what the plateau rule makes of them."""
        accuracy = self.evaluate(self.model)
        self.log.write("knn", self.step, epoch, **named(accuracy))
        if self.plateau is not None and self.plateau.report(accuracy[KS[0]]):
            rate = float(self.plateau.optimizer.learning_rate.numpy())
            self.log.write("plateau", self.step, epoch, learning_rate=rate)
