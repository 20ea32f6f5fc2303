"""Held-out kNN accuracy while training, against the memory bank."""

from collections.abc import Callable

import numpy as np

from la_tf.callbacks.base import StepCallback
from la_tf.evaluation.knn import knn_accuracy
from la_tf.run_directory import RunLog
from la_tf.schedules import Plateau

KS = (200, 1)  # section 4.2; the paper's ablations are at K = 1


def named(accuracy: dict[int, float]) -> dict[str, float]:
    """K -> accuracy as the fields of a record: knn200, knn1."""
    return {f"knn{k}": value for k, value in accuracy.items()}


class KNNCallback(StepCallback):
    """Classifies the held-out images by their neighbours in the bank (section 4.2)."""

    def __init__(
        self,
        *,
        embed_heldout: Callable[[], np.ndarray],
        heldout_labels: np.ndarray,
        train_labels: np.ndarray,
        steps_per_epoch: int,
        every_epochs: int,
        last_epoch: int,
        log: RunLog,
        tau: float,
        plateau: Plateau | None = None,
    ):
        """Describes the evaluation.

        Args:
          embed_heldout: embeddings [Q, D] of the held-out images' centre crops, now.
          heldout_labels: [Q] their classes.
          train_labels: [N] classes of the bank's rows.
          steps_per_epoch: steps of one epoch.
          every_epochs: epochs between evaluations.
          last_epoch: epochs in total; the last is always evaluated.
          log: takes the accuracies.
          tau: temperature of the votes.
          plateau: told the accuracy at the largest K, if given.
        """
        super().__init__(steps_per_epoch)
        self.embed_heldout = embed_heldout
        self.heldout_labels = heldout_labels
        self.train_labels = train_labels
        self.every_epochs = every_epochs
        self.last_epoch = last_epoch
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

    def on_epoch_end(self, epoch, logs=None):
        """Evaluates when due, and always at the ends of the warm start and of the run."""
        at_end = self.step == self.model.warm_start_steps or epoch + 1 == self.last_epoch
        if (epoch + 1) % self.every_epochs and not at_end:
            return
        accuracy = self.evaluate(self.model)
        self.log.write("knn", self.step, epoch + 1, **named(accuracy))
        if self.plateau is not None and self.plateau.report(accuracy[KS[0]]):
            self.log.write(
                "plateau",
                self.step,
                epoch + 1,
                learning_rate=float(self.plateau.optimizer.learning_rate.numpy()),
            )
