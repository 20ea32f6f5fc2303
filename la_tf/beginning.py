"""What a run begins with instead of random weights: --warm_start, --extend or --init_from.

The first two take the first steps of another run over, as if this one had done them itself: the
images are the same, and so are all options that matter up to there. The third takes weights alone.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from la_tf.building import network_of
from la_tf.config import Config
from la_tf.data.pipeline import steps_per_epoch
from la_tf.errors import RunError
from la_tf.export.weights import (
    WeightsError,
    checksum,
    in_order_of,
    in_words,
    named_tensors,
    network_from_weights,
)
from la_tf.runs.checkpoints import present_checkpoints
from la_tf.runs.description import Origin, read_description, require_shorter
from la_tf.runs.directory import differences
from la_tf.runs.log import read_log
from la_tf.runs.trained_run import restored_run
from la_tf.runs.warm_start import warm_start_end
from la_tf.stored_config import to_dict


@dataclasses.dataclass(frozen=True)
class Beginning:
    """What a run begins with.

    Attributes:
      origin: what config.json says of it.
      checkpoint: of a run whose steps are taken over, without the endings of its files; or None.
      weights: of the network, as `set_weights` takes them, where there is no checkpoint.
    """

    origin: Origin
    checkpoint: pathlib.Path | None = None
    weights: Sequence[np.ndarray] = ()


def find_beginning(config: Config, data: dict[str, Any]) -> Beginning | None:
    """What a new run is to begin with; nothing is written.

    Args:
      config: resolved, of the new run.
      data: sizes and fingerprints of its images.

    Returns:
      None where it begins with random weights.

    Raises:
      RunError, ConfigError: there is no such run, checkpoint or file, or it does not fit; the
        message says in what.
    """
    run = config.run
    if run.warm_start is not None:
        return _taken_over("warm_start", warm_start_checkpoint(run.warm_start, config, data))
    if run.extend is not None:
        return _taken_over("extend", final_checkpoint(run.extend, config, data))
    if run.init_from is not None:
        return _initialized(run.init_from, config)
    return None


def _taken_over(option: str, checkpoint: pathlib.Path) -> Beginning:
    step = int(checkpoint.name.removeprefix("ckpt-"))
    run_dir = str(checkpoint.parents[1])
    return Beginning({"option": option, "path": run_dir, "step": step}, checkpoint)


def warm_start_checkpoint(run_dir: str, config: Config, data: dict[str, Any]) -> pathlib.Path:
    """The newest checkpoint at the end of an epoch within the instance recognition of two runs.

    Args:
      run_dir: the run that has trained it.
      config: resolved, of the run that would go on from it.
      data: sizes and fingerprints of its images.

    Returns:
      The path, without the endings of its files.

    Raises:
      RunError: there is no such run or checkpoint, or up to there it was another; the message says
        in what.
    """
    path = pathlib.Path(run_dir).expanduser()
    other, other_data = read_description(path)
    in_epoch = _steps_per_epoch(other, other_data)
    end = warm_start_end(other, in_epoch, read_log(path / "metrics.jsonl"))
    last = min(config.schedule.ir_epochs, end // in_epoch)
    ends = {f"ckpt-{epoch * in_epoch}": epoch for epoch in range(1, last + 1)}
    found = [checkpoint for checkpoint in _checkpoints(path) if checkpoint.name in ends]
    if not found:
        raise RunError(
            f"{path} has no checkpoint of the end of one of its first {last} epochs: train it with "
            f"--epochs={last}, or with --checkpoint_every_steps and --keep_checkpoints."
        )
    past = dataclasses.replace(
        _with_drops_after(other, config, ends[found[-1].name]),
        objective=dataclasses.replace(
            other.objective, k=config.objective.k, background=config.objective.background
        ),
        clustering=config.clustering,
        schedule=dataclasses.replace(config.schedule, seed=other.schedule.seed),
    )
    _require_same(f"the warm start of {path}", past, other_data, config, data)
    return found[-1]


def final_checkpoint(run_dir: str, config: Config, data: dict[str, Any]) -> pathlib.Path:
    """The end of a finished run, from which another goes on with a longer schedule.

    Args:
      run_dir: the run that is finished.
      config: resolved, of the run that would go on.
      data: sizes and fingerprints of its images.

    Returns:
      The path, without the endings of its files.

    Raises:
      RunError: there is no such run, it is not finished, it is not shorter, or it was another; the
        message says in what.
    """
    path = pathlib.Path(run_dir).expanduser()
    other, other_data = read_description(path)
    epochs = other.schedule.epochs
    past = dataclasses.replace(
        _with_drops_after(other, config, epochs),
        schedule=dataclasses.replace(other.schedule, epochs=config.schedule.epochs),
    )
    if not config.optimizer.drop_epochs:
        # A rate that is no schedule is a variable, which a run with drops has not saved.
        past = dataclasses.replace(past, optimizer=other.optimizer)
    _require_same(f"the training of {path}", past, other_data, config, data)
    require_shorter(path, other, config.schedule.epochs)
    present = _checkpoints(path)
    if not present or present[-1].name != f"ckpt-{epochs * _steps_per_epoch(config, data)}":
        raise RunError(
            f"{path} is not finished, or its last checkpoint is gone: the command that started it "
            "continues it."
        )
    return present[-1]


def _checkpoints(path: pathlib.Path) -> list[pathlib.Path]:
    return [pathlib.Path(found) for found in present_checkpoints(path / "checkpoints")]


def _steps_per_epoch(config: Config, data: dict[str, Any]) -> int:
    return steps_per_epoch(data["training set"]["examples"], config.data.batch_size)


def _with_drops_after(other: Config, config: Config, epoch: int) -> Config:
    """With what matters only after some epochs taken from another configuration.

    That is when the learning rate drops, and what is reported.
    """
    optimizer = other.optimizer
    before, here = (
        [drop for drop in c.optimizer.drop_epochs if drop < epoch] for c in (other, config)
    )
    if before == here:
        optimizer = dataclasses.replace(optimizer, drop_epochs=config.optimizer.drop_epochs)
    return dataclasses.replace(other, optimizer=optimizer, report=config.report)


def _require_same(
    what: str, past: Config, past_data: dict[str, Any], config: Config, data: dict[str, Any]
) -> None:
    """Refuses steps of another run than that of `config`; it may have begun with any weights.

    Raises:
      RunError: options or images differ, by name.
    """
    past = dataclasses.replace(past, run=config.run)
    stored = {"config": to_dict(past), "data": past_data}
    unlike = differences(stored, {"config": to_dict(config), "data": data})
    if told := "; ".join(f"{name} was {before}, here {now}" for name, before, now in unlike):
        raise RunError(f"{what} is not that of this run: {told}.")


def _initialized(source: str, config: Config) -> Beginning:
    """The weights of a run's newest checkpoint, or of a file, for the network of `config`."""
    path = pathlib.Path(source).expanduser()
    origin: Origin = {"option": "init_from", "path": source}
    if path.is_dir():
        run = restored_run(path)
        network, origin["step"] = run.network, run.step
    else:
        try:
            network = network_from_weights(path)
        except WeightsError as error:
            raise RunError(f"--init_from: {error}") from None
    origin["weights"] = checksum(network)
    wanted = network_of(config)
    try:
        return Beginning(origin, weights=in_order_of(wanted, named_tensors(network)))
    except WeightsError as error:
        raise RunError(
            f"--init_from={source} has the weights of {in_words(network)}, which do not fit "
            f"{in_words(wanted)}: {error}."
        ) from None
