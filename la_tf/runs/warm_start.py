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
    last = min(config.schedule.ir_epochs, other.schedule.ir_epochs)
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
