"""What is refused before it is decoded: small files that would become gigabytes."""

import contextlib
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from la_tf.data.augment import decode
from la_tf.data.image_headers import PictureError, TooManyPixels, count_pixels, has_few_pixels


def picture(name: str, width: int = 30, height: int = 20, mode: str = "RGB", **options) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height), 77).save(file, name, **options)
    return file.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header says a size, with next to no pixels behind it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


def gif_with_frame(width: int, height: int, encoded_as: tuple[int, int] | None = None) -> bytes:
    """A GIF of 30 x 20 pixels, with a comment and a second frame that its header does not know.

    The size that the frame announces may be another than that of its pixels.
    """
    pixels = encoded_as or (width, height)
    other = picture("GIF", *pixels)
    descriptor = b"\x2c" + struct.pack("<HHHH", 0, 0, *pixels)
    content = other[other.index(descriptor) + len(descriptor) : -1]
    comment = b"\x21\xfe\x05hello\x02yo\x00"
    frame = b"\x2c" + struct.pack("<HHHH", 0, 0, width, height) + content
    return picture("GIF")[:-1] + comment + frame + b"\x3b"


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "BMP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_are_those_that_tensorflow_decodes(name, mode):
    encoded = picture(name, mode=mode)
    shape = decode(tf.constant(encoded)).shape
    assert count_pixels(encoded, 1) == shape[0] * shape[1] == 600


@pytest.mark.parametrize(
    "name,words",
    [
        ("TIFF", "is a TIFF picture, which TensorFlow does not decode: convert it"),
        ("WEBP", "is a WebP picture, which"),
        ("PPM", "is no JPEG, PNG, GIF or BMP"),
        ("ICO", "is no JPEG, PNG, GIF or BMP"),
    ],
)
def test_formats_that_an_export_does_not_decode_are_refused(name, words):
    with pytest.raises(PictureError, match=words):
        count_pixels(picture(name), 50)


@pytest.mark.parametrize("cut", [0, 1, 5, 13, 20])
@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "BMP"])
def test_headers_that_are_cut_short_are_refused(name, cut):
    with pytest.raises(PictureError, match="is no JPEG"):
        count_pixels(picture(name)[:cut], 50)


def test_bytes_that_are_damaged_anywhere_are_refused_or_counted():
    rng = np.random.default_rng(0)
    decoded = dict.fromkeys(("JPEG", "PNG", "GIF", "BMP"), 0)
    for name in decoded:
        encoded = picture(name)
        for _ in range(150):
            damaged = np.frombuffer(encoded, np.uint8).copy()
            damaged[rng.integers(0, min(80, len(damaged)), 3)] = rng.integers(0, 256, 3)
            with contextlib.suppress(PictureError):
                counted = count_pixels(damaged.tobytes(), 1)
                assert counted <= 1e6
                with contextlib.suppress(tf.errors.InvalidArgumentError):
                    height, width, _ = decode(tf.constant(damaged.tobytes())).shape
                    decoded[name] += 1
                    assert height * width <= counted
    assert decoded["JPEG"] > 20 and decoded["BMP"] > 20  # the checksums of a PNG do not forgive


@pytest.mark.parametrize("size", [(10_000, 10_000), (60_000, 60_000)])
def test_a_small_file_of_many_pixels_is_refused_without_a_warning(size):
    encoded = png_of_size(*size)
    assert len(encoded) < 200
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PictureError, match="more than the 50"):
            count_pixels(encoded, 50)


def test_the_limit_is_on_the_pixel():
    assert count_pixels(png_of_size(1000, 500), 0.5) == 500_000
    with pytest.raises(PictureError, match=r"has 0\.5 megapixels, more than the 0\.5 allowed"):
        count_pixels(png_of_size(1001, 500), 0.5)


@pytest.mark.parametrize(
    "size, decoded, pixels", [((50, 40), (40, 50, 3), 600 + 2000), ((10, 50), (50, 30, 3), 30 * 50)]
)
def test_every_frame_of_a_gif_counts(size, decoded, pixels):
    # What is decoded has the largest width and height of all frames, not what the header says.
    encoded = gif_with_frame(*size)
    assert tuple(decode(tf.constant(encoded)).shape) == decoded
    assert count_pixels(encoded, 1) == pixels


@pytest.mark.parametrize("size", [(60_000, 60_000), (60_000, 900), (900, 60_000)])
def test_a_gif_whose_later_frame_is_huge_is_refused(size):
    encoded = gif_with_frame(*size, encoded_as=(30, 20))
    assert len(encoded) < 2000
    with pytest.raises(PictureError, match="more than the 50 allowed"):
        count_pixels(encoded, 50)


def test_animations_count_as_pillow_sees_their_frames():
    frames = [Image.new("P", (40, 30), i) for i in range(7)]
    for i, frame in enumerate(frames):
        frame.putpixel((i, i), 200)
        frame.putpixel((39 - i, 29), 201)
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], disposal=2)
    with Image.open(io.BytesIO(file.getvalue())) as animation:
        assert animation.n_frames == 7
    assert 1200 < count_pixels(file.getvalue(), 1) <= 7 * 1200


def test_notes_beside_a_picture_may_be_damaged():
    text = b"tEXtComment\0hello"
    chunk = struct.pack(">I", len(text) - 4) + text + b"bad!"  # in place of its checksum
    encoded = picture("PNG")
    encoded = encoded[:33] + chunk + encoded[33:]
    assert tuple(decode(tf.constant(encoded)).shape) == (20, 30, 3)
    assert count_pixels(encoded, 1) == 600


@pytest.mark.parametrize("name", ["JPEG", "PNG", "BMP"])
def test_the_beginning_of_a_file_tells_its_size_or_that_more_must_be_read(name):
    encoded = picture(name)
    told = [has_few_pixels(encoded[:size], 0.0006) for size in range(len(encoded))]
    assert told == sorted(told) and not told[20] and told[-1]
    with pytest.raises(TooManyPixels, match="more than the 0"):
        has_few_pixels(encoded, 0.000599)
    assert not has_few_pixels(picture("GIF"), 1)  # its frames are spread over all of it


def test_a_strip_is_a_picture():
    assert count_pixels(picture("PNG", 1, 5000), 50) == 5000


def jpeg_with_scans(extra: int, **options) -> bytes:
    """A progressive JPEG that goes over its last scan `extra` times again."""
    encoded = picture("JPEG", progressive=True, **options)
    last = encoded.rindex(b"\xff\xda")
    return encoded[:-2] + encoded[last:-2] * extra + encoded[-2:]


def test_a_jpeg_of_many_scans_is_refused():
    own = picture("JPEG", progressive=True).count(b"\xff\xda")
    assert 1 < own < 20
    # TensorFlow decodes one as large as allowed, and its previews and profiles are no scans.
    most = jpeg_with_scans(50 - own, exif=b"Exif\0\0" + b"\xff\xda" * 100)
    assert tuple(decode(tf.constant(most)).shape) == (20, 30, 3)
    assert count_pixels(most, 1) == count_pixels(most + b"\xff\xda" * 100, 1) == 600
    with pytest.raises(PictureError, match="has 51 scans, more than the 50 allowed"):
        count_pixels(jpeg_with_scans(51 - own), 1)
    # As in a file of several pictures, of which the first is decoded.
    several = io.BytesIO()
    first = Image.new("RGB", (30, 20))
    first.save(several, "MPO", save_all=True, append_images=[first], progressive=True)
    encoded = several.getvalue()
    scan, end = encoded.index(b"\xff\xda"), encoded.index(b"\xff\xd9")
    with pytest.raises(PictureError, match="scans"):
        count_pixels(encoded[:end] + encoded[scan:end] * 50 + encoded[end:], 1)
