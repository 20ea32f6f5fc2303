"""The order of examples and of views: whole epochs, any start, any number of replicas."""

import tarfile

import numpy as np
import pytest
import tensorflow as tf

from la_tf.config import AugmentConfig
from la_tf.data.augment import augment_view, center_view, view_seed
from la_tf.data.base import DataError, Source, Subset
from la_tf.data.pipeline import (
    KEPT_BYTES,
    Steps,
    eval_dataset,
    kept_eval_dataset,
    step_indices,
    steps_per_epoch,
    train_dataset,
)
from la_tf.data.sources import open_source

SEED = 11


@pytest.fixture(scope="module")
def digits():
    return Subset(open_source("digits"), range(50))


def batches(source, start, end, image_size=8, **options) -> list[tuple[np.ndarray, np.ndarray]]:
    steps = Steps(start, end, **{"batch_size": 8, "seed": SEED, **options})
    dataset = train_dataset(source, steps, image_size=image_size, augment=AugmentConfig())
    return list(dataset.as_numpy_iterator())


def assert_same(left, right) -> None:
    assert len(left) == len(right)
    for (indices, views), (other_indices, other_views) in zip(left, right, strict=True):
        np.testing.assert_array_equal(indices, other_indices)
        np.testing.assert_array_equal(views, other_views)


def test_elements(digits):
    steps = Steps(0, 2, batch_size=8, seed=SEED)
    dataset = train_dataset(digits, steps, image_size=8, augment=AugmentConfig())
    assert dataset.element_spec[0].dtype == tf.int32
    assert dataset.element_spec[1].shape.as_list()[1:] == [8, 8, 3]
    for indices, views in dataset:
        assert indices.shape == (8,)
        assert (views.dtype, views.shape) == (tf.float32, (8, 8, 8, 3))


def test_views_are_those_of_seed_epoch_and_index(digits):
    """Step 7 is in the second epoch of six steps."""
    ((indices, views),) = batches(digits, 7, 8)
    for index, view in zip(indices, views, strict=True):
        pair = view_seed(SEED, tf.constant(1), tf.constant(index))
        encoded = tf.constant(digits.read(index))
        expected = augment_view(encoded, pair, 8, AugmentConfig())
        np.testing.assert_allclose(view, expected, atol=1e-6)


def test_an_epoch_has_every_example_at_most_once(digits):
    """50 images in batches of 8: six steps, and two images that wait."""
    assert steps_per_epoch(50, 8) == 6
    got = [indices for indices, _ in batches(digits, 0, 12)]
    epochs = [np.concatenate(got[:6]), np.concatenate(got[6:])]
    for epoch in epochs:
        assert len(set(epoch)) == 48
        assert set(epoch) <= set(range(50))
    assert (epochs[0] != epochs[1]).any()
    whole = np.concatenate([step_indices(50, 10, SEED, step) for step in range(5)])
    assert sorted(whole) == list(range(50))


def test_every_example_is_seen_equally_often_in_the_long_run():
    counts = np.zeros(50, int)
    for step in range(6 * 500):
        counts[step_indices(50, 8, SEED, step)] += 1
    # Each waits in 2 of 50 epochs: 480 of 500, with a standard deviation of 4.4.
    assert counts.min() > 460
    assert counts.max() <= 500
    assert counts.mean() == 480


@pytest.mark.parametrize("num_examples", [50, 1437])
def test_permutations_are_as_random_as_uniform_ones(num_examples):
    epochs = 400
    orders = np.stack(
        [step_indices(num_examples, num_examples, SEED, epoch) for epoch in range(epochs)]
    )
    np.testing.assert_array_equal(
        np.sort(orders, axis=1), np.tile(np.arange(num_examples), (epochs, 1))
    )
    # Neighbours that stay neighbours, and fixed points: both nearly Poisson, with means 2 and 1.
    neighbours = (np.abs(np.diff(orders, axis=1)) == 1).sum(axis=1)
    fixed = (orders == np.arange(num_examples)).sum(axis=1)
    repeated = (orders[1:] == orders[:-1]).sum(axis=1)  # from one epoch to the next
    for numbers, mean in ((neighbours, 2 - 2 / num_examples), (fixed, 1), (repeated, 1)):
        assert abs(numbers.mean() - mean) < 4 * np.sqrt(mean / epochs)
        assert 0.7 * mean < numbers.var() < 1.4 * mean
    # Where examples go, in 5 x 5 cells: chi-squared with 16 degrees of freedom.
    place = np.tile(np.arange(num_examples), (epochs, 1))
    cells, _, _ = np.histogram2d(
        place.ravel(), orders.ravel(), bins=5, range=[[0, num_examples]] * 2
    )
    sizes = np.histogram(np.arange(num_examples), bins=5, range=[0, num_examples])[0]
    expected = np.outer(sizes, sizes) * epochs / num_examples
    assert 4 < ((cells - expected) ** 2 / expected).sum() < 40


def test_start_at_any_step_equals_the_tail(digits):
    whole = batches(digits, 0, 14)
    for start in (1, 5, 6, 7, 13):
        assert_same(batches(digits, start, 14), whole[start:])
    assert batches(digits, 14, 14) == []


def test_views_change_from_epoch_to_epoch_and_with_the_seed(digits):
    first = dict(zip(*map(np.concatenate, zip(*batches(digits, 0, 6), strict=True)), strict=True))
    second = dict(zip(*map(np.concatenate, zip(*batches(digits, 6, 12), strict=True)), strict=True))
    both = first.keys() & second.keys()
    assert len(both) >= 46
    assert not any(np.array_equal(first[i], second[i]) for i in both)
    other = batches(digits, 0, 1, seed=SEED + 1)
    assert (other[0][0] != batches(digits, 0, 1)[0][0]).any()


def test_position_in_the_batch_does_not_change_a_view(digits):
    """With another batch size an example of the same epoch stands elsewhere and looks the same."""
    small = {i: v for ii, vv in batches(digits, 0, 6) for i, v in zip(ii, vv, strict=True)}
    for indices, views in batches(digits, 0, 2, batch_size=24):
        for index, view in zip(indices, views, strict=True):
            np.testing.assert_array_equal(view, small[index])


@pytest.mark.parametrize("replicas", [2, 4])
def test_replicas_share_the_global_batch(digits, replicas):
    whole = batches(digits, 3, 9)
    parts = batches(digits, 3, 9, num_replicas=replicas, replica_ids=range(replicas))
    assert [len(indices) for indices, _ in parts] == [8 // replicas] * (6 * replicas)
    joined = [
        tuple(map(np.concatenate, zip(*parts[i : i + replicas], strict=True)))
        for i in range(0, len(parts), replicas)
    ]
    assert_same(joined, whole)
    # Two processes: each yields its own replicas' parts, step after step.
    half = replicas // 2
    for ids in (range(half), range(half, replicas)):
        own = batches(digits, 3, 9, num_replicas=replicas, replica_ids=ids)
        assert_same(own, [part for i, part in enumerate(parts) if i % replicas in ids])


def test_batch_that_cannot_be_shared(digits):
    with pytest.raises(DataError, match=r"--batch_size=8 .* multiple of 3"):
        batches(digits, 0, 1, num_replicas=3)


def test_fewer_images_than_a_batch(digits):
    with pytest.raises(DataError, match="50 images are fewer than one batch of 51"):
        batches(digits, 0, 1, batch_size=51)


def test_eval_dataset_gives_all_in_order(digits):
    got = list(eval_dataset(digits, image_size=32, batch_size=16).as_numpy_iterator())
    assert [len(indices) for indices, _ in got] == [16, 16, 16, 2]
    np.testing.assert_array_equal(np.concatenate([i for i, _ in got]), np.arange(50))
    assert got[0][0].dtype == np.int32
    for i in (0, 17, 49):
        expected = center_view(tf.constant(digits.read(i)), 32)
        np.testing.assert_allclose(got[i // 16][1][i % 16], expected, atol=1e-6)


class Counted(Source):
    """Counts how often its images are read."""

    def __init__(self, source: Source, count: int):
        super().__init__("counted", count)
        self._source, self.reads = source, []

    def describe(self, i):
        return self._source.describe(i)

    def load(self, index):
        tf.py_function(self.reads.append, [index], [])
        return self._source.load(index)


TOO_LARGE = int((KEPT_BYTES / (3 * 4 * 4)) ** 0.5) + 1  # for four views


@pytest.mark.parametrize(("side", "reads"), [(8, 4), (TOO_LARGE, 8)])
def test_views_of_a_few_images_are_read_once(digits, side, reads):
    four = Subset(digits, range(4))
    source = Counted(four, 4)
    views = kept_eval_dataset(source, image_size=side)
    first, second = (list(views.as_numpy_iterator()) for _ in range(2))
    assert_same(first, second)
    assert_same(first, list(eval_dataset(four, image_size=side).as_numpy_iterator()))
    assert len(source.reads) == reads


def test_threads_are_bounded(digits):
    options = eval_dataset(digits, image_size=8, batch_size=8).options()
    assert 1 <= options.threading.private_threadpool_size <= 32


def test_cifar_sample_files(sample_data, tmp_path):
    with tarfile.open(sample_data / "cifar10/cifar10-jpeg-test.tar.gz") as archive:
        members = [member for member in archive if member.name.endswith("00.jpg")]
        archive.extractall(tmp_path, members[::2])
    source = open_source(str(tmp_path / "test"))
    assert len(source.class_names) >= 2
    count = source.num_examples
    (epoch,) = batches(source, 0, 1, image_size=32, batch_size=count)
    assert sorted(epoch[0]) == list(range(count))
    # The mean of normalised photographs is near 0 and their deviation near 1.
    assert abs(epoch[1].mean()) < 0.5
    assert 0.6 < epoch[1].std() < 1.4
