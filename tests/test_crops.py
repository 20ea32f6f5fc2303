"""Crops for readouts, cut out of pictures whose every pixel tells where it is."""

import numpy as np
import pytest
import tensorflow as tf

from la_tf.data.augment import denormalize
from la_tf.data.crops import area_crop_view, margin_crop_view, ten_crop_views

S = 56
MARGIN = 64  # 56 * 256 / 224


@pytest.fixture(scope="module")
def picture():
    """128 x 192, red rises downwards, green to the right; scaled by exactly 1/2 to 64 x 96."""
    red, green = np.meshgrid(np.arange(128), np.arange(192), indexing="ij")
    pixels = np.stack([red, green, np.zeros_like(red)], axis=-1).astype(np.uint8)
    return tf.io.encode_png(pixels)


def position(view):
    """(top, left, mirrored) of a crop in the picture scaled by 1/2."""
    pixels = denormalize(view).numpy().astype(int)
    left, right = pixels[0, 0, 1], pixels[0, -1, 1]
    return pixels[0, 0, 0] // 2, min(left, right) // 2, bool(left > right)


def test_ten_crops_are_the_centre_and_the_corners_and_their_mirror_images(picture):
    crops = ten_crop_views(picture, S)
    assert crops.shape == [10, S, S, 3]
    bottom, right = MARGIN - S, 96 - S
    places = [(bottom // 2, right // 2), (0, 0), (0, right), (bottom, 0), (bottom, right)]
    assert [position(crop) for crop in crops] == [
        (top, left, mirrored) for mirrored in (False, True) for top, left in places
    ]
    np.testing.assert_array_equal(crops[7], crops[2][:, ::-1])


def test_without_mirroring_five_crops_are_left(picture):
    np.testing.assert_array_equal(
        ten_crop_views(picture, S, flip=False), ten_crop_views(picture, S)[:5]
    )


def test_small_images_have_a_margin_too():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    crops = ten_crop_views(tf.io.encode_png(pixels), 32, flip=False).numpy()
    assert len({crop.tobytes() for crop in crops}) == 5


def test_margin_crops_reach_every_place_and_keep_the_scale(picture):
    views = [margin_crop_view(picture, tf.constant([0, i]), S) for i in range(300)]
    places = [position(view) for view in views]
    assert {top for top, _, _ in places} == set(range(MARGIN - S + 1))
    lefts = {left for _, left, _ in places}
    assert min(lefts) == 0 and max(lefts) == 96 - S
    assert 110 < sum(mirrored for *_, mirrored in places) < 190  # 150 +- 4.6 deviations
    for view in views[:20]:
        greens = denormalize(view).numpy().astype(int)[0, :, 1]
        assert abs(abs(greens[-1] - greens[0]) - 2 * (S - 1)) <= 1


def test_area_crops_have_other_scales(picture):
    views = [area_crop_view(picture, tf.constant([0, i]), S, flip=False) for i in range(100)]
    spans = []
    for view in views:
        pixels = denormalize(view).numpy().astype(int)
        height = pixels[-1, 0, 0] - pixels[0, 0, 0]
        width = pixels[0, -1, 1] - pixels[0, 0, 1]
        spans.append(height * width)
        assert not (pixels[..., 2] > 2).any()  # colours stay
    share = np.array(spans) / (128 * 192)
    assert share.min() < 0.3 and share.max() > 0.6


@pytest.mark.parametrize("crop", [margin_crop_view, area_crop_view])
def test_a_view_is_a_function_of_its_seeds(picture, crop):
    first, again, other = (crop(picture, tf.constant([1, i]), S) for i in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    if crop is margin_crop_view:
        unflipped = {
            position(crop(picture, tf.constant([1, i]), S, flip=False))[2] for i in range(20)
        }
        assert unflipped == {False}
