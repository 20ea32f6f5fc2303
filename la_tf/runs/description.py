"""What config.json and environment.json of a run say: its configuration, images and machines."""

import dataclasses
import os
import pathlib
from typing import Annotated, Any, NotRequired, TypedDict

from la_tf.config import Config, ConfigError
from la_tf.errors import RunError
from la_tf.options import option_value, sections_and_options
from la_tf.recipes import config_of
from la_tf.stored import StoredFileError, read_json
from la_tf.stored_config import from_dict

CONFIG_FILE, ENVIRONMENT_FILE = "config.json", "environment.json"


class Images(TypedDict):
    """A set of images, see `la_tf.data.identity`."""

    examples: Annotated[int, range(1, 2**31)]
    fingerprint: str


_Data = TypedDict("_Data", {"training set": Images, "held-out set": NotRequired[Images | None]})


class Origin(TypedDict):
    """What a run began with, if not with random weights, see `la_tf.beginning`."""

    option: str  # --warm_start, --extend or --init_from, by its name
    path: str  # as it was given
    step: NotRequired[Annotated[int, range(2**63)]]  # steps that the run there had done
    weights: NotRequired[str]  # checksum of --init_from's


class Description(TypedDict):
    """What config.json holds."""

    config: dict[str, dict[str, Any]]
    data: _Data
    origin: NotRequired[Origin | None]


class Start(TypedDict, total=False):
    """What environment.json holds of a start, see `la_tf.runs.runtime`."""

    python: str
    platform: str
    packages: dict[str, str]
    cpu: str
    cpu_instructions: list[str]
    cpu_cores: int
    cpu_settings: list[str]
    gpus: list[str]
    git_commit: str | None
    replicas: int


def read_description(path: pathlib.Path) -> tuple[Config, dict[str, Any]]:
    """The effective configuration of a run, and sizes and fingerprints of its images.

    Raises:
      RunError: there is no such run, or its config.json cannot be read.
    """
    file = path / CONFIG_FILE
    if not os.path.lexists(file):
        raise RunError(f"{path} holds no run: name a run directory that tools/train.py made.")
    try:
        stored = read_json(file, Description)
        return _checked(from_dict(stored["config"])), stored["data"]
    except (StoredFileError, ConfigError) as error:
        raise RunError(f"{file} cannot be read ({str(error).rstrip('.')}): restore it.") from error


def read_origin(path: pathlib.Path) -> Origin | None:
    """What a run began with; None for random weights, and where that cannot be read."""
    try:
        return read_json(path / CONFIG_FILE, Description).get("origin")
    except StoredFileError:
        return None


def extended(finished_run: str | os.PathLike, /, **options: Any) -> Config:
    """The configuration of a finished run that is to train on, for more epochs, as a new run.

        la_tf.train(la_tf.extended("runs/mine", epochs=300, run_dir="runs/mine-300"))

    Args:
      finished_run: its directory. Where it is gone, the new run, if it has begun, says the same.
      **options: what is to change, as in `recipe`: `epochs` and `run_dir` in any case. All else is
        as in that run, but for where and on what it happened.

    Raises:
      ConfigError: there is no such option, or a value is of the wrong kind or out of range.
      RunError: there is no such run, or it is no shorter.
    """
    path = finished = pathlib.Path(finished_run).expanduser()
    begun = options.get("run_dir")
    if begun is not None and not (finished / CONFIG_FILE).exists():
        begun = pathlib.Path(begun).expanduser()
        path = begun if (begun / CONFIG_FILE).exists() else finished
    config = read_description(path)[0]
    given = {
        name: value
        for section in dataclasses.fields(config)
        if section.name != "run"
        for name, value in dataclasses.asdict(getattr(config, section.name)).items()
    }
    longer = config_of(given | {"extend": os.fspath(finished_run)} | options)
    if path == finished:
        require_shorter(path, config, longer.schedule.epochs)
    return longer


def require_shorter(path: pathlib.Path, config: Config, epochs: int) -> None:
    """Refuses to extend a run to so many epochs as it has, or to fewer.

    Raises:
      RunError: it is no shorter.
    """
    if epochs <= config.schedule.epochs:
        raise RunError(
            f"{path} was trained for {config.schedule.epochs} epochs: give more than those as "
            "--epochs."
        )


def read_starts(path: pathlib.Path) -> list[dict[str, Any]]:
    """Versions and devices of all starts of a run, the first one first.

    Raises:
      RunError: its environment.json cannot be read.
    """
    file = path / ENVIRONMENT_FILE
    try:
        return read_json(file, list[Start])
    except StoredFileError as error:
        raise RunError(f"{file} cannot be read ({error}): restore it, or remove it.") from error


def _checked(config: Config) -> Config:
    """The same configuration, if every option has a value that could be given.

    Raises:
      ConfigError: one has not.
    """
    for name, (section, option) in sections_and_options().items():
        value = getattr(getattr(config, section), name)
        try:
            same = option_value(option, value) == value
        except ValueError as error:
            raise ConfigError(f"{name} is {value!r}, and {error}") from None
        if not same:  # text for a number
            raise ConfigError(f"{name} is {value!r}, which is of another type")
    return config
