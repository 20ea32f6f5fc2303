"""TFRecord shards with an index, so that any record can be read at any time.

A record is a tf.train.Example with the names of TF Model Garden's ImageNet records:
`image/encoded`, `image/filename` and, where there are labels, `image/class/label` (from 0). The
index holds, for each example, where its record and the encoded image inside it lie, its label and
its name. Records are numbered in the order of the shards.

A TFRecord is: length (8 bytes), checksum of the length (4), data, checksum of the data (4).
"""

import dataclasses
import io
import json
import os
import pathlib
import struct
from typing import Annotated, BinaryIO, TypedDict

import numpy as np
import tensorflow as tf
from tensorflow.python.lib.io import tf_record

from la_tf.data.base import ENDS_BYTES, DataError, Source
from la_tf.files import replace_file
from la_tf.stored import StoredFileError, read_arrays, read_json

INDEX_FILE = "index.json"
ARRAYS_FILE = "index.npz"
_VERSION = 1
_HEADER, _FOOTER = 12, 4  # bytes around the data of a record
_COLUMNS = ("lengths", "image_offsets", "image_lengths", "labels")
_Count = Annotated[int, range(2**40)]


class _Shard(TypedDict):
    file: str
    records: _Count


class _Description(TypedDict):
    """What index.json holds."""

    version: int
    num_examples: Annotated[int, range(1, 2**40)]
    class_names: list[str] | None
    shards: list[_Shard]


@dataclasses.dataclass
class RecordIndex:
    """Where every example of a set of shards lies, in the order of the shards."""

    shards: list[str] = dataclasses.field(default_factory=list)
    counts: list[int] = dataclasses.field(default_factory=list)  # records a shard
    lengths: list[int] = dataclasses.field(default_factory=list)  # of a record's data, bytes
    image_offsets: list[int] = dataclasses.field(default_factory=list)  # in the shard, bytes
    image_lengths: list[int] = dataclasses.field(default_factory=list)
    labels: list[int] = dataclasses.field(default_factory=list)  # -1 without labels
    names: list[str] = dataclasses.field(default_factory=list)
    class_names: tuple[str, ...] | None = None

    def add(self, position: int, record: bytes, encoded: bytes, label: int, name: str) -> int:
        """Notes one record that starts at `position` of the last shard; returns the next one's."""
        # If the same bytes occur earlier in the record, they serve as well.
        self.image_offsets.append(position + _HEADER + record.index(encoded))
        self.image_lengths.append(len(encoded))
        self.lengths.append(len(record))
        self.labels.append(label)
        self.names.append(name)
        self.counts[-1] += 1
        return position + _HEADER + len(record) + _FOOTER

    def begin_shard(self, shard: str) -> None:
        """The records that follow lie in `shard`: a file name, or an absolute path."""
        self.shards.append(shard)
        self.counts.append(0)

    def save(self, folder: str) -> None:
        """Writes the two index files into a folder."""
        file = io.BytesIO()  # zipfile, on a full disk, leaves files that cannot be closed
        np.savez(
            file,
            lengths=np.array(self.lengths, np.int64),
            image_offsets=np.array(self.image_offsets, np.int64),
            image_lengths=np.array(self.image_lengths, np.int64),
            labels=np.array(self.labels, np.int32),
            names=np.frombuffer("\0".join(self.names).encode("utf-8"), np.uint8),
        )
        replace_file(pathlib.Path(folder, ARRAYS_FILE), file.getbuffer())
        description = {
            "version": _VERSION,
            "num_examples": len(self.lengths),
            "class_names": self.class_names,
            "shards": [
                {"file": shard, "records": count}
                for shard, count in zip(self.shards, self.counts, strict=True)
            ],
        }
        with open(os.path.join(folder, INDEX_FILE), "w", encoding="utf-8") as file:
            json.dump(description, file, indent=1)


class RecordSource(Source):
    """A folder of shards with an index, as `record_writer.write_records` leaves it."""

    def __init__(self, folder: str, name: str | None = None):
        """Opens the index and compares it with the shards.

        Args:
          folder: holds index.json and index.npz.
          name: for messages; default the folder.

        Raises:
          DataError: a shard is missing or cut short, or the index does not fit the shards.
        """
        path = os.path.join(folder, INDEX_FILE)
        try:
            description = read_json(path, _Description)
            arrays = read_arrays(os.path.join(folder, ARRAYS_FILE), (*_COLUMNS, "names"))
            self._names = _names(arrays.pop("names"))
            columns = {name: _whole_numbers(name, arrays[name]) for name in _COLUMNS}
        except StoredFileError as error:
            raise DataError(
                f"the index {path} cannot be read ({error}): write the records again with "
                "tools/make_tfrecords.py."
            ) from error
        version, total = description["version"], description["num_examples"]
        class_names = description["class_names"]
        shards = [os.path.join(folder, shard["file"]) for shard in description["shards"]]
        counts = [shard["records"] for shard in description["shards"]]
        sizes = {len(column) for column in (*columns.values(), self._names)}
        if version != _VERSION or sum(counts) != total or sizes != {total}:
            raise DataError(
                f"the index {path} is not dense (version {version}, {total} examples, "
                f"{sum(counts)} records, columns of {sorted(sizes)}): write the records again "
                "with tools/make_tfrecords.py."
            )
        labels = columns["labels"]
        _compare_with_shards(shards, counts, columns["lengths"])
        self._image_offsets = columns["image_offsets"]
        self._image_lengths = columns["image_lengths"]
        self._shards = shards
        self._shard_of = np.repeat(np.arange(len(shards)), counts)
        sound = _lie_in_records(self._shard_of, *(columns[name] for name in _COLUMNS[:3]))
        if class_names is not None:
            sound &= labels < len(class_names)
        if not sound.all():
            raise DataError(
                f"the index {path} does not fit its shards (record {int(np.argmin(sound))} has an "
                "image or a class that is not there): write the records again with "
                "tools/make_tfrecords.py."
            )
        labelled = class_names is not None and labels.min() >= 0
        super().__init__(name or folder, total, labels if labelled else None, class_names)

    def describe(self, i: int) -> str:
        """The name in the record, and where the record is."""
        shard = self._shards[self._shard_of[i]]
        return f"{self._names[i]} (record {i} of {self.name}, in {os.path.basename(shard)})"

    def key(self, i: int) -> str:
        return str(self._names[i])

    def load(self, index: tf.Tensor) -> tf.Tensor:
        """Reads the bytes of the image from the middle of its shard."""
        # Declared stateless, since files do not change under us: tf.data would otherwise run a
        # map with this function one element at a time when deterministic ops are asked for.
        encoded = tf.numpy_function(self.read, [index], tf.string, stateful=False)
        return tf.ensure_shape(encoded, [])

    def read(self, i: int) -> bytes:
        """As `load`, without TensorFlow."""
        return self._pread(i, 0, int(self._image_lengths[i]))

    def read_ends(self, i: int, count: int = ENDS_BYTES) -> tuple[bytes, bytes, int]:
        """Reads nothing but the ends of the image."""
        size = int(self._image_lengths[i])
        count = min(size, count)
        return self._pread(i, 0, count), self._pread(i, size - count, count), size

    def _pread(self, i: int, offset: int, length: int) -> bytes:
        shard = self._shards[self._shard_of[i]]
        # Opened for each read: data sets have more shards than a process may have open files.
        with open(shard, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), length, int(self._image_offsets[i]) + offset)
        if len(data) != length:
            raise DataError(f"{shard} was cut short while it was in use: restore the file.")
        return data


def starts_of_records(shard: str) -> list[int]:
    """Where each record of a shard begins, in bytes, found from header to header.

    Raises:
      DataError: the shard ends within a record.
      OSError: it cannot be read.
    """
    size, position, starts = os.path.getsize(shard), 0, []
    with open(shard, "rb", buffering=0) as file:
        while position < size:
            starts.append(position)
            position += _size_at(file, position)
    if position != size:
        raise DataError(f"{shard} is cut short")
    return starts


def read_record(shard: str, start: int) -> bytes:
    """The data of the record that begins at `start`, verified by both checksums.

    Raises:
      DataError: it is damaged.
    """
    try:
        return tf_record.tf_record_random_reader(shard).read(start)[0]
    except (IndexError, tf.errors.OpError) as error:
        raise DataError(f"{shard} is damaged at byte {start}") from error


def _whole_numbers(name: str, column: np.ndarray) -> np.ndarray:
    """A column of the index.

    Raises:
      StoredFileError: it is none.
    """
    if column.ndim != 1 or column.dtype.kind != "i":
        raise StoredFileError(f"{name} is {column.dtype} of {column.ndim} axes")
    column = column.astype(np.int64)
    if name != "labels" and column.size and not 0 <= column.min() <= column.max() < 2**50:
        raise StoredFileError(f"{name} has numbers that cannot be")
    return column


def _names(characters: np.ndarray) -> list[str]:
    try:
        return characters.tobytes().decode("utf-8").split("\0")
    except ValueError as error:
        raise StoredFileError("names are no text") from error


def _lie_in_records(
    shard_of: np.ndarray, lengths: np.ndarray, image_offsets: np.ndarray, image_lengths: np.ndarray
) -> np.ndarray:
    """Of each record, whether its image lies within its data."""
    sizes = lengths + _HEADER + _FOOTER
    ends = np.cumsum(sizes)
    # Positions count from the beginning of each shard.
    firsts = np.searchsorted(shard_of, shard_of)
    starts = ends - sizes - (ends - sizes)[firsts] + _HEADER
    return (starts <= image_offsets) & (image_offsets + image_lengths <= starts + lengths)


def _size_at(file: BinaryIO, start: int) -> int:
    """Size of the record at `start` with its checksums; beyond any file where it is cut."""
    header = os.pread(file.fileno(), 8, start)
    return (struct.unpack("<Q", header)[0] if len(header) == 8 else 2**64) + _HEADER + _FOOTER


def _compare_with_shards(shards: list[str], counts: list[int], lengths: np.ndarray) -> None:
    """Sizes of all shards, and the header of the first and the last record of each."""
    first = 0
    for shard, count in zip(shards, counts, strict=True):
        sizes = lengths[first : first + count] + _HEADER + _FOOTER
        expected = int(sizes.sum())
        first += count
        if not os.path.isfile(shard):
            raise DataError(f"the shard {shard} is missing: restore it or write the records again.")
        actual = os.path.getsize(shard)
        if actual != expected:
            raise DataError(
                f"the shard {shard} has {actual} bytes where its index says {expected}: restore "
                "it or write the records again."
            )
        with open(shard, "rb", buffering=0) as file:
            for size, start in ((sizes[:1], 0), (sizes[-1:], expected - sizes[-1:].sum())):
                if size.size and _size_at(file, int(start)) != size[0]:
                    raise DataError(
                        f"the shard {shard} is not the one its index describes: restore it or "
                        "write the records again."
                    )
