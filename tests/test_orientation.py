"""Photographs of every orientation, against Pillow's own turning."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import ExifTags, Image, ImageOps

from la_tf.config import AugmentConfig
from la_tf.data.augment import augment_view, center_view, decode
from la_tf.data.orientation import read_orientation

ORIENTATIONS = range(1, 9)


@pytest.fixture(scope="module")
def picture():
    """A picture in which no part looks like another, of 37 rows and 53 columns."""
    rows, columns = np.mgrid[0:37, 0:53]
    channels = (rows * 6, columns * 4, (rows * columns) % 90)
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def exif(orientation: int) -> bytes:
    """With an entry before it and one after it."""
    tags = Image.Exif()
    tags[ExifTags.Base.Make] = "a camera"
    tags[ExifTags.Base.Orientation] = orientation
    tags[ExifTags.Base.Software] = "its software"
    return tags.tobytes()


def jpeg(picture: Image.Image, exif: bytes | None = None) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=95, subsampling=0, **({"exif": exif} if exif else {}))
    return buffer.getvalue()


def upright_png(encoded: bytes) -> bytes:
    buffer = io.BytesIO()
    ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))).save(buffer, "PNG")
    return buffer.getvalue()


def with_exif(picture: Image.Image, segment: bytes) -> bytes:
    """A JPEG with an EXIF segment right after its beginning, and no other header."""
    encoded = jpeg(picture)
    return encoded[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + encoded[2:]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_photograph_is_decoded_as_a_viewer_shows_it(picture, orientation):
    encoded = jpeg(picture, exif(orientation))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))))
    assert expected.shape == ((37, 53, 3) if orientation < 5 else (53, 37, 3))
    np.testing.assert_array_equal(decode(tf.constant(encoded)), expected)


def png(picture: Image.Image, exif: bytes, profile: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", exif=exif, **({"icc_profile": profile} if profile else {}))
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_png_that_says_so_is_turned_in_every_view(picture, orientation):
    """Its EXIF is a chunk of its own, behind the profile of its colours."""
    profile = np.random.default_rng(0).bytes(9000)
    encoded = png(picture, exif(orientation), profile)
    assert 9000 < encoded.index(b"eXIf") < encoded.index(b"IDAT")
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))))
    assert expected.shape == ((37, 53, 3) if orientation < 5 else (53, 37, 3))
    np.testing.assert_array_equal(decode(tf.constant(encoded)), expected)
    both = [tf.constant(encoded), tf.constant(upright_png(encoded))]
    pair, config = tf.constant([3, 0], tf.int64), AugmentConfig()
    views = [augment_view(e, pair, 16, config) for e in both]
    np.testing.assert_allclose(*views, atol=1e-4)
    np.testing.assert_allclose(*(center_view(e, 24) for e in both), atol=1e-4)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_random_view_is_that_of_the_upright_picture(picture, orientation, seed):
    """Of the JPEG only a part is decoded; of the PNG, whose pixels are upright, all."""
    encoded = jpeg(picture, exif(orientation))
    pair, config = tf.constant([3, seed], tf.int64), AugmentConfig()
    views = [
        augment_view(tf.constant(e), pair, 16, config) for e in (encoded, upright_png(encoded))
    ]
    np.testing.assert_allclose(*views, atol=1e-5)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_large_photograph_that_is_decoded_small_stands_upright_too(picture, orientation):
    large = picture.resize((53 * 16, 37 * 16), Image.Resampling.BICUBIC)
    encoded = jpeg(large, exif(orientation))
    config = AugmentConfig(crop_area_min=0.9, jitter=0.0, hue_jitter=0.0)
    pair = tf.constant([3, 5], tf.int64)
    upright, view = (
        augment_view(tf.constant(e), pair, 32, config) for e in (upright_png(encoded), encoded)
    )
    difference = np.abs(upright - view)
    # In units of the deviation of ImageNet's pixels, about a quarter of the range; turned wrongly,
    # by far more.
    assert difference.mean() < 0.05
    assert np.abs(upright - view[::-1]).mean() > 0.2 < np.abs(upright - view[:, ::-1]).mean()


def test_a_centre_view_is_that_of_the_upright_picture(picture):
    encoded = jpeg(picture, exif(6))
    views = [center_view(tf.constant(e), 24) for e in (encoded, upright_png(encoded))]
    np.testing.assert_allclose(*views, atol=1e-5)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("directory", [8, 300])
def test_both_byte_orders_and_a_directory_further_on(picture, orientation, order, directory):
    entries = [(0x010F, 2, 4, b"abc\0"), (0x0112, 3, 1, struct.pack(order + "HH", orientation, 9))]
    tiff = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, directory)
    tiff = tiff.ljust(directory, b"\0") + struct.pack(order + "H", len(entries))
    tiff += b"".join(struct.pack(order + "HHI4s", *entry) for entry in entries) + bytes(4)
    encoded = with_exif(picture, b"Exif\0\0" + tiff)
    assert Image.open(io.BytesIO(encoded)).getexif()[ExifTags.Base.Orientation] == orientation
    assert read_orientation(tf.constant(encoded)).numpy() == orientation


def test_whatever_else_is_upright(picture):
    segment = b"Exif\0\0" + exif(6).removeprefix(b"Exif\0\0")
    cases = {
        "no EXIF": jpeg(picture),
        "no picture": b"",
        "a number that there is not": jpeg(picture, exif(9)),
        "nothing but a name": with_exif(picture, b"Exif\0\0"),
        "a directory beyond the end": with_exif(
            picture, b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(9)
        ),
    }
    for what, encoded in cases.items():
        assert read_orientation(tf.constant(encoded)).numpy() == 1, what
    for length in range(len(segment)):  # cut anywhere, it has no picture behind it
        assert read_orientation(tf.constant(jpeg(picture)[:2] + segment[:length])).numpy() in (1, 6)
