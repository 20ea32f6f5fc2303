"""The warm start of another run, for runs that differ in what comes after it alone."""

import dataclasses
import pathlib
from typing import Any

from la_tf.config import Config, to_dict
from la_tf.errors import RunError
from la_tf.runs.checkpoints import present_checkpoints
from la_tf.runs.description import read_description
from la_tf.runs.directory import differences


def warm_start_checkpoint(
    run_dir: str, config: Config, data: dict[str, Any], steps_per_epoch: int
) -> pathlib.Path:
    """The checkpoint of a run in which the warm start of another, that `config` describes, ends.

    Args:
      run_dir: the run that has trained it.
      config: resolved, of the run that would start from it.
      data: sizes and fingerprints of its images.
      steps_per_epoch: steps of one epoch.

    Returns:
      The path, without the endings of its files.

    Raises:
      RunError: there is no such run or checkpoint, or its warm start was another; the message says
        in what.
    """
    path = pathlib.Path(run_dir).expanduser()
    other, other_data = read_description(path)
    stored = {"config": to_dict(_with_what_follows(other, config)), "data": other_data}
    unlike = differences(stored, {"config": to_dict(config), "data": data})
    if told := "; ".join(f"{name} was {before}, here {now}" for name, before, now in unlike):
        raise RunError(f"the warm start of {path} is not that of this run: {told}.")
    step = config.schedule.ir_epochs * steps_per_epoch
    present = [pathlib.Path(found) for found in present_checkpoints(path / "checkpoints")]
    for checkpoint in present:
        if checkpoint.name == f"ckpt-{step}":
            return checkpoint
    steps = ", ".join(found.name.removeprefix("ckpt-") for found in present) or "none"
    raise RunError(
        f"{path} has no checkpoint of step {step}, the last of --ir_epochs="
        f"{config.schedule.ir_epochs} (there are: {steps}): train it with that many --epochs."
    )


def _with_what_follows(other: Config, config: Config) -> Config:
    """A configuration with all that matters only after the warm start taken from another one."""
    end = config.schedule.ir_epochs
    schedule = dataclasses.replace(other.schedule, epochs=config.schedule.epochs)
    if schedule.ir_epochs > end:  # it went on with instance recognition
        schedule = dataclasses.replace(schedule, ir_epochs=end)
    optimizer = other.optimizer
    before, after = (
        [drop for drop in c.optimizer.drop_epochs if drop < end] for c in (other, config)
    )
    if before == after:
        optimizer = dataclasses.replace(optimizer, drop_epochs=config.optimizer.drop_epochs)
    return dataclasses.replace(
        other,
        objective=dataclasses.replace(
            other.objective, k=config.objective.k, background=config.objective.background
        ),
        clustering=config.clustering,
        optimizer=optimizer,
        schedule=schedule,
        report=config.report,
    )
