"""Checks an encoded picture by its headers, before anything decodes it.

Sizes are read where TensorFlow's decoders read them.
"""

import re
import struct

FORMATS = ("JPEG", "PNG", "GIF", "BMP")  # what TensorFlow decodes
# Decoding a progressive JPEG goes over the whole picture once a scan, and a scan can be as short as
# a few hundred bytes: a small file may ask for thousands. Encoders write about ten.
MAX_SCANS = 50

_SIGNATURES = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF8": "GIF", b"BM": "BMP"}
_JPEG_START = b"\xff\xd8"
_JPEG_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")  # the end, and those with a length
_JPEG_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # followed by the size
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9
_GIF_IMAGE, _GIF_EXTENSION = 0x2C, 0x21


class PictureError(ValueError):
    """A picture that is refused; the message continues a sentence that begins with its name."""


class TooManyPixels(PictureError):
    """A picture that is refused for its size alone."""


def format_of(head: bytes) -> str | None:
    """Which of `FORMATS` a file has by its first bytes; None if it has none of them."""
    return next((name for mark, name in _SIGNATURES.items() if head.startswith(mark)), None)


def count_pixels(encoded: bytes, max_megapixels: float) -> int:
    """How many pixels decoding a picture makes, read from its headers.

    Args:
      encoded: the bytes of a file.
      max_megapixels: the most that are allowed, in millions.

    Returns:
      Width times height; of an animation, the sum over its frames, all of which TensorFlow
      decodes to give the first.

    Raises:
      TooManyPixels: it has more.
      PictureError: the bytes are no picture in one of `FORMATS`, or a JPEG of more than `MAX_SCANS`
        scans.
    """
    scans = 0
    match format_of(encoded):
        case "GIF":
            pixels = _gif_pixels(encoded)
        case "JPEG":
            pixels, scans = _jpeg_pixels_and_scans(encoded)
        case _:
            pixels = _header_pixels(encoded)
    if not pixels:
        other = _other_format(encoded)
        raise PictureError(
            f"is a {other} picture, which TensorFlow does not decode: convert it to JPEG or PNG"
            if other
            else "is no JPEG, PNG, GIF or BMP picture"
        )
    _require_few(pixels, max_megapixels)
    if scans > MAX_SCANS:
        raise PictureError(f"has {scans} scans, more than the {MAX_SCANS} allowed")
    return pixels


def has_few_pixels(head: bytes, max_megapixels: float) -> bool:
    """Checks the size of a picture as far as the beginning of its file tells.

    Returns:
      False where more bytes must be read to know it: all of a GIF, for example.

    Raises:
      TooManyPixels: it has more than are allowed.
    """
    jpeg = format_of(head) == "JPEG"
    pixels = _jpeg_pixels_and_scans(head)[0] if jpeg else _header_pixels(head)
    _require_few(pixels, max_megapixels)
    return pixels > 0


def _other_format(head: bytes) -> str | None:
    """What a picture is that some programs save under another name; None if nothing known."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":  # the container of phones, named after what it holds
        return {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF", b"avif": "AVIF"}.get(head[8:12])
    return "TIFF" if head[:4] in (b"II*\0", b"MM\0*") else None


def _header_pixels(head: bytes) -> int:
    """The pixels of a PNG or BMP; 0 of anything else."""
    match format_of(head):
        case "PNG" if head[12:16] == b"IHDR" and len(head) >= 24:
            width, height = struct.unpack_from(">II", head, 16)
        case "BMP" if len(head) >= 26:
            width, height = struct.unpack_from("<ii", head, 18)
        case _:
            return 0
    return max(0, width) * abs(height)  # of a BMP of negative height, the first row is at the top


def _require_few(pixels: int, max_megapixels: float) -> None:
    if pixels > max_megapixels * 1e6:
        raise TooManyPixels(
            f"has {pixels / 1e6:.1f} megapixels, more than the {max_megapixels:g} allowed"
        )


def _jpeg_pixels_and_scans(encoded: bytes) -> tuple[int, int]:
    """Pixels and scans of a JPEG, found as libjpeg finds them: from marker to marker.

    What segments hold (a preview, a profile) is passed over, and so is what follows the end.
    """
    pixels, scans, position = 0, 0, len(_JPEG_START)
    while found := _JPEG_MARKER.search(encoded, position):
        marker, position = encoded[found.end() - 1], found.end()
        if marker == _JPEG_END:
            break
        if marker in _JPEG_FRAMES and not pixels and position + 7 <= len(encoded):
            height, width = struct.unpack_from(">HH", encoded, position + 3)
            pixels = width * height
        scans += marker == _JPEG_SCAN
        position += max(2, int.from_bytes(encoded[position : position + 2], "big"))
    return pixels, scans


def _gif_pixels(encoded: bytes) -> int:
    """The pixels of all frames of a GIF together.

    Frames have sizes of their own, whatever the header says. Every frame is decoded, and the first
    one gets the largest width and height of all.
    """
    width = height = pixels = 0
    position = 13 + _color_table(encoded[10]) if len(encoded) > 13 else len(encoded)
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
