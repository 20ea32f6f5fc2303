"""Where a run's warm start ends."""

from collections.abc import Iterable

from la_tf.config import Config
from la_tf.runs.log import Record

WARM_START_END = "warm_start_end"  # kind of the record that `--ir_until_plateau` writes


def logged_end(records: Iterable[Record]) -> int | None:
    """The step at which the warm start ended early, by the log of a run; None where it did not."""
    return next((r["step"] for r in records if r["kind"] == WARM_START_END), None)


def warm_start_end(config: Config, steps_per_epoch: int, records: Iterable[Record]) -> int:
    """How many of a run's first steps are instance recognition, as far as is known by now.

    Args:
      config: of the run.
      steps_per_epoch: steps of one epoch.
      records: of its metrics.jsonl.
    """
    end = logged_end(records) if config.schedule.ir_until_plateau else None
    return config.schedule.ir_epochs * steps_per_epoch if end is None else end
