"""Turns photographs upright: cameras store how they were held beside the pixels, as a number.

TensorFlow's decoders ignore it. Here it is read from the EXIF of a JPEG or PNG and applied to what
is decoded, all in operations of the graph, so that training, evaluation and every exported model
see the same picture as a viewer shows.
"""

import tensorflow as tf

UPRIGHT = 1
# EXIF comes first in a JPEG, or behind headers of a few bytes; in a PNG behind the profile of its
# colours. It begins in so many bytes, or is not found: to look through 4096 of each JPEG would take
# ten microseconds more.
JPEG_HEAD, PNG_HEAD = 1024, 16384
_READ_BYTES = 4096
# A byte is \C, since . is a character of UTF-8.
_EXIF = r"(?:Exif\x00\x00|eXIf)(II\*\x00|MM\x00\*)"  # a JPEG's, a PNG's; TIFF's first bytes
_HAS_EXIF, _UP_TO_TIFF = rf"\C*{_EXIF}\C*", rf"^\C*?{_EXIF}"
_LITTLE_ENDIAN = ord("I")  # II, as opposed to MM
_ORIENTATION_TAG = 0x0112
_ENTRY = 12  # bytes: tag 2, type 2, count 4, value 4

# For what is seldom needed: a branch of `tf.cond` that is not taken costs time for each node in it.
branch_of_one_node = tf.function(autograph=False, experimental_attributes={"_noinline": True})


def read_orientation(encoded: tf.Tensor, head: int = JPEG_HEAD) -> tf.Tensor:
    """How a picture must be turned, by its EXIF.

    Args:
      encoded: scalar string, a picture.
      head: in how many of its first bytes EXIF must begin; `PNG_HEAD` for a PNG.

    Returns:
      int32 scalar, 1 to 8 as in EXIF: 1 where the picture is upright, or says nothing else in the
      first 4 KiB of EXIF. From 5 on, rows and columns change places.
    """
    beginning = tf.strings.substr(encoded, 0, head)
    has_exif = tf.strings.regex_full_match(beginning, _HAS_EXIF)
    return tf.cond(has_exif, lambda: _in_exif(encoded, head), lambda: tf.constant(UPRIGHT))


@branch_of_one_node
def _in_exif(encoded: tf.Tensor, head: int) -> tf.Tensor:
    """The orientation in the first directory of EXIF, of which the end may be missing."""
    beginning = tf.strings.substr(encoded, 0, head + _READ_BYTES)
    tiff = tf.strings.regex_replace(beginning, _UP_TO_TIFF, r"\1", replace_global=False)
    tiff = tf.strings.substr(tiff, 0, _READ_BYTES)
    # Numbers can be read beyond the end of a damaged file: they are zeros there.
    data = tf.cast(tf.io.decode_raw(tiff, tf.uint8), tf.int64)
    size = tf.size(data, tf.int64)
    data = tf.pad(data, [[0, _ENTRY]])
    little = data[0] == _LITTLE_ENDIAN

    def number(position: tf.Tensor | int, length: int) -> tf.Tensor:
        """Unsigned numbers of some bytes at one position or several."""
        parts = [tf.gather(data, position + i) for i in range(length)]
        rising = sum(part * 256**i for i, part in enumerate(parts))
        falling = sum(part * 256**i for i, part in enumerate(reversed(parts)))
        return tf.where(little, rising, falling)

    directory = tf.minimum(number(4, 4), size)
    whole = (size - directory - 2) // _ENTRY
    count = tf.clip_by_value(number(directory, 2), 0, tf.maximum(whole, 0))
    entries = directory + 2 + _ENTRY * tf.range(count)
    tags, values = number(entries, 2), number(entries + 8, 2)
    valid = (tags == _ORIENTATION_TAG) & (values >= 1) & (values <= 8)
    found = tf.concat([tf.boolean_mask(values, valid), [UPRIGHT]], axis=0)
    return tf.cast(found[0], tf.int32)


def turn(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns decoded pixels, of a whole picture or of a part, as they are to be seen.

    Args:
      image: [height, width, channels] as it is stored.
      orientation: from `read_orientation`.

    Returns:
      [height, width, channels], or from 5 on [width, height, channels].
    """

    def turned() -> tf.Tensor:
        swapped = tf.cond(
            _swaps(orientation), lambda: tf.transpose(image, [1, 0, 2]), lambda: image
        )
        return tf.reverse(swapped, tf.boolean_mask([0, 1], tf.stack(_mirrored(orientation))))

    return tf.cond(orientation == UPRIGHT, lambda: image, turned)


def upright_shape(shape: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """(height, width, channels) of a picture as it is to be seen, from those as it is stored."""
    return tf.where(_swaps(orientation), tf.gather(shape, [1, 0, 2]), shape)


def stored_window(
    begin: tf.Tensor, size: tf.Tensor, shape: tf.Tensor, orientation: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Where a part of a picture is stored; `turn` makes of it what was asked for.

    Args:
      begin: int32 (top, left) in the picture as it is to be seen.
      size: int32 (height, width) there.
      shape: int32 (height, width) of all of it.
      orientation: from `read_orientation`.

    Returns:
      begin and size in the picture as it is stored.
    """
    before = tf.where(tf.stack(_mirrored(orientation)), shape - begin - size, begin)
    swaps = _swaps(orientation)
    return (
        tf.where(swaps, tf.reverse(before, [0]), before),
        tf.where(swaps, tf.reverse(size, [0]), size),
    )


def _swaps(orientation: tf.Tensor) -> tf.Tensor:
    """Whether rows are stored as columns; they change places before anything is mirrored."""
    return orientation >= 5


def _mirrored(orientation: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Whether the picture is upside down, and whether left is right, once that is done."""
    return (
        tf.reduce_any(orientation == [3, 4, 7, 8]),
        tf.reduce_any(orientation == [2, 3, 6, 7]),
    )
