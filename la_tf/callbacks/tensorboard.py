"""Mirrors a run's records to TensorBoard."""

import pathlib
from typing import Any

import tensorflow as tf


class TensorBoardScalars:
    """A listener for `RunLog`: every number of a record becomes a scalar named kind/number."""

    def __init__(self, directory: pathlib.Path):
        """Opens an event file in `directory`."""
        self._writer = tf.summary.create_file_writer(str(directory))

    def __call__(self, record: dict[str, Any]) -> None:
        """Takes any record of a run."""
        with self._writer.as_default(step=record["step"]):
            for name, value in record.items():
                if isinstance(value, (int, float)) and name not in ("step", "epoch"):
                    tf.summary.scalar(f"{record['kind']}/{name}", value)

    def flush(self) -> None:
        """Writes out what is buffered."""
        self._writer.flush()
