"""Embeddings of a whole set on disk: an array for NumPy, and a table with paths and classes.

Interrupted work continues where it stopped. Until both files are complete and get their final
names, rows go to `embeddings.npy.partial`, and `embeddings.progress.json` says how many of them are
safely on disk, and of which model and images they are.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Annotated, Any, BinaryIO, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from la_tf.data.base import DataError, Source, Subset
from la_tf.data.checks import find_bad_images
from la_tf.data.identity import identify
from la_tf.data.pipeline import EVAL_BATCH_SIZE
from la_tf.embedding.embedding_model import EmbeddingError, EmbeddingModel, progress_bar
from la_tf.errors import first_line
from la_tf.files import lock, write_json
from la_tf.stored import StoredFileError, parse_json, read_json

ARRAY_FILE = "embeddings.npy"
TABLE_FILE = "embeddings.parquet"
PROGRESS_FILE = "embeddings.progress.json"
_LOCK_FILE = "embeddings.lock"
_PARTIAL = ".partial"

# Saved rows end with a whole batch: then the same images share a batch after a restart, and equal
# batches give equal bits.
_BATCHES_PER_SAVE = 4
_ROWS_PER_GROUP = 65_536  # of the table; 32 MiB of vectors at D = 128
_DESCRIPTION = {"model": "another model", "data": "another set of images"}
_NAME_BYTES = 256  # of path, class and numbers in a row of the table, an upper estimate

Identity = dict[str, dict[str, Any]]


class _Progress(TypedDict):
    """What the file of an interrupted call holds."""

    rows: Annotated[int, range(2**40)]
    model: dict[str, Any]
    data: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Written:
    """Files with embeddings [rows, dim]; `was_there` says that an earlier call wrote them."""

    array: pathlib.Path
    table: pathlib.Path
    rows: int
    dim: int
    was_there: bool


def write_embeddings(model: EmbeddingModel, source: Source, output_dir: str) -> Written:
    """Embeds every image that an earlier call has not embedded.

    `embeddings.npy` holds float32 [N, D], row i for example i. `embeddings.parquet` has the columns
    path, index, label, class_name (both null without labels) and vector; its schema's metadata
    hold "model" and "data" as JSON. Stopping the work changes no byte of either file.

    Args:
      model: see `run_model` and `export_model`.
      source: N checked images.
      output_dir: made if it does not exist; may hold other files.

    Raises:
      EmbeddingError: there are embeddings of another model or other images, the disk is full or
        cannot be written, or another process is at work there. Nothing is overwritten.
      DataError: an image cannot be decoded.
    """
    folder = pathlib.Path(output_dir).expanduser()
    identity = {"model": model.identity, "data": {"name": source.name, **identify(source)}}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            return _write(model, source, folder, identity)
    except OSError as error:
        raise EmbeddingError(
            f"{folder} cannot be written: {error.strerror or error}. Saved rows are kept; fix "
            "that and start the same command again."
        ) from error


def _write(
    model: EmbeddingModel, source: Source, folder: pathlib.Path, identity: Identity
) -> Written:
    array, table = folder / ARRAY_FILE, folder / TABLE_FILE
    if array.exists() and table.exists():
        _require_same(folder, _table_identity(table), identity)
        rows, dim = _shape(array)
        _remove_leftovers(folder)
        return Written(array, table, rows, dim, was_there=True)
    done, count = _saved_rows(folder, identity), source.num_examples
    # One image first, for D, and so that a model that does not fit the images fails early.
    dim = next(_explained(model, source, range(1))).shape[1]
    partial = folder / (ARRAY_FILE + _PARTIAL)
    _require_space(folder, partial, count, dim)
    with _open_array(partial, count, dim, done) as file, progress_bar(count, done) as bar:
        for number, rows in enumerate(_explained(model, source, range(done, count)), start=1):
            file.write(np.ascontiguousarray(rows, "<f4").data)
            done += len(rows)
            bar.update(len(rows))
            if number % _BATCHES_PER_SAVE == 0 or done == count:
                file.flush()
                os.fsync(file.fileno())
                write_json(folder / PROGRESS_FILE, {**identity, "rows": done})
    vectors = np.load(partial, mmap_mode="r")
    _write_table(folder / (TABLE_FILE + _PARTIAL), source, vectors, identity)
    os.replace(folder / (TABLE_FILE + _PARTIAL), table)
    os.replace(partial, array)
    _remove_leftovers(folder)
    return Written(array, table, count, dim, was_there=False)


def _explained(model: EmbeddingModel, source: Source, indices: range) -> Iterator[np.ndarray]:
    """Embeddings of `indices` in batches; says which image stopped them, if one did."""
    if not indices:
        return
    done = indices.start
    try:
        for rows in model.batches(Subset(source, indices)):
            done += len(rows)
            yield rows
    except tf.errors.OpError as error:
        if bad := find_bad_images(source, range(done, min(done + EVAL_BATCH_SIZE, indices.stop))):
            raise DataError(
                f"{bad[0].name} cannot be decoded ({bad[0].reason}): repair it and start the same "
                "command again, or find all such files with tools/check_data.py, remove them and "
                "name another --output_dir."
            ) from error
        raise EmbeddingError(
            f"embedding stopped at {source.describe(done)}: {first_line(error)}."
        ) from error


def _saved_rows(folder: pathlib.Path, identity: Identity) -> int:
    """How many rows an interrupted call has saved.

    Raises:
      EmbeddingError: the folder holds other embeddings, or damaged ones.
    """
    progress = folder / PROGRESS_FILE
    if not progress.exists():
        for name in (ARRAY_FILE, TABLE_FILE):
            if (folder / name).exists():
                raise EmbeddingError(
                    f"{folder} holds {name} without the file that belongs to it: name another "
                    "--output_dir, or remove it."
                )
        return 0
    try:
        stored = read_json(progress, _Progress)
    except StoredFileError as error:
        raise EmbeddingError(f"{progress} cannot be read ({error}): remove it.") from error
    _require_same(folder, stored, identity)
    return stored["rows"]


def _open_array(partial: pathlib.Path, count: int, dim: int, done: int) -> BinaryIO:
    """Opens the array [count, dim] to append after its first `done` rows."""
    damaged = EmbeddingError(
        f"{partial} is shorter than {PROGRESS_FILE} says: remove both to start over."
    )
    if done and not partial.exists():
        raise damaged
    file = partial.open("r+b" if done else "w+b")
    header = {"descr": "<f4", "fortran_order": False, "shape": (count, dim)}
    np.lib.format.write_array_header_1_0(file, header)
    end = file.tell() + 4 * dim * done
    if file.seek(0, os.SEEK_END) < end:
        file.close()
        raise damaged
    file.truncate(end)
    file.seek(end)
    return file


def _write_table(
    path: pathlib.Path, source: Source, vectors: np.ndarray, identity: Identity
) -> None:
    """Writes the Parquet file, one row group in memory at a time."""
    count, dim = vectors.shape
    columns = {
        "path": pa.string(),
        "index": pa.int64(),
        "label": pa.int32(),
        "class_name": pa.string(),
        "vector": pa.list_(pa.float32(), dim),
    }
    metadata = {name: json.dumps(value) for name, value in identity.items()}
    schema = pa.schema(list(columns.items()), metadata=metadata)
    with pq.ParquetWriter(path, schema, use_dictionary=["class_name"]) as writer:
        for start in range(0, count, _ROWS_PER_GROUP):
            rows = np.arange(start, min(start + _ROWS_PER_GROUP, count))
            labels = names = [None] * len(rows)
            if source.labels is not None:
                labels = source.labels[rows]
                names = [source.class_names[label] for label in labels]
            flat = pa.array(vectors[rows[0] : rows[-1] + 1].reshape(-1))
            group = {
                "path": [source.describe(int(i)) for i in rows],
                "index": rows,
                "label": labels,
                "class_name": names,
                "vector": pa.FixedSizeListArray.from_arrays(flat, dim),
            }
            writer.write_table(pa.table(group, schema=schema))


def _table_identity(path: pathlib.Path) -> Identity:
    try:
        metadata = pq.read_schema(path).metadata
        texts = {name: metadata[name.encode()] for name in _DESCRIPTION}
        return {name: parse_json(text, dict[str, Any]) for name, text in texts.items()}
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise _foreign(path) from error


def _shape(path: pathlib.Path) -> tuple[int, int]:
    try:
        rows, dim = np.load(path, mmap_mode="r").shape
    except Exception as error:  # a damaged header breaks NumPy's reader in many ways
        raise _foreign(path) from error
    return rows, dim


def _foreign(path: pathlib.Path) -> EmbeddingError:
    return EmbeddingError(f"{path} is damaged or of another tool: name another --output_dir.")


def _require_same(folder: pathlib.Path, stored: Identity, wanted: Identity) -> None:
    """Raises EmbeddingError if `folder` holds embeddings of another model or other images."""
    for part, values in wanted.items():
        before = stored.get(part, {})
        for name, value in values.items():
            # The images may have moved: their fingerprint identifies them.
            if before.get(name) != value and (part, name) != ("data", "name"):
                raise EmbeddingError(
                    f"{folder} holds embeddings of {_DESCRIPTION[part]} (its {name} was "
                    f"{before.get(name)}, now {value}): name another --output_dir."
                )


def _require_space(folder: pathlib.Path, partial: pathlib.Path, count: int, dim: int) -> None:
    present = partial.stat().st_size if partial.exists() else 0
    needed = count * (8 * dim + _NAME_BYTES) - present
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise EmbeddingError(
            f"{folder} has {free >> 20} MiB free, {count} embeddings of {dim} numbers need "
            f"{needed >> 20} MiB: make room, or name another --output_dir."
        )


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    try:
        file = lock(folder / _LOCK_FILE)
    except BlockingIOError:
        raise EmbeddingError(f"another process writes embeddings to {folder}.") from None
    with file:
        try:
            yield
        finally:
            (folder / _LOCK_FILE).unlink(missing_ok=True)


def _remove_leftovers(folder: pathlib.Path) -> None:
    files = [folder / name for name in (ARRAY_FILE + _PARTIAL, TABLE_FILE + _PARTIAL)]
    # Partial files of `write_json` after a kill.
    files += [*folder.glob(f"{PROGRESS_FILE}.*{_PARTIAL}"), folder / PROGRESS_FILE]
    for file in files:
        file.unlink(missing_ok=True)
