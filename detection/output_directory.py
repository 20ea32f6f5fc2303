"""The directory of a fine-tuning: locked, and guarded against mixing two of them."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from la_tf.errors import RunError, first_line
from la_tf.files import lock, write_json
from la_tf.runs.checkpoints import mend_list, present_checkpoints
from la_tf.runs.directory import LOCK, read_file, refuse_differences

CHECKPOINTS = "checkpoints"
RECORDS = "records"
RESULTS = "voc_results.json"
_SETTINGS = "settings.json"
OPTION = "--output_dir"

Description = dict[str, dict[str, Any]]


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
    """Makes the directory, and keeps other processes out of it.

    Raises:
      RunError: it cannot be written, is in use, or holds something else.
    """
    try:
        files = {file.name for file in path.iterdir()} if path.is_dir() else set()
        if files - {LOCK, RECORDS} and _SETTINGS not in files:
            raise RunError(
                f"{path} holds files but no fine-tuning: name an empty or a new --output_dir."
            )
        path.mkdir(parents=True, exist_ok=True)
        held = lock(path / LOCK)
    except BlockingIOError:
        raise RunError(f"another process is fine-tuning in {path}.") from None
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}.") from error
    with held:
        yield


def claim(path: pathlib.Path, description: Description) -> None:
    """Notes what is fine-tuned here, or checks that it is the same.

    A start that failed before its first checkpoint may be repeated with other options.

    Args:
      path: the directory, locked.
      description: section -> name -> value.

    Raises:
      RunError: it holds a fine-tuning of another description; the message names the difference.
    """
    file = path / _SETTINGS
    if present_checkpoints(path / CHECKPOINTS) or (path / RESULTS).exists():
        differences = _differences(read_file(file, Description, OPTION), description)
        refuse_differences(path, differences, "a fine-tuning of other settings", OPTION)
    else:
        write_json(file, description)


def newest_checkpoint(path: pathlib.Path) -> int | None:
    """The step of the newest checkpoint whose files are there.

    Model Garden restores what the file `checkpoint` names, so that is made to name it.

    Args:
      path: the directory, locked.

    Returns:
      The step it was saved at; None before the first.

    Raises:
      RunError: it is damaged, or all are gone.
    """
    folder = path / CHECKPOINTS
    mend_list(folder)
    present = present_checkpoints(folder)
    if not present:
        return None
    newest = present[-1]
    try:
        reader = tf.train.load_checkpoint(newest)
        # All of it once, so that a file that was cut short is found before anything is restored.
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
        step = int(reader.get_tensor("global_step/.ATTRIBUTES/VARIABLE_VALUE"))
    except Exception as error:  # a damaged file can break TensorFlow's readers in many ways
        raise RunError(
            f"the checkpoint {newest} cannot be read ({first_line(error)}): restore it, or remove "
            "its files to go on from an older one."
        ) from error
    return step


def _differences(stored: Description, wanted: Description) -> Iterator[tuple[str, Any, Any]]:
    for section, values in wanted.items():
        before = stored.get(section, {})
        for name, value in values.items():
            if before.get(name) != value:
                yield name, before.get(name), value
