"""Held-out kNN accuracy while training, against the memory bank."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from la_tf.callbacks.step_callback import EvaluationCallback
from la_tf.evaluation.knn import KS, knn_accuracy
from la_tf.results.knn_metric import record_fields
from la_tf.runs.log import RunLog
from la_tf.schedules import Plateau


class KNNEvaluation(EvaluationCallback):
    """Classifies the held-out images by their neighbours among the training images."""

    def __init__(
        self,
        *,
        heldout_labels: np.ndarray,
        train_labels: np.ndarray,
        log: RunLog,
        tau: float,
        **epochs: int,
    ):
        """Describes the evaluation.

        Args:
          heldout_labels: [Q] classes of the held-out images.
          train_labels: [N] classes of the training images.
          log: takes the accuracies.
          tau: temperature of the votes.
          **epochs: when, see `EvaluationCallback`.
        """
        super().__init__(**epochs)
        self.heldout_labels = heldout_labels
        self.train_labels = train_labels
        self.log = log
        self.tau = tau

    def accuracy(self, heldout: np.ndarray, train: np.ndarray) -> dict[int, float]:
        """K -> accuracy, from embeddings [Q, D] and [N, D]."""
        return knn_accuracy(heldout, self.heldout_labels, train, self.train_labels, KS, self.tau)


class KNNCallback(KNNEvaluation):
    """Takes the bank's rows for the training images (section 4.2)."""

    kinds = ("knn", "plateau")

    def __init__(
        self,
        *,
        embed_heldout: Callable[[], np.ndarray],
        plateau: Plateau | None = None,
        **options: Any,
    ):
        """Describes the evaluation.

        Args:
          embed_heldout: embeds the held-out images' centre crops with the network as it is: [Q, D].
          plateau: told the accuracy at the largest K, if given.
          **options: see `KNNEvaluation`.
        """
        super().__init__(**options)
        self.embed_heldout = embed_heldout
        self.plateau = plateau

    def evaluate(self, model: tf.keras.Model) -> dict[int, float]:
        """K -> accuracy, for the model as it is."""
        return self.accuracy(self.embed_heldout(), model.bank.vectors.numpy())

    def evaluate_epoch(self, epoch: int) -> None:
        """Logs the accuracies, and what the plateau rule makes of them."""
        accuracy = self.evaluate(self.model)
        self.log.write("knn", self.step, epoch, **record_fields(accuracy))
        if self.plateau is not None and self.plateau.report(accuracy[KS[0]]):
            rate = float(self.plateau.optimizer.learning_rate.numpy())
            self.log.write("plateau", self.step, epoch, learning_rate=rate)
