"""What config.json and environment.json of a run say: its configuration, images and machines."""

import os
import pathlib
from typing import Annotated, Any, NotRequired, TypedDict

from la_tf.config import Config, ConfigError, from_dict
from la_tf.errors import RunError
from la_tf.options import option_value, sections_and_options
from la_tf.stored import StoredFileError, read_json

CONFIG_FILE, ENVIRONMENT_FILE = "config.json", "environment.json"


class Images(TypedDict):
    """A set of images, see `la_tf.data.identity`."""

    examples: Annotated[int, range(1, 2**31)]
    fingerprint: str


_Data = TypedDict("_Data", {"training set": Images, "held-out set": NotRequired[Images | None]})


class Description(TypedDict):
    """What config.json holds."""

    config: dict[str, dict[str, Any]]
    data: _Data


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
