"""Looks at the trained network as an export has it, with batch norm's moving statistics."""

from collections.abc import Callable

import numpy as np

from la_tf.callbacks.step_callback import EvaluationCallback
from la_tf.runs.health import EXPORTED
from la_tf.runs.log import RunLog


class ExportedNetwork(EvaluationCallback):
    """Logs at the ends of both phases how alike the embeddings of training images are.

    What training says of their spread holds for batches that are normalised by themselves: the
    moving statistics can be far from those all the same. `HealthMonitor` judges the number.
    """

    kinds = (EXPORTED,)

    def __init__(self, *, embed_sample: Callable[[], np.ndarray], log: RunLog, **epochs: int):
        """Describes the evaluation.

        Args:
          embed_sample: embeds centre crops of some training images as evaluation does: [R, D].
          log: takes the similarity.
          **epochs: when, see `EvaluationCallback`.
        """
        super().__init__(**epochs)
        self.embed_sample = embed_sample
        self.log = log

    def evaluate_epoch(self, epoch: int) -> None:
        """Logs the mean similarity of two images."""
        similarity = mean_similarity(self.embed_sample())
        self.log.write(EXPORTED, self.step, epoch, similarity=similarity)


def mean_similarity(embeddings: np.ndarray) -> float:
    """The mean dot product of two different rows of [R, D] unit rows; of a single row 1."""
    count = len(embeddings)
    if count < 2:
        return 1.0
    # The squared length of the rows' sum is R of each with itself, and each pair twice.
    total = embeddings.sum(axis=0, dtype=np.float64)
    return float((total @ total - count) / (count * (count - 1)))
