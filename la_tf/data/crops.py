"""Crops for linear readouts: random ones to train on, ten of each image to validate.

Supplement B.1: crop and mirroring, no colour jitter. AlexNet on ImageNet and every network on
Places crop S x S out of an image whose short side is S * 256/224 (`margin_crop_view`); the other
networks on ImageNet crop a random area of at least 20 % (`area_crop_view`).
"""

import tensorflow as tf

from la_tf.config import AugmentConfig
from la_tf.data.augment import augment_view, decode_resized, normalize, with_margin


def margin_crop_view(
    encoded: tf.Tensor, seed_pair: tf.Tensor, image_size: int, flip: bool = True
) -> tf.Tensor:
    """The short side to 256 for S = 224, then a random S x S patch, mirrored or not.

    Args:
      encoded: scalar string, an encoded image.
      seed_pair: integer [2].
      image_size: S, pixels.
      flip: mirror half of the views.

    Returns:
      float32 [S, S, 3], normalised.

    Raises:
      tf.errors.InvalidArgumentError: the bytes are no image.
    """
    image = decode_resized(encoded, with_margin(image_size))
    seeds = tf.random.split(seed_pair, 2)
    crop = tf.image.stateless_random_crop(image, [image_size, image_size, 3], seeds[0])
    if flip:
        crop = tf.image.stateless_random_flip_left_right(crop, seeds[1])
    return normalize(crop)


def area_crop_view(
    encoded: tf.Tensor, seed_pair: tf.Tensor, image_size: int, flip: bool = True
) -> tf.Tensor:
    """A patch of 20 to 100 % of the area, aspect 3/4 to 4/3, resized to S x S, mirrored or not.

    Takes, returns and raises what `margin_crop_view` does.
    """
    only_crop = AugmentConfig(
        crop_area_min=0.2,
        crop_aspect=4 / 3,
        greyscale_probability=0.0,
        jitter=0.0,
        hue_jitter=0.0,
        flip=flip,
    )
    return augment_view(encoded, seed_pair, image_size, only_crop)


def ten_crop_views(encoded: tf.Tensor, image_size: int, flip: bool = True) -> tf.Tensor:
    """Centre and four corners of the image with its short side at 256 for S = 224, and mirrored.

    Unlike `augment.center_view` this leaves a margin at every S: without it, the centre and the
    four corners would be the same crop.

    Args:
      encoded: scalar string, an encoded image.
      image_size: S, pixels.
      flip: False leaves out the mirrored ones, for data where a mirror image means something else.

    Returns:
      float32 [10, S, S, 3], or [5, S, S, 3] without mirroring, normalised; the centre first.

    Raises:
      tf.errors.InvalidArgumentError: the bytes are no image.
    """
    image = normalize(decode_resized(encoded, with_margin(image_size)))
    height, width = tf.unstack(tf.shape(image)[:2] - image_size)
    corners = [(height // 2, width // 2), (0, 0), (0, width), (height, 0), (height, width)]
    crops = tf.stack(
        [tf.image.crop_to_bounding_box(image, y, x, image_size, image_size) for y, x in corners]
    )
    return tf.concat([crops, crops[:, :, ::-1]], axis=0) if flip else crops
