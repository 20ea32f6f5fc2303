"""The logs of a run: one record, a JSON object, a line."""

import json
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, NotRequired, TypedDict

from la_tf.errors import RunError
from la_tf.stored import StoredFileError, misfit, parse_json

Record = dict[str, Any]
_NO_NUMBERS = ("kind", "phase", "name", "quantiles")


class _Quantiles(TypedDict):
    local: list[float]
    background: list[float]


class _Record(TypedDict):
    kind: str
    step: int
    epoch: NotRequired[int]
    phase: NotRequired[str]
    name: NotRequired[str]
    quantiles: NotRequired[_Quantiles]


class RunLog:
    """Appends records, one JSON object a line, and passes each to its listeners first."""

    def __init__(self, path: pathlib.Path, listeners: list[Callable[[Record], None]] | None = None):
        """Opens a file for appending; `listeners` may raise to stop a run."""
        self.path = path
        self.listeners = listeners if listeners is not None else []
        self._file = path.open("a", encoding="utf-8")

    def write(self, kind: str, step: int, epoch: int, **values: Any) -> None:
        """Writes one record.

        Args:
          kind: train, knn, clustering, milestone, ...
          step: steps done.
          epoch: epochs begun, counted from 1.
          **values: whatever belongs to this kind, see `read_log`.

        Raises:
          RunError: the disk is full or cannot be written.
        """
        record = {"kind": kind, "step": step, "epoch": epoch, **values}
        for listener in self.listeners:
            listener(record)
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be written: {error.strerror}. Checkpoints are untouched; "
                "mend that and start the same command again."
            ) from error

    def tell(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def begin_with(self, lines: Iterable[str]) -> None:
        """Replaces what was written by lines of another log, each with its end."""
        self.truncate(0)
        self._file.writelines(lines)
        self._file.flush()

    def truncate(self, size: int) -> None:
        """Forgets every record after the first `size` bytes.

        Raises:
          RunError: the file is shorter than that.
        """
        if self.path.stat().st_size < size:
            raise RunError(
                f"{self.path} is shorter than when the last checkpoint was written: restore it, "
                "or start a new run directory."
            )
        self._file.truncate(size)
        self._file.seek(size)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_log(path: pathlib.Path) -> list[Record]:
    """All whole records of a log.

    A line that a kill has cut off or a disk has damaged is left out: the others still say what the
    run did. In a whole record `kind`, `phase` and `name` are text, `quantiles` are those of both
    densities of the bank, and all else is finite numbers, or null for what could not be measured.
    """
    lines = path.read_bytes().decode(errors="replace").split("\n")
    return [record for line in lines[:-1] if (record := parse_record(line)) is not None]


def parse_record(line: str) -> Record | None:
    """A line of a log; None where it is no whole record."""
    try:
        record = parse_json(line, _Record)
    except StoredFileError:
        return None
    numbers = {name: value for name, value in record.items() if name not in _NO_NUMBERS}
    return None if misfit(numbers, dict[str, float | None]) else record


def records_with(records: Iterable[Record], kind: str, *fields: str) -> list[Record]:
    """The records of a kind that have all of some fields, and null in none of them."""
    return [
        record
        for record in records
        if record["kind"] == kind and all(record.get(field) is not None for field in fields)
    ]
