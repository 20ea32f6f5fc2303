"""The views that the network sees: random ones to train on, centre crops to evaluate.

A random view is, in this order: a crop of random area and aspect resized to S x S, greyscale with
probability 0.2, colour jitter, mirroring, and normalisation (section 4.1; numbers from the
official code, see `AugmentConfig`). Everything is stateless: a view is a function of the image
and of (seed, epoch, index).

The reference applies the jitters in random order. Hue, saturation and brightness are one linear
map of each pixel's colour (a rotation and two scalings in YIQ space), contrast is a linear map
over pixels that treats the channels alike. These commute as long as nothing is clipped in
between, so here they happen in one fixed order, with one clipping at the end. Greyscale is the
same map with saturation 0, which no later jitter colours again.

Of a JPEG only the crop is decoded. A crop at least 4 S (8 S) high and wide is decoded at half (a
quarter) of its resolution, which is still twice the view's. libjpeg does so by leaving out the high
frequencies of each block, where area interpolation averages pixels, and the edges of the crop move
to the nearest pixel of that resolution, by at most a quarter of a pixel of the view. Such views of
VOC 2007, at S from 24 to 80, differ from those decoded in full by 2.7 to 3.6 of 255 in the mean.
Smaller crops, other formats and centre views are decoded in full. Photographs are turned upright,
see `orientation`.
"""

import math
from collections.abc import Callable

import tensorflow as tf
from tensorflow_addons.image.distort_image_ops import adjust_hsv_in_yiq

from la_tf.config import AugmentConfig
from la_tf.data.orientation import (
    PNG_HEAD,
    UPRIGHT,
    branch_of_one_node,
    read_orientation,
    stored_window,
    turn,
    upright_shape,
)

MEAN = (0.485, 0.456, 0.406)  # of ImageNet's pixels, RGB in [0, 1]
DEVIATION = (0.229, 0.224, 0.225)
# Pixel for pixel what Pillow decodes, so that features do not depend on who reads the file; the
# default, INTEGER_FAST, is off by 1.3 of 255 on photographs and not measurably faster.
_DCT = "INTEGER_ACCURATE"
# libjpeg also offers 8, which keeps only the mean of each block and saves little more time.
_DECODING_RATIOS = (1, 2, 4)
_MAX_ASPECT = 8  # of an image that is resized whole
# Raise it when a centre view changes: what was embedded before is then embedded again.
CENTER_VIEW_VERSION = 4
_SMALL = 64  # up to this size, a centre view shows the whole short side


def view_seed(seed: int, epoch: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """The seed of one view: different for each (seed, epoch, index).

    Args:
      seed: of the run.
      epoch: integer scalar below 2^31.
      index: integer scalar below 2^32, the example.

    Returns:
      int64 [2], for stateless operations.
    """
    stream = tf.bitwise.left_shift(tf.cast(epoch, tf.int64), tf.constant(32, tf.int64))
    return tf.stack([tf.constant(seed, tf.int64), stream + tf.cast(index, tf.int64)])


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes JPEG or PNG, upright by their EXIF orientation, GIF (its first frame) or BMP.

    Args:
      encoded: scalar string.

    Returns:
      uint8 [height, width, 3]; grey is repeated, transparency dropped, 16 bits cut to 8.

    Raises:
      tf.errors.InvalidArgumentError: the bytes are no such image.
    """
    return turn(*_decode_as_stored(encoded))


def _decode_as_stored(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The pixels of `decode`, and the orientation by which they are still to be turned."""
    image, orientation = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: (
            tf.io.decode_jpeg(encoded, channels=3, dct_method=_DCT),
            read_orientation(encoded),
        ),
        lambda: (
            tf.io.decode_image(encoded, channels=3, expand_animations=False),
            read_orientation(encoded, PNG_HEAD),
        ),
    )
    return tf.ensure_shape(image, [None, None, 3]), orientation


def normalize(image: tf.Tensor) -> tf.Tensor:
    """Maps RGB in [0, 255] to zero mean and unit deviation over ImageNet.

    Args:
      image: [..., height, width, 3], integer or float.

    Returns:
      float32 of the same shape.
    """
    image = tf.cast(image, tf.float32)
    rows = _as_rows(image)
    scale = _for_rows(tf.constant([1 / (255 * d) for d in DEVIATION]), image)
    shift = _for_rows(tf.constant([-m / d for m, d in zip(MEAN, DEVIATION, strict=True)]), image)
    return tf.reshape(rows * scale + shift, tf.shape(image))


def denormalize(view: tf.Tensor) -> tf.Tensor:
    """The inverse of `normalize`, as uint8 for display; any shape [..., 3]."""
    image = (view * DEVIATION + MEAN) * 255
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)


def augment_view(
    encoded: tf.Tensor, seed_pair: tf.Tensor, image_size: int, config: AugmentConfig
) -> tf.Tensor:
    """The random view of one image.

    Args:
      encoded: scalar string, an encoded image.
      seed_pair: integer [2], see `view_seed`.
      image_size: S, pixels.
      config: ranges of the random choices.

    Returns:
      float32 [S, S, 3], normalised.

    Raises:
      tf.errors.InvalidArgumentError: the bytes are no image.
    """
    seeds = tf.random.split(seed_pair, 2)
    crop = _random_crop(encoded, seeds[0], image_size, config)
    # One draw for all other choices: brightness, contrast, saturation, hue, greyscale, mirroring.
    draws = tf.unstack(tf.random.stateless_uniform([6], seeds[1]))
    if config.flip:
        crop = tf.cond(draws[5] < 0.5, lambda: tf.reverse(crop, [1]), lambda: crop)
    image = _resize(crop, image_size, image_size)
    brightness, contrast, saturation = (1 + config.jitter * (2 * draw - 1) for draw in draws[:3])
    hue = 2 * math.pi * config.hue_jitter * (2 * draws[3] - 1)
    grey = draws[4] < config.greyscale_probability
    saturation = tf.where(grey, 0.0, saturation)
    image = jitter_colour(image, brightness, contrast, saturation, hue)
    return normalize(tf.clip_by_value(image, 0, 255))


def jitter_colour(
    image: tf.Tensor,
    brightness: tf.Tensor | float,
    contrast: tf.Tensor | float,
    saturation: tf.Tensor | float,
    hue: tf.Tensor | float,
) -> tf.Tensor:
    """Brightness, contrast, saturation and hue; linear, without clipping.

    Args:
      image: float32 [height, width, 3].
      brightness: factor.
      contrast: factor of each pixel's distance from its channel's mean.
      saturation: factor of the chrominance; 0 is greyscale.
      hue: angle in radians.

    Returns:
      float32 [height, width, 3].
    """
    # The matrix of this linear map: its rows are what it makes of the unit vectors. To multiply by
    # it takes little more than half the time of applying the op to all pixels.
    matrix = adjust_hsv_in_yiq(tf.eye(3)[tf.newaxis], hue, saturation, brightness)[0]  # [3, 3]
    column_mean = tf.reduce_mean(_as_rows(image), axis=0)  # [width * 3]
    mean = tf.reduce_mean(tf.reshape(column_mean, [-1, 3]), axis=0, keepdims=True)  # [1, 3]
    offset = tf.matmul(mean, matrix * (1 - contrast))[0]  # [3]
    pixels = tf.matmul(tf.reshape(image, [-1, 3]), matrix * contrast)  # [height * width, 3]
    rows = tf.reshape(pixels, tf.shape(_as_rows(image)))
    return tf.reshape(rows + _for_rows(offset, image), tf.shape(image))


def center_view(encoded: tf.Tensor, image_size: int) -> tf.Tensor:
    """The view for evaluation: the short side to 256 for S = 224, then the centre.

    Other sizes keep this proportion. Views of up to 64 pixels show the whole short side: small
    images have no margin to spare.

    Args:
      encoded: scalar string, an encoded image.
      image_size: S, pixels.

    Returns:
      float32 [S, S, 3], normalised.

    Raises:
      tf.errors.InvalidArgumentError: the bytes are no image.
    """
    short = with_margin(image_size) if image_size > _SMALL else image_size
    image = decode_resized(encoded, short)
    top, left = tf.unstack((tf.shape(image)[:2] - image_size) // 2)
    return normalize(tf.image.crop_to_bounding_box(image, top, left, image_size, image_size))


def with_margin(image_size: int) -> int:
    """The short side of an image out of which crops of `image_size` are cut: 256 for 224."""
    return round(image_size * 256 / 224)


def decode_resized(encoded: tf.Tensor, short: int) -> tf.Tensor:
    """Decodes as `decode` does and resizes as `resize_short_side` does.

    Pixels are turned upright when there are few of them.
    """
    image, orientation = _decode_as_stored(encoded)
    return turn(resize_short_side(image, short), orientation)


def resize_short_side(image: tf.Tensor, short: int) -> tf.Tensor:
    """Resizes with the aspect ratio kept: float32 in [0, 255], the shorter side `short` pixels.

    Of an image more than 8 times as long as wide, only the middle part is kept: a strip of one
    pixel would become gigabytes.
    """
    whole = tf.shape(image)[:2]
    size = tf.minimum(whole, _MAX_ASPECT * tf.reduce_min(whole))
    top, left = tf.unstack((whole - size) // 2)
    image = tf.image.crop_to_bounding_box(image, top, left, size[0], size[1])
    scaled = tf.cast(size, tf.float32) * (short / tf.cast(tf.reduce_min(size), tf.float32))
    scaled = tf.cast(tf.round(scaled), tf.int32)
    return tf.clip_by_value(_resize(image, scaled[0], scaled[1]), 0, 255)


def _random_crop(
    encoded: tf.Tensor, seed: tf.Tensor, image_size: int, config: AugmentConfig
) -> tf.Tensor:
    """Decodes a random part of an image: uint8 [height, width, 3]."""

    def from_jpeg() -> tf.Tensor:
        orientation, shape = read_orientation(encoded), tf.io.extract_jpeg_shape(encoded)

        def as_stored() -> tf.Tensor:
            begin, size = _random_window(shape, seed, config)
            return _decode_window(encoded, begin[:2], size[:2], image_size)

        def turned() -> tf.Tensor:
            return _turned_crop(encoded, shape, orientation, seed, image_size, config)

        return tf.cond(orientation == UPRIGHT, as_stored, turned)

    def from_other() -> tf.Tensor:
        image = decode(encoded)
        return tf.slice(image, *_random_window(tf.shape(image), seed, config))

    crop = tf.cond(tf.io.is_jpeg(encoded), from_jpeg, from_other)
    return tf.ensure_shape(crop, [None, None, 3])


@branch_of_one_node
def _turned_crop(
    encoded: tf.Tensor,
    stored_shape: tf.Tensor,
    orientation: tf.Tensor,
    seed: tf.Tensor,
    image_size: int,
    config: AugmentConfig,
) -> tf.Tensor:
    """The crop of a JPEG that must be turned: the one that its upright pixels would have."""
    shape = upright_shape(stored_shape, orientation)
    begin, size = _random_window(shape, seed, config)
    window = stored_window(begin[:2], size[:2], shape[:2], orientation)
    return turn(_decode_window(encoded, *window, image_size), orientation)


def _random_window(
    shape: tf.Tensor, seed: tf.Tensor, config: AugmentConfig
) -> tuple[tf.Tensor, tf.Tensor]:
    """(top, left, 0) and (height, width, -1) of a crop; the whole image if none fits."""
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        tf.zeros([1, 0, 4]),
        seed,
        min_object_covered=0.0,
        aspect_ratio_range=(1 / config.crop_aspect, config.crop_aspect),
        area_range=(config.crop_area_min, 1.0),
        max_attempts=100,
        use_image_if_no_bounding_boxes=True,
    )
    return begin, size


def _decode_window(
    encoded: tf.Tensor, begin: tf.Tensor, size: tf.Tensor, image_size: int
) -> tf.Tensor:
    """Decodes a window of a JPEG at the lowest resolution that leaves 2 S pixels a side.

    Args:
      encoded: scalar string.
      begin: int32 (top, left), in pixels of the whole image.
      size: int32 (height, width).
      image_size: S.

    Returns:
      uint8 [about height / ratio, about width / ratio, 3].
    """

    def scaled_by(ratio: int) -> Callable[[], tf.Tensor]:
        # libjpeg takes the window in pixels of the scaled image. Its edges are rounded to the
        # nearest pixel, halves inwards: rounding both in one direction would shift the view.
        first, end = (begin + ratio // 2) // ratio, (begin + size + (ratio - 1) // 2) // ratio
        box = tf.concat([first, end - first], axis=0)
        return lambda: tf.image.decode_and_crop_jpeg(
            encoded, box, channels=3, ratio=ratio, dct_method=_DCT
        )

    # Twice the view's size, as in Pillow's thumbnails: with less, the difference would be visible.
    large_enough = tf.reduce_min(size) >= [2 * ratio * image_size for ratio in _DECODING_RATIOS[1:]]
    branch = tf.reduce_sum(tf.cast(large_enough, tf.int32))
    return tf.switch_case(branch, [scaled_by(ratio) for ratio in _DECODING_RATIOS])


def _resize(image: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor) -> tf.Tensor:
    """By area where both sides shrink, as the official code does, else bilinear.

    Area interpolation would enlarge by repeating pixels.
    """
    shape = tf.shape(image)
    image = tf.cast(image, tf.float32)
    resized = tf.cond(
        tf.logical_and(shape[0] >= height, shape[1] >= width),
        lambda: tf.image.resize(image, (height, width), "area"),
        lambda: tf.image.resize(image, (height, width), "bilinear"),
    )
    return tf.ensure_shape(
        resized, [d if isinstance(d, int) else None for d in (height, width)] + [3]
    )


# Three channels are a short axis: broadcasting over it is several times slower than over whole
# rows of an image.


def _as_rows(image: tf.Tensor) -> tf.Tensor:
    """[..., height, width, 3] as [... * height, width * 3]."""
    return tf.reshape(image, [-1, 3 * tf.shape(image)[-2]])


def _for_rows(channels: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """One value a channel, [3], repeated along a row of `image`: [width * 3]."""
    return tf.tile(channels, [tf.shape(image)[-2]])
