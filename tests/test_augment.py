"""Views: against NumPy and Pillow, and against closed forms of their distributions."""

import io
import math

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from la_tf.config import AugmentConfig
from la_tf.data.augment import (
    DEVIATION,
    MEAN,
    augment_view,
    center_view,
    decode,
    denormalize,
    jitter_colour,
    normalize,
    resize_short_side,
    view_seed,
)
from la_tf.data.base import Subset
from la_tf.data.sources import open_source

NOTHING = AugmentConfig(
    crop_area_min=1.0, greyscale_probability=0.0, jitter=0.0, hue_jitter=0.0, flip=False
)
GREY = np.array([0.299, 0.587, 0.114])  # luma of RGB, ITU-R BT.601


def encode(pixels: np.ndarray, kind: str = "PNG", mode: str | None = None, **options) -> bytes:
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    small = Image.fromarray(noise(4, 4, seed))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def views(encoded: bytes, count: int, size: int, config: AugmentConfig) -> np.ndarray:
    """The views of example 0 in epochs 0..count-1, in [0, 1]: [count, size, size, 3]."""
    dataset = tf.data.Dataset.range(count).map(
        lambda epoch: augment_view(tf.constant(encoded), view_seed(5, epoch, 0), size, config),
        num_parallel_calls=2,
    )
    return np.stack(list(dataset.as_numpy_iterator())) * DEVIATION + MEAN


# Decoding


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("PNG", "RGB"), ("PNG", "L"), ("PNG", "P"), ("PNG", "1"), ("BMP", "RGB"), ("GIF", "P")],
)
def test_lossless_formats_decode_to_what_pillow_sees(kind, mode):
    encoded = encode(noise(9, 13), kind, mode)
    expected = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    np.testing.assert_array_equal(decode(tf.constant(encoded)), expected)


def test_transparency_is_dropped_and_16_bits_are_cut():
    rgba = np.concatenate([noise(5, 4), np.full((5, 4, 1), 7, np.uint8)], axis=2)
    np.testing.assert_array_equal(decode(tf.constant(encode(rgba))), rgba[..., :3])
    deep = np.random.default_rng(0).integers(0, 2**16, (5, 4)).astype(np.uint16)
    decoded = decode(tf.constant(encode(deep)))
    np.testing.assert_array_equal(decoded, np.repeat((deep >> 8)[..., None], 3, axis=2))


@pytest.mark.parametrize(("mode", "tolerance"), [("RGB", 0), ("L", 0), ("CMYK", 1)])
def test_jpeg_decodes_to_what_pillow_sees(mode, tolerance):
    encoded = encode(smooth(40, 56), "JPEG", mode, quality=80)
    expected = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"), np.float32)
    np.testing.assert_allclose(decode(tf.constant(encoded)), expected, atol=tolerance)


@pytest.mark.parametrize("content", [b"", b"text", encode(noise(30, 30), "JPEG")[:200]])
def test_no_image_is_an_error(content):
    for function in (
        lambda: decode(tf.constant(content)),
        lambda: center_view(tf.constant(content), 8),
        lambda: augment_view(tf.constant(content), [0, 0], 8, AugmentConfig()),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError):
            function()


# Colour


def yiq_jitter(image, brightness, contrast, saturation, hue, order):
    """The four jitters one after the other in `order`, in float64 and without clipping."""
    # FCC's YIQ, to three digits as TensorFlow Addons has it.
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    from_yiq = np.linalg.inv(to_yiq)
    turn = [[1, 0, 0], [0, math.cos(hue), -math.sin(hue)], [0, math.sin(hue), math.cos(hue)]]

    def linear(matrix):
        return lambda x: x @ (from_yiq @ np.array(matrix, float) @ to_yiq).T

    steps = {
        "brightness": lambda x: x * brightness,
        "contrast": lambda x: (x - x.mean((0, 1))) * contrast + x.mean((0, 1)),
        "saturation": linear(np.diag([1, saturation, saturation])),
        "hue": linear(turn),
    }
    for name in order:
        image = steps[name](image)
    return image


ORDERS = [
    ("brightness", "contrast", "saturation", "hue"),
    ("hue", "contrast", "brightness", "saturation"),
    ("contrast", "saturation", "hue", "brightness"),
    ("saturation", "hue", "brightness", "contrast"),
]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("factors", [(1.3, 0.7, 1.4, 2.1), (0.6, 1.4, 0.0, -0.8), (1, 1, 1, 0)])
def test_jitter_is_the_yiq_computation_in_any_order(order, factors):
    image = noise(6, 7).astype(np.float32)
    expected = yiq_jitter(image.astype(np.float64), *factors, order)
    # Addons rounds its constants to three digits: up to 0.3 of 255.
    np.testing.assert_allclose(jitter_colour(image, *factors), expected, atol=0.5)


def test_saturation_zero_is_greyscale():
    image = noise(6, 7).astype(np.float32)
    grey = jitter_colour(image, 1.0, 1.0, 0.0, 1.0)
    expected = tf.image.rgb_to_grayscale(image)
    np.testing.assert_allclose(grey, np.repeat(expected, 3, axis=2), atol=0.3)


def test_normalize_and_back():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    view = normalize(tf.constant(pixels)).numpy()
    np.testing.assert_allclose(view, (pixels / 255 - MEAN) / DEVIATION, atol=1e-5)
    np.testing.assert_array_equal(denormalize(view), pixels)


# Distributions over views


def test_a_view_without_randomness_is_the_image():
    pixels = smooth(48, 48)
    view = views(encode(pixels), 1, 48, NOTHING)[0]
    np.testing.assert_allclose(view, pixels / 255, atol=2e-3)


def test_share_of_grey_views():
    config = AugmentConfig()
    colourful = np.zeros((8, 8, 3), np.uint8) + np.array([180, 90, 60], np.uint8)
    got = views(encode(colourful), 2000, 4, config)
    grey = (np.ptp(got, axis=3) < 0.01).mean()
    # 0.2 plus what a saturation above 0.6 never makes grey: within 4 standard deviations.
    assert abs(grey - 0.2) < 4 * math.sqrt(0.2 * 0.8 / 2000)


def test_jitter_ranges():
    """Of a uniform grey image only brightness is seen, and it is uniform in 0.6 to 1.4."""
    got = views(encode(np.full((8, 8, 3), 120, np.uint8)), 2000, 4, AugmentConfig())
    factors = got[:, 0, 0, :].mean(axis=1) * 255 / 120
    assert 0.6 - 0.01 < factors.min() < 0.61
    assert 1.39 < factors.max() < 1.4 + 0.01
    assert abs(factors.mean() - 1) < 4 * 0.8 / math.sqrt(12 * 2000)
    assert abs(factors.std() - 0.8 / math.sqrt(12)) < 0.01


def test_hue_and_saturation_ranges():
    """The chrominance of a flat image is turned by +-0.4 of the circle and scaled by 0.6 to 1.4."""
    config = AugmentConfig(greyscale_probability=0.0)
    colour = np.array([140, 110, 120])
    got = views(encode(np.zeros((4, 4, 3), np.uint8) + colour.astype(np.uint8)), 2000, 2, config)
    to_iq = np.array([[0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    start, now = to_iq @ colour / 255, got[:, 0, 0, :] @ to_iq.T
    angle = np.angle((now[:, 0] + 1j * now[:, 1]) / complex(*start)) / (2 * math.pi)
    assert -0.405 < angle.min() < -0.39
    assert 0.39 < angle.max() < 0.405
    assert abs(angle.std() - 0.8 / math.sqrt(12)) < 0.01
    luma = (got[:, 0, 0, :] @ GREY) / (GREY @ colour / 255)
    saturation = np.linalg.norm(now, axis=1) / np.linalg.norm(start) / luma
    assert 0.58 < saturation.min() < 0.62
    assert 1.38 < saturation.max() < 1.42
    assert abs(saturation.mean() - 1) < 4 * 0.8 / math.sqrt(12 * 2000)


def ramp(side: int) -> np.ndarray:
    """Red is the column and green the row, so that a view tells where it was cut."""
    row = np.round(np.arange(side) * 255 / (side - 1)).astype(np.uint8)
    red, green = np.meshgrid(row, row)
    return np.stack([red, green, np.zeros_like(red)], axis=2)


def test_crop_sizes_and_flips():
    """Areas of crops against the integral over the documented distribution.

    The aspect a is uniform in 3/4..4/3; of the heights that keep the area in 0.2..1 and the crop
    inside the image, one is taken uniformly.
    """
    config = AugmentConfig(greyscale_probability=0.0, jitter=0.0, hue_jitter=0.0)
    side, size, count = 256, 16, 1500
    got = views(encode(ramp(side)), count, size, config)
    # Between the centres of the first and the last pixel lie 15/16 of the crop.
    width = (got[:, 8, -1, 0] - got[:, 8, 0, 0]) * size / (size - 1)
    height = (got[:, -1, 8, 1] - got[:, 0, 8, 1]) * size / (size - 1)
    assert abs((width < 0).mean() - 0.5) < 4 * 0.5 / math.sqrt(count)
    area, aspect = np.abs(width) * height, np.abs(width) / height
    assert 0.18 < area.min() < 0.23
    assert 0.9 < area.max() < 1.02
    assert 0.72 < aspect.min() < 0.78
    assert 1.28 < aspect.max() < 1.37
    a, u = np.meshgrid(np.linspace(0.75, 4 / 3, 801), np.linspace(0, 1, 801))
    low, high = np.sqrt(0.2 / a), np.minimum(1, 1 / a)
    areas = a * (low + u * (high - low)) ** 2
    assert abs(area.mean() - areas.mean()) < 4 * areas.std() / math.sqrt(count) + 0.005
    assert abs(area.std() - areas.std()) < 0.02


# Determinism


def test_a_view_is_a_function_of_seed_epoch_and_index():
    encoded = tf.constant(encode(noise(40, 30)))

    def view(seed, epoch, index):
        pair = view_seed(seed, tf.constant(epoch), tf.constant(index))
        return augment_view(encoded, pair, 8, AugmentConfig()).numpy()

    np.testing.assert_array_equal(view(1, 2, 3), view(1, 2, 3))
    distinct = {view(*key).tobytes() for key in [(1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4)]}
    assert len(distinct) == 4
    pairs = [view_seed(1, e, i).numpy().tobytes() for e in range(20) for i in range(20)]
    assert len(set(pairs)) == 400


def test_jpeg_and_png_of_one_picture_are_cut_alike():
    """Two ways through the code: a JPEG is cut while it is decoded."""
    pixels = smooth(96, 128)
    config = AugmentConfig(jitter=0.2, hue_jitter=0.1)
    jpeg = views(encode(pixels, "JPEG", quality=98, subsampling=0), 20, 32, config)
    png = views(encode(pixels), 20, 32, config)
    assert np.abs(jpeg - png).max() < 0.06
    assert np.abs(jpeg - png).mean() < 0.01


def decoded_in_full(jpeg: bytes) -> bytes:
    """The same pixels as a PNG, which no view decodes at a lower resolution."""
    return encode(np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")), compress_level=1)


ONLY_CROP = AugmentConfig(greyscale_probability=0.0, jitter=0.0, hue_jitter=0.0, flip=False)


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}])
@pytest.mark.parametrize("shape", [(384, 512), (389, 515)])
def test_scaled_decoding_moves_nothing(shape, options):
    """Where each row and column of a view comes from, read off a ramp; crops of 7 to 16 S."""
    height, width = shape
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)
    pixels[..., 1] = np.linspace(0, 255, height)[:, np.newaxis]
    jpeg = encode(pixels, "JPEG", quality=98, **options)
    size = 24
    scaled, full = (views(e, 30, size, ONLY_CROP) for e in (jpeg, decoded_in_full(jpeg)))
    assert (scaled != full).any(axis=(1, 2, 3)).mean() > 0.8
    for channel, axis in ((0, 1), (1, 2)):
        positions = [v[..., channel].mean(axis=axis) for v in (scaled, full)]  # [30, 24]
        pixel = (positions[1][:, -1] - positions[1][:, 0]) / (size - 1)
        shift = (positions[0] - positions[1]) / pixel[:, np.newaxis]
        assert np.abs(shift).max() < 0.4
        assert abs(shift.mean()) < 0.02


def test_crops_below_four_times_the_view_are_decoded_in_full():
    jpeg = encode(smooth(63, 63), "JPEG", subsampling=0)
    np.testing.assert_allclose(
        views(jpeg, 10, 16, ONLY_CROP), views(decoded_in_full(jpeg), 10, 16, ONLY_CROP), atol=1e-6
    )


def test_scaled_decoding_of_photographs_is_close_to_area(sample_data):
    """Against Pillow's decoder and its own area interpolation, without a random crop."""
    voc = Subset(open_source(str(sample_data / "VOCdevkit/VOC2007/JPEGImages")), range(0, 600, 30))
    differences = {}
    for i in range(voc.num_examples):
        picture = Image.open(voc.describe(i)).convert("RGB")
        for size in (40, 80):  # 8 times and 4 times
            if min(picture.size) < 320:
                continue
            expected = np.asarray(picture.resize((size, size), Image.Resampling.BOX)) / 255
            got = augment_view(tf.constant(voc.read(i)), [0, i], size, NOTHING)
            view = got * DEVIATION + MEAN
            differences.setdefault(size, []).append(np.abs(view - expected).mean() * 255)
    assert len(differences[40]) > 10
    assert np.mean(differences[40]) < 3
    assert np.mean(differences[80]) < 3


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 3), (300, 20), (20, 300)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_any_shape_gives_finite_views(shape, kind):
    encoded = encode(noise(*shape), kind)
    assert np.isfinite(views(encoded, 3, 16, AugmentConfig())).all()
    view = center_view(tf.constant(encoded), 16)
    assert view.shape == (16, 16, 3)
    assert np.isfinite(view).all()


# Centre views


@pytest.mark.parametrize(("height", "width"), [(300, 400), (512, 384), (260, 700)])
def test_center_view_is_short_side_256_and_centre_224(height, width):
    pixels = smooth(height, width)
    view = denormalize(center_view(tf.constant(encode(pixels)), 224)).numpy()
    scale = 256 / min(height, width)
    image = Image.fromarray(pixels).resize(
        (round(width * scale), round(height * scale)), Image.Resampling.BOX
    )
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    expected = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32)
    assert np.abs(view - expected).mean() < 1
    assert np.abs(view - expected).max() < 12


@pytest.mark.parametrize("height,width", [(2, 40_000), (30_000, 1), (1, 9), (3, 24)])
def test_of_a_strip_the_middle_is_resized(height, width):
    pixels = np.zeros((height, width, 3), np.uint8)
    row, column = max(0, height // 2 - 2), max(0, width // 2 - 2)
    pixels[row : row + 4, column : column + 4] = 255
    resized = resize_short_side(tf.constant(pixels), 32).numpy()
    assert min(resized.shape[:2]) == 32 and max(resized.shape[:2]) <= 8 * 32
    # What lies in the middle is there still.
    assert resized[resized.shape[0] // 2, resized.shape[1] // 2].min() > 200
    assert center_view(tf.constant(encode(pixels)), 32).shape == (32, 32, 3)


def test_center_view_of_small_images_is_the_whole_image():
    pixels = noise(32, 32)
    view = denormalize(center_view(tf.constant(encode(pixels)), 32))
    np.testing.assert_array_equal(view, pixels)


def test_shrinking_is_by_area():
    """A fine chessboard averages to grey; it would alias with any interpolation of points."""
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    view = views(encode(np.repeat(board[..., None], 3, axis=2)), 1, 32, NOTHING)
    np.testing.assert_allclose(view, 0.5, atol=2e-3)


# Sample data


def test_greyscale_sample_images(sample_data):
    source = open_source(str(sample_data / "imagenette224"))
    grey = [i for i in range(0, 400) if Image.open(source.describe(i)).mode == "L"]
    assert grey
    for i in grey:
        encoded = tf.constant(source.read(i))
        view = augment_view(encoded, [1, i], 64, AugmentConfig()) * DEVIATION + MEAN
        assert np.ptp(view.numpy(), axis=2).max() < 0.01
        assert center_view(encoded, 64).shape == (64, 64, 3)


def test_real_shapes(sample_data):
    voc = open_source(str(sample_data / "VOCdevkit/VOC2007/JPEGImages"))
    some = Subset(voc, range(0, 600, 20))
    for i in range(some.num_examples):
        encoded = tf.constant(some.read(i))
        pillow = np.asarray(Image.open(some.describe(i)).convert("RGB"))
        np.testing.assert_array_equal(decode(encoded), pillow)
        view = augment_view(encoded, [0, i], 224, AugmentConfig())
        assert view.shape == (224, 224, 3)
        assert np.isfinite(view).all()
