"""Finds images that cannot be decoded, before training meets them."""

import collections
import dataclasses
import functools
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures

import numpy as np
import tensorflow as tf

from la_tf.config import DataConfig
from la_tf.data.base import ENDS_BYTES, DataError, Source, Subset
from la_tf.data.image_headers import (
    PictureError,
    TooManyPixels,
    count_pixels,
    format_of,
    has_few_pixels,
)
from la_tf.errors import first_line
from la_tf.options import sections_and_options

# Up to this many images, each is decoded: about half a minute for photographs on two cores.
DECODE_UP_TO = 20_000
# The size of a JPEG stands behind its preview and its profile.
_LONG_HEAD = 64 * ENDS_BYTES
_MOST_MEGAPIXELS = sections_and_options()["max_megapixels"][1].metadata["within"][1]
_READ_ERRORS = (tf.errors.OpError, OSError, DataError, PictureError, MemoryError)
_SHOWN = 3  # names in a message
_BLOCK = 64  # images a task: a task for each of a million would take a gigabyte


@dataclasses.dataclass(frozen=True)
class BadImage:
    """An image that cannot be decoded."""

    index: int
    name: str
    reason: str


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """What `check_images` found.

    Attributes:
      source: the images to train on.
      bad: what was left out.
      decoded: whether every image was decoded, or only its first and last bytes read.
    """

    source: Source
    bad: tuple[BadImage, ...]
    decoded: bool

    def __str__(self) -> str:
        how = "each was decoded" if self.decoded else "their first and last bytes were read"
        found = f"{self.source.num_examples} images of {self.source.name}, {how}"
        return f"{found}; {_name_bad(self.bad)} left out." if self.bad else f"{found}."


@dataclasses.dataclass(frozen=True)
class Survey:
    """Counts over the images of a source.

    Attributes:
      formats: images by file format.
      sizes: images by (height, width) in pixels.
      bad: images that cannot be decoded.
    """

    formats: collections.Counter
    sizes: collections.Counter
    bad: tuple[BadImage, ...]


def check_images(
    source: Source,
    skip_bad: bool = False,
    max_megapixels: float = DataConfig.max_megapixels,
    decode_up_to: int = DECODE_UP_TO,
) -> CheckResult:
    """Looks at every image of a source.

    Only regular files are opened, and no image is decoded before its headers say that it is small
    enough. Up to `decode_up_to` images are decoded. Of more, only the first and last bytes are
    read: that finds files that are too large, empty, cut short or no image, and leaves damage in
    the middle of a file to `find_bad_images`, after training has stopped at it. An image that looks
    wrong is decoded, so that no good one is called bad.

    Args:
      source: N examples.
      skip_bad: leave bad images out instead of raising.
      max_megapixels: of an image, in millions of pixels; a larger one is bad.
      decode_up_to: the largest N for which everything is decoded.

    Returns:
      The source, or the good part of it under new dense indices.

    Raises:
      DataError: some images are bad and `skip_bad` is off, or all are.
    """
    decoded = source.num_examples <= decode_up_to
    check = functools.partial(_decode_problem if decoded else _ends_problem, max_megapixels)
    bad = _find(source, range(source.num_examples), check)
    if not bad:
        return CheckResult(source, (), decoded)
    if len(bad) == source.num_examples:
        raise DataError(f"{source.name} has no image that can be decoded: {_name_bad(bad)}.")
    if not skip_bad:
        raise DataError(
            f"{source.name}: {_name_bad(bad)} cannot be decoded; remove or repair what is named, "
            "or leave it out with --skip_bad_images."
        )
    good = np.delete(np.arange(source.num_examples), [image.index for image in bad])
    return CheckResult(Subset(source, good), bad, decoded)


def keep_good_images(source: Source, config: DataConfig, say: Callable[[str], None]) -> Source:
    """The source as `check_images` leaves it; says what else is left out.

    Args:
      source: N examples.
      config: `skip_bad_images` and `max_megapixels` are read.
      say: takes a sentence if anything was left out.

    Raises:
      DataError: some images are bad and `skip_bad_images` is off, or all are.
    """
    if source.not_read:
        say(source.not_read)
    result = check_images(source, config.skip_bad_images, config.max_megapixels)
    if result.bad:
        say(str(result))
    return result.source


def find_bad_images(source: Source, indices: Iterable[int]) -> tuple[BadImage, ...]:
    """Decodes the images `indices` of a source; returns those that cannot be, in this order.

    Those that no option allows for their size are not tried.
    """
    return _find(source, indices, functools.partial(_decode_problem, _MOST_MEGAPIXELS))


def find_large_images(
    source: Source, indices: Iterable[int], max_megapixels: float
) -> tuple[BadImage, ...]:
    """The images `indices` of a source that may not be decoded, by their headers."""
    return _find(source, indices, functools.partial(_headers_problem, max_megapixels))


def name_some(bad: Sequence[BadImage]) -> str:
    """The first bad images with what is wrong with them, and how many more there are."""
    shown = ", ".join(f"{image.name} ({image.reason})" for image in bad[:_SHOWN])
    return shown + (f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else "")


def refuse_bad_images(source: Source, indices: Iterable[int], when: str = "") -> None:
    """Decodes some images, to name the one at which a pipeline has failed.

    Args:
      source: N examples.
      indices: which ones; `pipeline.step_indices` gives those of a step.
      when: what the sentence begins with.

    Raises:
      DataError: there is such an image.
    """
    if bad := find_bad_images(source, indices):
        raise DataError(
            f"{when}{bad[0].name} cannot be decoded ({bad[0].reason}); find all such files with "
            "tools/check_data.py and remove them."
        )


def survey(source: Source, max_megapixels: float = DataConfig.max_megapixels) -> Survey:
    """Decodes every image of a source and counts formats and sizes; larger ones are bad."""
    formats, sizes, bad = collections.Counter(), collections.Counter(), []
    decoded = _in_threads(lambda i: _decode(source, i, max_megapixels), range(source.num_examples))
    for i, found in enumerate(decoded):
        if isinstance(found, str):
            bad.append(BadImage(i, source.describe(i), found))
        else:
            formats[found[0]] += 1
            sizes[found[1]] += 1
    return Survey(formats, sizes, tuple(bad))


def _find(
    source: Source, indices: Iterable[int], check: Callable[[Source, int], str | None]
) -> tuple[BadImage, ...]:
    indices = [int(i) for i in indices]
    problems = _in_threads(lambda i: check(source, i), indices)
    return tuple(
        BadImage(i, source.describe(i), problem)
        for i, problem in zip(indices, problems, strict=True)
        if problem
    )


def _in_threads(function: Callable, indices: Sequence[int]) -> list:
    """The function's results in order. Reading and decoding release Python's lock."""
    blocks = [indices[i : i + _BLOCK] for i in range(0, len(indices), _BLOCK)]
    with futures.ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        results = pool.map(lambda block: [function(i) for i in block], blocks)
        return [result for block in results for result in block]


def _decode(source: Source, i: int, max_megapixels: float) -> tuple[str, tuple[int, int]] | str:
    """Format and (height, width) of an image, or why it cannot be decoded."""
    try:
        encoded = source.read(i)
        count_pixels(encoded, max_megapixels)
        shape = tf.io.decode_image(encoded, channels=3, expand_animations=False).shape
    except _READ_ERRORS as error:
        return _reason(error)
    return format_of(encoded), (shape[0], shape[1])


def _headers_problem(max_megapixels: float, source: Source, i: int) -> str | None:
    try:
        count_pixels(source.read(i), max_megapixels)
    except _READ_ERRORS as error:
        return _reason(error)
    return None


def _decode_problem(max_megapixels: float, source: Source, i: int) -> str | None:
    decoded = _decode(source, i, max_megapixels)
    return decoded if isinstance(decoded, str) else None


def _ends_problem(max_megapixels: float, source: Source, i: int) -> str | None:
    try:
        head, tail, size = source.read_ends(i)
        if _looks_complete(head, tail, size):
            known = has_few_pixels(head, max_megapixels)
            if not known and len(head) < size:
                known = has_few_pixels(source.read_ends(i, _LONG_HEAD)[0], max_megapixels)
            if not known:
                count_pixels(source.read(i), max_megapixels)
            return None
    except _READ_ERRORS as error:
        return _reason(error)
    return _decode_problem(max_megapixels, source, i)


def _reason(error: Exception) -> str:
    match error:
        case TooManyPixels():
            return f"{error} by --max_megapixels"
        case PictureError():
            return str(error)
        case OSError(strerror=str(reason)):
            return reason
    return first_line(error)


def _looks_complete(head: bytes, tail: bytes, size: int) -> bool:
    """Whether an image starts and ends as its format says."""
    match format_of(head):
        case "JPEG":
            return b"\xff\xd9" in tail  # cameras pad behind the end marker
        case "PNG":
            return b"IEND" in tail
        case "GIF":
            return tail.endswith(b";")
        case "BMP":
            return len(head) >= 6 and struct.unpack("<I", head[2:6])[0] == size
    return False


def _name_bad(bad: tuple[BadImage, ...]) -> str:
    return f"{len(bad)} image{'s' if len(bad) > 1 else ''}: {name_some(bad)}"
