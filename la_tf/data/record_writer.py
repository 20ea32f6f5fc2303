"""Writes a source as TFRecord shards with an index, and indexes the shards of other tools."""

import collections
import contextlib
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from la_tf.data.base import DataError, Source
from la_tf.data.records import RecordIndex
from la_tf.errors import first_line
from la_tf.files import replace_folder, temporary_folder

EXAMPLES_PER_SHARD = 10_000


@contextlib.contextmanager
def complete_or_absent(folder: str, replace: bool = False) -> Iterator[str]:
    """A folder to write into, which gets its final name once everything in it has been written.

    Args:
      folder: the final path.
      replace: put it in the place of what is there, instead of refusing.

    Yields:
      The path of a temporary folder next to it.

    Raises:
      DataError: the folder exists, or cannot be made.
    """
    folder = os.path.abspath(folder)
    if os.path.lexists(folder) and not replace:
        raise DataError(f"{folder} exists already: remove it, or name another folder.")
    parent, name = os.path.split(folder)
    with contextlib.ExitStack() as stack:
        try:
            own = temporary_folder(pathlib.Path(parent), f".{name}.unfinished-")
            unfinished = stack.enter_context(own)
        except OSError as error:
            raise DataError(f"{folder} cannot be written: {error.strerror}.") from error
        yield str(unfinished)
        if replace:
            with contextlib.suppress(OSError):  # another process has just put the same there
                replace_folder(unfinished, pathlib.Path(folder))
        else:
            os.rename(unfinished, folder)


def write_records(source: Source, folder: str, num_shards: int | None = None) -> None:
    """Writes a source as indexed TFRecords, with the same indices and the same encoded bytes.

    Args:
      source: N examples.
      folder: to be made; appears only when complete.
      num_shards: how many files; default one for each `EXAMPLES_PER_SHARD`.

    Raises:
      DataError: the folder exists, it cannot be written, an image cannot be read, or there are more
        shards than examples.
    """
    total = source.num_examples
    num_shards = max(1, total // EXAMPLES_PER_SHARD) if num_shards is None else num_shards
    if not 1 <= num_shards <= total:
        raise DataError(f"--num_shards={num_shards} must lie between 1 and {total} images.")
    index = RecordIndex(class_names=source.class_names)
    try:
        with complete_or_absent(folder) as unfinished:
            for number, members in enumerate(np.array_split(np.arange(total), num_shards)):
                shard = f"images-{number:05d}-of-{num_shards:05d}.tfrecord"
                index.begin_shard(shard)
                position = 0
                with tf.io.TFRecordWriter(os.path.join(unfinished, shard)) as writer:
                    for i in members:
                        encoded = source.read(int(i))
                        name = source.describe(int(i)).removeprefix(source.name + os.sep)
                        label = -1 if source.labels is None else int(source.labels[i])
                        record = _example(encoded, label, name)
                        writer.write(record)
                        position = index.add(position, record, encoded, label, name)
            index.save(unfinished)
    except (OSError, tf.errors.OpError) as error:
        raise DataError(
            f"{folder} cannot be written: {first_line(error)}. Fix that and start the same command "
            "again."
        ) from error


def _example(encoded: bytes, label: int, name: str) -> bytes:
    values = {"image/encoded": encoded, "image/filename": name.encode("utf-8")}
    feature = {
        key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        for key, value in values.items()
    }
    if label >= 0:
        feature["image/class/label"] = tf.train.Feature(
            int64_list=tf.train.Int64List(value=[label])
        )
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString(
        deterministic=True
    )


def index_foreign_shards(
    shards: Sequence[str],
    image_key: str,
    label_key: str | None,
    name_key: str | None,
    class_names: Sequence[str] | None,
) -> RecordIndex:
    """Indexes TFRecord shards that another tool wrote, without copying them.

    Args:
      shards: paths, in the order that gives the examples their indices.
      image_key: the feature that holds the encoded image.
      label_key: the feature that holds the label, counted from 0; None without labels.
      name_key: the feature that names an example; None where there is none.
      class_names: one name a class; None without labels.

    Returns:
      The index, with absolute paths.

    Raises:
      DataError: a shard is damaged, or a record has no encoded image.
    """
    index = RecordIndex(class_names=None if class_names is None else tuple(class_names))
    for shard in shards:
        index.begin_shard(os.path.abspath(shard))
        position = 0
        for record in _records(shard):
            try:
                feature = tf.train.Example.FromString(record).features.feature
            except DecodeError as error:
                raise DataError(f"{shard} holds a record that is no example.") from error
            feature = collections.defaultdict(tf.train.Feature, feature)
            images = feature[image_key].bytes_list.value
            if len(images) != 1:
                raise DataError(f"{shard} has a record without an encoded '{image_key}'.")
            names = feature[name_key].bytes_list.value if name_key else ()
            labels = feature[label_key].int64_list.value if label_key else ()
            number = len(index.lengths)
            name = names[0].decode("utf-8", errors="replace") if names else f"example {number}"
            label = labels[0] if labels else -1
            position = index.add(position, record, images[0], label, name)
    return index


def _records(shard: str) -> Iterator[bytes]:
    try:
        yield from tf.data.TFRecordDataset(shard).as_numpy_iterator()
    except tf.errors.OpError as error:
        raise DataError(f"{shard} cannot be read ({first_line(error)}): restore it.") from error
