"""Mirrors a run's records to TensorBoard, and shows how the bank spreads."""

import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from la_tf.callbacks.step_callback import EvaluationCallback
from la_tf.evaluation.bank_density import DENSITY, Densities, densities, quantiles
from la_tf.runs.log import RunLog


def tensorboard_folder(run_dir: pathlib.Path) -> pathlib.Path:
    """Where a run writes for TensorBoard, which names a run by its folder: `tensorboard/<run>/`.

    A run that was moved or renamed since goes on in the folder that it has.
    """
    folder = run_dir / "tensorboard"
    own = sorted(path for path in folder.glob("*/") if path.is_dir())
    return own[0] if own else folder / run_dir.resolve().name


class TensorBoardScalars:
    """A listener for `RunLog`: every number of a record becomes a scalar named kind/number."""

    def __init__(self, writer: tf.summary.SummaryWriter):
        """`writer` takes the scalars."""
        self._writer = writer

    def __call__(self, record: dict[str, Any]) -> None:
        """Takes any record of a run."""
        with self._writer.as_default(step=record["step"]):
            for name, value in record.items():
                if isinstance(value, (int, float)) and name not in ("step", "epoch"):
                    tf.summary.scalar(f"{record['kind']}/{name}", value)


class DensityHistograms(EvaluationCallback):
    """Local and background density in the bank (Figure 2), as histograms over a sample of rows.

    Those at the end of the warm start go into the run's log too: its bank is not kept.
    """

    def __init__(
        self, writer: tf.summary.SummaryWriter, rows: np.ndarray, *, log: RunLog, **epochs: int
    ):
        """Describes what to show.

        Args:
          writer: takes the histograms.
          rows: [R] the rows whose densities are shown.
          log: takes the quantiles at the end of the warm start.
          **epochs: when, see `EvaluationCallback`.
        """
        super().__init__(**epochs)
        self.writer = writer
        self.rows = rows
        self.log = log

    def write(self, model: tf.keras.Model) -> Densities:
        """Shows the bank of `model` as it is."""
        found = densities(model.bank.vectors.numpy(), self.rows)
        first, last = found.background_ranks
        sample = f"of {len(self.rows)} images in the memory bank"
        near = f"Mean similarity {sample} to their {found.local_count} nearest."
        far = f"Mean similarity {sample} to their neighbours {first} to {last}."
        with self.writer.as_default(step=self.step):
            tf.summary.histogram("density/local", found.local, description=near)
            tf.summary.histogram("density/background", found.background, description=far)
        return found

    def evaluate_epoch(self, epoch: int) -> None:
        """Shows the bank at the end of an epoch."""
        found = self.write(self.model)
        if self.step == self.model.warm_start_steps:
            self.log.write(DENSITY, self.step, epoch, quantiles=quantiles(found))
