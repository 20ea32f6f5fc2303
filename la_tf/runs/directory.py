"""A run directory: locked, and guarded against mixing two runs."""

import pathlib
import re
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

from la_tf import stored_config
from la_tf.config import Config
from la_tf.errors import RunError
from la_tf.files import lock, write_json
from la_tf.runs.checkpoints import mend_list, present_checkpoints
from la_tf.runs.description import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    Description,
    Origin,
    Start,
    read_origin,
)
from la_tf.runs.log import Record, read_log
from la_tf.stored import StoredFileError, read_json

# What does not change the result of a run, and may differ when it is resumed. Where the images
# are may change too; their names, order and labels are held by the fingerprint.
LOCATION_OPTIONS = ("data", "val_data")
LOCK = "lock"
# Of the section 'run', what makes a run another one: with the others it is the same in the end.
_BEGINS_ANOTHER = ("init_from",)
_WRITTEN = (CONFIG_FILE, ENVIRONMENT_FILE)


def read_file(path: pathlib.Path, form: Any, option: str = "--run_dir") -> Any:
    """A JSON file of a directory that was to be resumed.

    Args:
      path: the file.
      form: what it holds, see `la_tf.stored`.
      option: the flag that names the directory.

    Raises:
      RunError: it cannot be read, or holds something else.
    """
    try:
        return read_json(path, form)
    except StoredFileError as error:
        raise RunError(
            f"{path} of a run that was to be resumed cannot be read ({error}): restore it, or name "
            f"another {option}."
        ) from error


def refuse_differences(
    path: pathlib.Path,
    unlike: Iterable[tuple[str, Any, Any]],
    what: str = "a run of another configuration",
    option: str = "--run_dir",
) -> None:
    """Refuses to resume what is not the same.

    Args:
      path: the directory.
      unlike: (name, stored value, wanted value) of each difference.
      what: the directory then holds.
      option: the flag that names it.

    Raises:
      RunError: there is a difference; the message names all.
    """
    if told := "; ".join(f"{name} was {before}, now {now}" for name, before, now in unlike):
        raise RunError(
            f"{path} holds {what} ({told}): give the same options to resume it, or another "
            f"{option}."
        )


def require_space(
    path: pathlib.Path,
    needed: int,
    remedy: str = "make room, lower --keep_checkpoints, or name another --run_dir",
) -> None:
    """Refuses to start what could not be saved; `remedy` is what to do then.

    Raises:
      RunError: fewer than `needed` bytes are free at `path`.
    """
    free = shutil.disk_usage(path).free
    if free < needed:
        raise RunError(
            f"{path} has {free >> 20} MiB free, the checkpoints need {needed >> 20} MiB: {remedy}."
        )


def default_run_dir(config: Config) -> str:
    """Where a run goes that names no directory: runs/<data>-<network>, of a baseline -<method>."""
    method = config.method.method
    suffix = "" if method == Config().method.method else f"-{method}"
    name = pathlib.Path(config.data.data.replace(":", "-")).name
    network = re.sub("[:,=]", "-", config.network.network)
    return str(pathlib.Path("runs") / f"{name}-{network}{suffix}")


class RunDirectory:
    """The files of one run, locked against a second process.

    Attributes:
      path: the directory.
      resumed: whether it already held a checkpoint of this run.
      environments: versions and devices of all starts, this one the last.
      mended: a sentence if the list of its checkpoints was damaged, else None.
    """

    def __init__(
        self,
        path: str,
        config: Config,
        data: dict[str, Any],
        environment: Record,
        origin: Origin | None = None,
    ):
        """Makes the directory, or checks that it holds the same run.

        Args:
          path: where.
          config: the effective configuration.
          data: what identifies the data: sizes and fingerprints.
          environment: versions and devices of this start; appended to environment.json.
          origin: what the run begins with if not with random weights; a run that is resumed keeps
            what it has begun with.

        Raises:
          RunError: the directory cannot be written, is in use, holds something else, or holds a
            run of another configuration; the message names the difference.
          ConfigError: it holds a run with an option that was removed since.
        """
        self.path = pathlib.Path(path)
        config_file = self.path / CONFIG_FILE
        # A start that failed before its first checkpoint leaves nothing worth protecting, and may
        # be repeated with other options.
        self.resumed = bool(present_checkpoints(self.path / "checkpoints"))
        description = {"config": stored_config.to_dict(config), "data": data}
        if not self.resumed and _has_trained(self.path):
            raise RunError(
                f"{self.path} holds the log of a run whose checkpoints are gone: it cannot be "
                "resumed, and is not overwritten; name another --run_dir."
            )
        if self.resumed:
            stored = read_file(config_file, Description)
            stored_config.require_without_removed(stored["config"])
            refuse_differences(self.path, differences(stored, description))
        elif not config_file.exists() and not self._holds_nothing_else():
            raise RunError(f"{self.path} holds files but no run: name an empty or a new --run_dir.")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = lock(self.path / LOCK)
            for leftover in self._leftovers():
                leftover.unlink()
            if not self.resumed:
                write_json(config_file, description | {"origin": origin})
            self.environments = self._append_environment(environment)
            self.mended = mend_list(self.path / "checkpoints")
        except BlockingIOError:
            raise RunError(f"another process is training in {self.path}.") from None
        except OSError as error:
            raise RunError(
                f"the run directory {self.path} cannot be written: {error.strerror}."
            ) from error

    def _leftovers(self) -> list[pathlib.Path]:
        """What a start that was killed left of files that it was writing."""
        return [f for name in _WRITTEN for f in self.path.glob(f"{name}.*.partial")]

    def _holds_nothing_else(self) -> bool:
        """Whether there is no directory yet, or it has only what a killed start leaves."""
        if not self.path.is_dir():
            return True
        return set(self.path.iterdir()) <= {self.path / LOCK, *self._leftovers()}

    def _append_environment(self, environment: Record) -> list[Record]:
        file = self.path / ENVIRONMENT_FILE
        starts = [*(read_file(file, list[Start]) if file.exists() else []), environment]
        write_json(file, starts)
        return starts

    def release(self) -> None:
        """Lets another process use the directory."""
        self._lock.close()


def _has_trained(path: pathlib.Path) -> bool:
    """Whether a log holds anything later than the checks before the first step of its own."""
    log, origin = path / "metrics.jsonl", read_origin(path)
    taken_over = origin.get("step", 0) if origin and origin["option"] != "init_from" else 0
    return log.exists() and any(record["step"] > taken_over for record in read_log(log))


def differences(stored: Record, wanted: Record) -> Iterator[tuple[str, Any, Any]]:
    """Yields (option, stored value, wanted value) for all that a run's identity consists of.

    Both are as in config.json: {"config": options by section, "data": what identifies it}.
    """
    for name in wanted["data"]:
        if stored["data"].get(name) != wanted["data"][name]:
            yield f"the data's {name}", stored["data"].get(name), wanted["data"][name]
    defaults = stored_config.to_dict(Config())
    for section, options in wanted["config"].items():
        if section == "run":
            options = {name: options[name] for name in _BEGINS_ANOTHER}
        # An option that is younger than the run had its default's effect.
        before = defaults[section] | stored["config"].get(section, {})
        for name, value in options.items():
            if name not in LOCATION_OPTIONS and before[name] != value:
                yield f"--{name}", before[name], value
