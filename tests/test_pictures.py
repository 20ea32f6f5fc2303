"""Pictures of training images: which ones, where they stand, and what happens to broken ones."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from la_tf.callbacks.pictures import thumbnails, tile, write_augmented_views, write_png
from la_tf.config import AugmentConfig
from la_tf.data.base import DataError, sample_rows
from la_tf.data.digits import DigitsSource
from la_tf.data.folder import FolderSource
from la_tf.errors import RunError


def test_photographs_keep_their_size_on_the_sheet(tmp_path):
    (tmp_path / "data").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (3, 150, 200, 3), np.uint8)
    for i, image in enumerate(noise):
        Image.fromarray(image).save(tmp_path / "data" / f"{i}.png")
    write_augmented_views(
        FolderSource(str(tmp_path / "data")),
        image_size=112,
        seed=0,
        augment=AugmentConfig(),
        writer=tf.summary.create_noop_writer(),
        path=tmp_path / "figures" / "sheet.png",
    )
    sheet = np.asarray(Image.open(tmp_path / "figures" / "sheet.png"))
    assert sheet.shape == (3 * 114, 8 * 114, 3)
    assert (sheet[112:114] == 255).all() and (sheet[:, 112:114] == 255).all()


def test_a_sample_is_fixed_by_the_seed_and_part_of_a_larger_one():
    large, small = sample_rows(5000, 1000, 3), sample_rows(5000, 6, 3)
    assert len(set(large)) == 1000 and set(small) < set(large)
    assert (np.diff(large) > 0).all() and large[0] >= 0 and large[-1] < 5000
    assert set(sample_rows(5000, 1000, 4)) != set(large)
    np.testing.assert_array_equal(sample_rows(7, 1000, 3), np.arange(7))


def test_tiles_stand_in_reading_order():
    images = np.arange(2 * 3 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 3, 2, 2, 3)
    sheet = tile(images)
    for row in range(2):
        for column in range(3):
            part = sheet[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            np.testing.assert_array_equal(part, images[row, column])


@pytest.fixture
def broken(tmp_path):
    """Nine digits as files without classes, one of which is cut short after it was listed."""
    digits = DigitsSource()
    for i in range(9):
        (tmp_path / f"{i}.png").write_bytes(digits.read(i))
    source = FolderSource(str(tmp_path))
    (tmp_path / "4.png").write_bytes(digits.read(4)[:60])
    return source


def test_an_image_that_cannot_be_decoded_is_named(broken, tmp_path):
    with pytest.raises(DataError, match=r"4\.png cannot be decoded"):
        thumbnails(broken, np.arange(9), 48)
    options = {"image_size": 16, "augment": AugmentConfig(), "path": tmp_path / "sheet.png"}
    options["writer"] = tf.summary.create_noop_writer()
    shown = {4 in sample_rows(9, 6, seed): seed for seed in range(99)}
    with pytest.raises(DataError, match=r"4\.png cannot be decoded"):
        write_augmented_views(broken, seed=shown[True], **options)
    write_augmented_views(broken, seed=shown[False], **options)
    assert options["path"].exists()


def test_a_picture_that_cannot_be_written_says_where(tmp_path):
    (tmp_path / "figures").write_text("a file")
    with pytest.raises(RunError, match=r"figures/sheet\.png cannot be written") as caught:
        write_png(tmp_path / "figures" / "sheet.png", np.zeros((2, 2, 3), np.uint8))
    assert "\n" not in str(caught.value)
