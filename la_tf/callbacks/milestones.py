"""The rows of the table that a small run ends with: pixels, untrained, end of IR, end of LA."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from la_tf.callbacks.heldout_knn import KNNEvaluation
from la_tf.results.knn_metric import record_fields

# Embeddings of the training images [N, D], then of the held-out images [Q, D].
Embeddings = Sequence[np.ndarray]


class Milestones(KNNEvaluation):
    """Held-out kNN against centre crops of the training images, as for Places (section 4.2).

    Raw pixels and an untrained network have no memory bank; this protocol suits them as well as
    the trained network.
    """

    kinds = ("milestone",)

    def __init__(
        self,
        *,
        embed: Callable[[], Embeddings],
        raw_pixels: Callable[[], Embeddings],
        start: str = "untrained network",
        **options: Any,
    ):
        """Describes the evaluation.

        Args:
          embed: embeddings of both sets by the network as it is now.
          raw_pixels: the baseline's embeddings of both sets.
          start: what the network is before the first step, in words.
          **options: see `KNNEvaluation`.
        """
        super().__init__(**options)
        self.embed = embed
        self.raw_pixels = raw_pixels
        self.start = start

    def before_training(self) -> None:
        """Logs the two baselines."""
        self._write("raw pixels", self.raw_pixels(), epoch=0)
        self._write(self.start, self.embed(), epoch=0)

    def evaluate_epoch(self, epoch: int) -> None:
        """Logs the end of the warm start, or of the run."""
        self._write(f"end of {self.phase}", self.embed(), epoch)

    def _write(self, name: str, embeddings: Embeddings, epoch: int) -> None:
        train, heldout = embeddings
        accuracy = record_fields(self.accuracy(heldout, train))
        self.log.write("milestone", self.step, epoch, name=name, **accuracy)
