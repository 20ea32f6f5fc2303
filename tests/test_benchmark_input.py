"""The input benchmark: rows that count what was made, and a floor that does the same work."""

import collections

import numpy as np
import pytest
from PIL import Image

from la_tf.benchmark import input as benchmark
from la_tf.config import AugmentConfig
from la_tf.data.augment import DEVIATION, MEAN
from la_tf.data.base import DataError

TINY = {"num_files": 4, "image_size": 16, "batch_size": 4, "batches": 2, "repetitions": 3}


def test_rows_count_images_and_repetitions(tmp_path, monkeypatch):
    Image.fromarray(np.full((30, 50, 3), 90, np.uint8)).save(tmp_path / "one.png")
    made, train_dataset, repeat = [], benchmark.train_dataset, benchmark.repeat

    class Counted:
        """The pipeline, with every batch noted."""

        def __init__(self, *arguments, **options):
            self.dataset = train_dataset(*arguments, **options)

        def __iter__(self):
            for indices, views in self.dataset:
                made.append((len(indices), views.shape))
                yield indices, views

    def look_and_repeat(functions, repetitions):
        functions["input"]()
        assert made == [(4, (4, 16, 16, 3))] * 2
        return repeat(functions, repetitions)

    monkeypatch.setattr(benchmark, "train_dataset", Counted)
    monkeypatch.setattr(benchmark, "repeat", look_and_repeat)
    ours, pillow = benchmark.measure(str(tmp_path), **TINY)
    assert len(made) == 2 * (1 + 1 + 3)  # looked at, not counted, and counted
    assert (ours.floor, pillow.floor) == (pillow.name, None)
    for row in (ours, pillow):
        assert row.items == 2 * 4
        assert len(row.seconds) == 3
        assert min(row.seconds) > 0


def test_no_photographs(tmp_path):
    with pytest.raises(DataError, match="holds no images"):
        benchmark.measure(str(tmp_path), **TINY)


@pytest.mark.parametrize("photographs", [False, True])
def test_files_are_jpegs_of_the_size_and_the_weight_of_imagenets(
    tmp_path, sample_data, photographs
):
    folder = str(sample_data / "VOCdevkit/VOC2007/JPEGImages") if photographs else None
    benchmark._write_files(str(tmp_path), folder, 8)
    files = sorted(tmp_path.iterdir())
    pictures = [Image.open(file) for file in files]
    assert collections.Counter(p.size for p in pictures) == {(500, 375): 8}
    assert len({picture.tobytes() for picture in pictures}) == 8
    assert 20_000 < np.mean([file.stat().st_size for file in files]) < 130_000


def test_pillow_writes_normalised_views_into_its_row(tmp_path):
    """A flat grey picture has no other freedom than brightness."""
    Image.fromarray(np.full((375, 500, 3), 100, np.uint8)).save(tmp_path / "grey.png")
    batch = np.full((2, 8, 8, 3), np.nan, np.float32)
    benchmark._open_batch(batch, batch.shape)
    benchmark._pillow_view(1, str(tmp_path / "grey.png"), (0, 0))
    assert np.isnan(batch[0]).all()
    pixels = (batch[1] * DEVIATION + MEAN) * 255
    assert np.ptp(pixels) < 0.01
    assert 60 <= round(pixels.mean()) <= 140


def test_boxes_of_the_floor_are_distributed_as_ours():
    """Mean area against the integral over aspects and heights, as for `augment_view`."""
    rng = np.random.default_rng(0)
    boxes = [benchmark._random_box(256, 256, AugmentConfig(), rng) for _ in range(4000)]
    left, top, right, bottom = np.transpose(boxes)
    assert min(left.min(), top.min()) == 0
    assert max(right.max(), bottom.max()) == 256
    area = (right - left) * (bottom - top) / 256**2
    aspect, place = np.meshgrid(np.linspace(0.75, 4 / 3, 801), np.linspace(0, 1, 801))
    low, high = np.sqrt(0.2 / aspect), np.minimum(1, 1 / aspect)
    expected = aspect * (low + place * (high - low)) ** 2
    assert abs(area.mean() - expected.mean()) < 4 * expected.std() / np.sqrt(4000)
    assert abs(area.std() - expected.std()) < 0.01
