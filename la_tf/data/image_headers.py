"""Checks an encoded picture by its headers, before anything decodes it."""

import io
import re
import struct
import warnings

from PIL import Image

FORMATS = ("JPEG", "PNG", "GIF", "BMP")  # what an export decodes
# Decoding a progressive JPEG goes over the whole picture once a scan, and a scan can be as short as
# a few hundred bytes: a small file may ask for thousands. Encoders write about ten.
MAX_SCANS = 50

_JPEG_START = b"\xff\xd8"
_JPEG_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")  # the end, and those with a length
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9
_GIF_IMAGE, _GIF_EXTENSION = 0x2C, 0x21


class PictureError(ValueError):
    """A picture that is refused; the message continues a sentence that begins with its name."""


def count_pixels(encoded: bytes, max_megapixels: float) -> int:
    """How many pixels decoding a picture makes, read from its headers.

    Args:
      encoded: the bytes of a file.
      max_megapixels: the most that are allowed, in millions.

    Returns:
      Width times height; of an animation, the sum over its frames, all of which TensorFlow
      decodes to give the first.

    Raises:
      PictureError: the bytes are no picture in one of `FORMATS`, have too many pixels, or are a
        JPEG of more than `MAX_SCANS` scans.
    """
    try:
        with warnings.catch_warnings():
            # Of large pictures Pillow warns on stderr; here they are an error, or allowed.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(encoded), formats=FORMATS) as picture:
                width, height, name = *picture.size, picture.format
    except Image.DecompressionBombError as error:
        raise PictureError(f"has more than the {max_megapixels:g} megapixels allowed") from error
    except Exception as error:  # damaged headers break Pillow's readers in many ways
        raise PictureError("is no JPEG, PNG, GIF or BMP picture") from error
    pixels = _gif_pixels(encoded) if name == "GIF" else width * height
    if pixels > max_megapixels * 1e6:
        raise PictureError(
            f"has {pixels / 1e6:.1f} megapixels, more than the {max_megapixels:g} allowed"
        )
    if encoded.startswith(_JPEG_START) and (scans := _jpeg_scans(encoded)) > MAX_SCANS:
        raise PictureError(f"has {scans} scans, more than the {MAX_SCANS} allowed")
    return pixels


def _jpeg_scans(encoded: bytes) -> int:
    """How many scans a JPEG has, found as libjpeg finds them: from marker to marker.

    What segments hold (a preview, a profile) is passed over, and so is what follows the end.
    """
    scans, position = 0, len(_JPEG_START)
    while found := _JPEG_MARKER.search(encoded, position):
        marker, position = encoded[found.end() - 1], found.end()
        if marker == _JPEG_END:
            break
        scans += marker == _JPEG_SCAN
        position += max(2, int.from_bytes(encoded[position : position + 2], "big"))
    return scans


def _gif_pixels(encoded: bytes) -> int:
    """The pixels of all frames of a GIF together.

    Frames have sizes of their own, whatever the header says. Every frame is decoded, and the first
    one gets the largest width and height of all.
    """
    width = height = pixels = 0
    position = 13 + _color_table(encoded[10])
    while position + 10 <= len(encoded) and encoded[position] in (_GIF_IMAGE, _GIF_EXTENSION):
        if encoded[position] == _GIF_IMAGE:
            w, h, flags = struct.unpack_from("<HHB", encoded, position + 5)
            width, height, pixels = max(width, w), max(height, h), pixels + w * h
            position += 11 + _color_table(flags)
        else:
            position += 2
        while position < len(encoded) and encoded[position]:  # blocks, each after its length
            position += 1 + encoded[position]
        position += 1
    return max(pixels, width * height)


def _color_table(flags: int) -> int:
    """Bytes of the colour table that a GIF's flags announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
