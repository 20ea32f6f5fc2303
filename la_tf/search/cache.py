"""Embeddings of a folder kept from one search to the next, in an SQLite file.

SQLite has what a cache needs: an update is complete or has no effect, even after a kill, and two
processes may use the same file.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from la_tf.embedding.embedding_model import EmbeddingError
from la_tf.errors import first_line

_FORMAT = 1  # is part of the name of the file
_TABLE = """CREATE TABLE IF NOT EXISTS pictures (
  name BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, vector BLOB, checksum INTEGER
) WITHOUT ROWID"""
_LOCK_TIMEOUT = 30  # seconds to wait for another process that writes

Stamp = tuple[int, int]  # size in bytes, time of the last change in ns


def default_cache_dir() -> pathlib.Path:
    """Where caches are by default: the system's place for such files."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return pathlib.Path(base) / "la_tf" / "search"


def cache_file(cache_dir: pathlib.Path, folder: str, model: dict[str, Any]) -> pathlib.Path:
    """The file with a folder's embeddings by the model of this identity, see `EmbeddingModel`."""
    key = json.dumps([_FORMAT, os.path.realpath(folder), model], sort_keys=True)
    return cache_dir / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.sqlite"


class EmbeddingCache:
    """Embeddings by the name of their file, valid while the file stays as it is."""

    def __init__(self, path: pathlib.Path, say: Callable[[str], None]):
        """Opens or makes the SQLite file; `say` takes a sentence if it was damaged.

        Raises:
          EmbeddingError: the file can be neither used nor replaced.
        """
        self.path = path
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._connection, self._entries = _open(path)
            except sqlite3.OperationalError:  # the disk is full, access is denied, or it is in use
                raise
            except sqlite3.DatabaseError as error:
                say(f"the cache {path} is damaged ({first_line(error)}) and is replaced.")
                path.unlink()
                # SQLite would apply the journal of a killed process to the new file.
                path.with_name(path.name + "-journal").unlink(missing_ok=True)
                self._connection, self._entries = _open(path)

    def get(self, name: bytes, stamp: Stamp) -> np.ndarray | None:
        """The embedding [D] of a file that has not changed since, or None."""
        kept = self._entries.get(name)
        return np.frombuffer(kept[1], "<f4") if kept and kept[0] == stamp else None

    def add(self, names: Sequence[bytes], stamps: Sequence[Stamp], vectors: np.ndarray) -> None:
        """Stores embeddings [R, D] of files: all of them, or none if interrupted.

        The stamps are to be from before the files were read.

        Raises:
          EmbeddingError: the disk is full or cannot be written.
        """
        rows = []
        for name, (size, mtime_ns), vector in zip(names, stamps, vectors, strict=True):
            content = np.ascontiguousarray(vector, "<f4").tobytes()
            rows.append((name, size, mtime_ns, content, zlib.crc32(content)))
        with self._explained(), self._connection:
            self._connection.executemany(
                "INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?, ?)", rows
            )

    def forget_others(self, names: set[bytes]) -> None:
        """Removes the embeddings of all files but these.

        Raises:
          EmbeddingError: the disk cannot be written.
        """
        gone = [(name,) for name in self._entries if name not in names]
        with self._explained(), self._connection:
            self._connection.executemany("DELETE FROM pictures WHERE name = ?", gone)

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else first_line(error)
            raise EmbeddingError(
                f"the cache {self.path} cannot be used ({reason}): fix that, remove the file, or "
                "name another folder with --cache_dir."
            ) from error


def _open(path: pathlib.Path) -> tuple[sqlite3.Connection, dict[bytes, tuple[Stamp, bytes]]]:
    """A connection, and all that the file holds.

    Raises:
      sqlite3.DatabaseError: the file is damaged; as OperationalError, it cannot be used.
    """
    connection = sqlite3.connect(path, timeout=_LOCK_TIMEOUT)
    try:
        connection.text_factory = bytes  # text in a damaged file may not be UTF-8
        with connection:
            connection.execute(_TABLE)
        entries = {}
        rows = connection.execute("SELECT name, size, mtime_ns, vector, checksum FROM pictures")
        for name, size, mtime_ns, vector, checksum in rows:
            if not isinstance(vector, bytes) or zlib.crc32(vector) != checksum:
                raise sqlite3.DatabaseError("an embedding is not what was written")
            entries[name] = (size, mtime_ns), vector
    except BaseException:
        connection.close()
        raise
    return connection, entries
