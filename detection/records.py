"""PASCAL VOC as the TFRecords of TF Model Garden's detectors, written once, read in any order."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np
import tensorflow as tf
from official.vision.data.tfrecord_lib import convert_to_feature

from la_tf.config import DataConfig
from la_tf.data.base import DataError
from la_tf.data.image_headers import PictureError, count_pixels
from la_tf.data.record_writer import complete_or_absent
from la_tf.data.records import read_record, starts_of_records
from la_tf.data.voc import VOCError, VOCImage, number_of, read_split, refusal
from la_tf.errors import RunError, first_line
from la_tf.stored import StoredFileError, read_json

INDEX = "records.json"
IMAGES_PER_SHARD = 500
_SHARDS = "images-*.tfrecord"
_VERSION = 1  # of what a record holds
_WRITE_AGAIN = "remove its folder to write it again"


@dataclasses.dataclass(frozen=True)
class VOCRecords:
    """A split as TFRecords.

    Attributes:
      pattern: the paths of the shards with a star for their numbers.
      num_images: in all shards together.
      problems: a sentence for each image that was left out.
    """

    pattern: str
    num_images: int
    problems: tuple[str, ...]


class Index(TypedDict):
    """What the file beside the shards holds."""

    identity: str
    images: int
    problems: list[str]


class RecordError(RunError):
    """TFRecords that cannot be used; the message says which."""


class Records:
    """TFRecord shards, read in any order, where Model Garden reads them one after the other.

    Args:
      pattern: of the shards' names.

    Raises:
      RecordError: there is none, or one is cut short.
    """

    def __init__(self, pattern: str):
        try:
            self._places = [
                (path, start)
                for path in sorted(tf.io.gfile.glob(pattern))
                for start in starts_of_records(path)
            ]
        except DataError as error:
            raise RecordError(f"{error}: {_WRITE_AGAIN}.") from error
        if not self._places:
            raise RecordError(f"there are no {pattern}: remove their folder to write it again.")

    def __len__(self) -> int:
        return len(self._places)

    def read(self, index: int) -> bytes:
        """The serialised example of that number.

        Raises:
          RecordError: it does not have its checksum.
        """
        try:
            return read_record(*self._places[index])
        except DataError as error:
            raise RecordError(f"{error}: {_WRITE_AGAIN}.") from error

    def load(self, index: tf.Tensor) -> tf.Tensor:
        """As `read`, inside a tf.data map."""
        # Stateless, or tf.data would run the map one element at a time under deterministic ops.
        example = tf.numpy_function(self.read, [index], tf.string, stateful=False)
        return tf.ensure_shape(example, [])


def convert(
    voc_dir: str | os.PathLike,
    split: str,
    output_dir: str | os.PathLike,
    skip_bad: bool = False,
    say: Callable[[str], None] = print,
    max_megapixels: float = DataConfig.max_megapixels,
) -> VOCRecords:
    """Writes a split of VOC as TFRecords, or finds those that an earlier call wrote.

    They lie in a folder of `output_dir` such as VOC2007-trainval, which appears only when complete.
    Each picture is decoded once, so that training does not stop at a damaged one.

    Args:
      voc_dir: the folder of one year, such as VOCdevkit/VOC2007.
      split: train, val, trainval or test.
      output_dir: where the folder of records is or will be.
      skip_bad: leave out images with a problem instead of raising.
      say: gets a sentence on what is done.
      max_megapixels: of a picture, in millions of pixels; a larger one has a problem.

    Returns:
      Where the records are, and how many.

    Raises:
      RecordError: a shard that an earlier call wrote is cut short.
      VOCError: the data cannot be used, or the folder holds something else than its records.
    """
    images, problems = read_split(voc_dir, split, skip_bad)
    identity = _identify(images)
    folder = pathlib.Path(output_dir) / f"{pathlib.Path(voc_dir).resolve().name}-{split}"
    if os.path.lexists(folder):
        records = _reuse(folder, identity)
        if records.problems and not skip_bad:
            raise refusal(records.problems[0].removesuffix("."))
        say(f"Using the {records.num_images} images in {folder}.")
        return records
    say(f"Writing {len(images)} images of {voc_dir}, {split}, to {folder}.")
    try:
        with complete_or_absent(str(folder)) as unfinished:
            count, damaged = _write(images, pathlib.Path(unfinished), skip_bad, max_megapixels)
            index = {"identity": identity, "images": count, "problems": [*problems, *damaged]}
            pathlib.Path(unfinished, INDEX).write_text(json.dumps(index, indent=2) + "\n")
    except DataError as error:
        raise VOCError(str(error)) from error
    except (OSError, tf.errors.OpError) as error:
        raise VOCError(
            f"the records cannot be written to {folder}: {first_line(error)}. Make room, "
            "or name another place for them."
        ) from error
    return _open(folder, index)


def encode(image: VOCImage, encoded: bytes) -> bytes:
    """One image as official.vision.dataloaders.tf_example_decoder.TfExampleDecoder wants it.

    VOC's box of whole pixels xmin..xmax, counted from 1, spans the continuous range from xmin - 1
    to xmax. `is_crowd` holds VOC's `difficult`: training leaves these objects out and evaluation
    sees them.

    Args:
      image: what is known about it.
      encoded: the bytes of its file.

    Returns:
      A serialized tf.train.Example.
    """
    xmin, ymin, xmax, ymax = zip(*image.boxes, strict=True) if image.boxes else ((),) * 4
    floats = functools.partial(convert_to_feature, value_type="float_list")
    features = {
        "image/encoded": convert_to_feature(encoded),
        "image/filename": convert_to_feature(image.path.name.encode()),
        "image/source_id": convert_to_feature(str(number_of(image.image_id)).encode()),
        "image/height": convert_to_feature(image.height),
        "image/width": convert_to_feature(image.width),
        "image/object/bbox/xmin": floats([(x - 1) / image.width for x in xmin]),
        "image/object/bbox/xmax": floats([x / image.width for x in xmax]),
        "image/object/bbox/ymin": floats([(y - 1) / image.height for y in ymin]),
        "image/object/bbox/ymax": floats([y / image.height for y in ymax]),
        "image/object/area": floats(
            [(x2 - x1 + 1) * (y2 - y1 + 1) for x1, y1, x2, y2 in image.boxes]
        ),
        "image/object/class/label": convert_to_feature(image.classes, "int64_list"),
        "image/object/is_crowd": convert_to_feature(image.difficult, "int64_list"),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(
        deterministic=True
    )


def annotated(example: tf.train.Example) -> tuple[np.ndarray, np.ndarray]:
    """The N objects of an image that `encode` wrote, difficult ones too.

    Returns:
      Boxes [N, 4] xmin, ymin, xmax, ymax in pixels counted from 1, both ends inside, as VOC has
      them, and classes [N].
    """
    features = example.features.feature
    width, height = (features[f"image/{s}"].int64_list.value[0] for s in ("width", "height"))
    sides = (("xmin", width, 1), ("ymin", height, 1), ("xmax", width, 0), ("ymax", height, 0))
    columns = [
        np.array(features[f"image/object/bbox/{side}"].float_list.value) * length + first
        for side, length, first in sides
    ]
    return np.stack(columns, axis=1), np.array(
        features["image/object/class/label"].int64_list.value
    )


def _write(
    images: Sequence[VOCImage], folder: pathlib.Path, skip_bad: bool, max_megapixels: float
) -> tuple[int, list[str]]:
    count, problems = 0, []
    for shard, start in enumerate(range(0, len(images), IMAGES_PER_SHARD)):
        path = folder / _SHARDS.replace("*", f"{shard:05d}")
        with tf.io.TFRecordWriter(str(path)) as writer:
            for image in images[start : start + IMAGES_PER_SHARD]:
                try:
                    encoded = image.path.read_bytes()
                    count_pixels(encoded, max_megapixels)
                    tf.io.decode_image(encoded, channels=3, expand_animations=False)
                except (PictureError, OSError, tf.errors.InvalidArgumentError) as error:
                    refused = isinstance(error, PictureError)
                    problem = f"{image.path} {error if refused else 'cannot be decoded'}"
                    if not skip_bad:
                        raise refusal(problem) from error
                    problems.append(f"{problem}.")
                    continue
                writer.write(encode(image, encoded))
                count += 1
    if not count:
        raise VOCError(f"no image can be decoded: {problems[0]}")
    return count, problems


def _identify(images: Sequence[VOCImage]) -> str:
    """A digest of all that the records hold; pixels enter by the size of their file."""
    digest = hashlib.sha256(str(_VERSION).encode())
    for image in images:
        size = (image.width, image.height, image.path.stat().st_size)
        objects = (image.boxes, image.classes, image.difficult)
        digest.update(repr((image.image_id, size, objects)).encode())
    return digest.hexdigest()[:16]


def _reuse(folder: pathlib.Path, identity: str) -> VOCRecords:
    remedy = "remove this folder, or name another place for the records."
    try:
        index = read_json(folder / INDEX, Index)
    except StoredFileError as error:
        raise VOCError(
            f"{folder} holds no VOC records with their {INDEX} ({error}): {remedy}"
        ) from error
    records = _open(folder, index)
    if index["identity"] != identity:
        raise VOCError(f"{folder} was made from other images or annotations: {remedy}")
    try:
        present = len(Records(records.pattern))
    except OSError as error:
        raise VOCError(f"{folder} cannot be read ({first_line(error)}): {remedy}") from error
    if present != records.num_images:
        raise VOCError(
            f"{folder} holds {present} of the {records.num_images} images in its {INDEX}: {remedy}"
        )
    return records


def _open(folder: pathlib.Path, index: Index) -> VOCRecords:
    return VOCRecords(str(folder / _SHARDS), index["images"], tuple(index["problems"]))
