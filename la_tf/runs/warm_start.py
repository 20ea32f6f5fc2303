"""Where a run's warm start ends, and how another run can take it over."""

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Any

from la_tf.config import Config, to_dict
from la_tf.errors import RunError
from la_tf.runs.checkpoints import present_checkpoints
from la_tf.runs.description import read_description
from la_tf.runs.directory import differences
from la_tf.runs.log import Record, read_log

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


def warm_start_checkpoint(
    run_dir: str, config: Config, data: dict[str, Any], steps_per_epoch: int
) -> pathlib.Path:
    """The checkpoint of a run from which another, that `config` describes, can go on.

    It is the newest at the end of an epoch within the instance recognition of both.

    Args:
      run_dir: the run that has trained it.
      config: resolved, of the run that would go on.
      data: sizes and fingerprints of its images.
      steps_per_epoch: steps of one epoch.

    Returns:
      The path, without the endings of its files.

    Raises:
      RunError: there is no such run or checkpoint, or up to there it was another; the message says
        in what.
    """
    path = pathlib.Path(run_dir).expanduser()
    other, other_data = read_description(path)
    end = warm_start_end(other, steps_per_epoch, read_log(path / "metrics.jsonl"))
    last = min(config.schedule.ir_epochs, end // steps_per_epoch)
    ends = {f"ckpt-{epoch * steps_per_epoch}": epoch for epoch in range(1, last + 1)}
    present = [pathlib.Path(found) for found in present_checkpoints(path / "checkpoints")]
    found = [checkpoint for checkpoint in present if checkpoint.name in ends]
    if not found:
        raise RunError(
            f"{path} has no checkpoint of the end of one of its first {last} epochs: train it with "
            f"--epochs={last}, or with --checkpoint_every_steps and --keep_checkpoints."
        )
    stored = {
        "config": to_dict(_with_what_follows(other, config, ends[found[-1].name])),
        "data": other_data,
    }
    unlike = differences(stored, {"config": to_dict(config), "data": data})
    if told := "; ".join(f"{name} was {before}, here {now}" for name, before, now in unlike):
        raise RunError(f"the warm start of {path} is not that of this run: {told}.")
    return found[-1]


def _with_what_follows(other: Config, config: Config, epoch: int) -> Config:
    """A configuration with all that matters only after some epochs of IR taken from another one."""
    optimizer = other.optimizer
    before, here = (
        [drop for drop in c.optimizer.drop_epochs if drop < epoch] for c in (other, config)
    )
    if before == here:
        optimizer = dataclasses.replace(optimizer, drop_epochs=config.optimizer.drop_epochs)
    return dataclasses.replace(
        other,
        objective=dataclasses.replace(
            other.objective, k=config.objective.k, background=config.objective.background
        ),
        clustering=config.clustering,
        optimizer=optimizer,
        schedule=dataclasses.replace(config.schedule, seed=other.schedule.seed),
        report=config.report,
    )
