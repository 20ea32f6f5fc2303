"""k-means: groups that are there are found; seeds, sizes and inertia are what they say."""

import numpy as np
import pytest

from la_tf import clustering


@pytest.fixture(scope="module")
def groups():
    """Eight tight groups of 25 points on the sphere, and which point is in which."""
    rng = np.random.default_rng(0)
    centres = np.eye(8, 16)
    points = np.repeat(centres, 25, axis=0) + rng.normal(scale=0.01, size=(200, 16))
    return points.astype(np.float32), np.repeat(np.arange(8), 25)


def test_well_separated_groups_are_found(groups):
    points, truth = groups
    best = min(clustering.run_clusterings(points, 8, 10, seed=0), key=lambda c: c.inertia)
    # A relabelling of the truth: every group has one label and every label one group.
    assert len({(a, b) for a, b in zip(truth, best.labels, strict=True)}) == 8
    assert best.sizes.tolist() == [25] * 8


def test_inertia_and_sizes_belong_to_the_labels(groups):
    points, _ = groups
    # The centroids are the means of the last assignment but one; at convergence, of this one.
    result = clustering.kmeans(points, 12, seed=3, iterations=200)
    expected = sum(
        ((points[result.labels == j] - points[result.labels == j].mean(0)) ** 2).sum()
        for j in np.unique(result.labels)
    )
    np.testing.assert_allclose(result.inertia, expected, rtol=1e-3)
    np.testing.assert_array_equal(result.sizes, np.bincount(result.labels, minlength=12))
    assert result.sizes.sum() == 200


def test_every_label_is_used(unit_rows):
    for result in clustering.run_clusterings(unit_rows(600, 16), 100, 2, seed=0):
        assert set(result.labels) == set(range(100))


def test_labels_are_a_function_of_seed_round_and_number(unit_rows):
    points = unit_rows(500, 16)

    def labels(num_clusterings, **seed_and_round):
        runs = clustering.run_clusterings(points, 20, num_clusterings, **seed_and_round)
        return np.stack([run.labels for run in runs])

    first = labels(3, seed=5)
    assert first.shape == (3, 500) and first.dtype == np.int32
    np.testing.assert_array_equal(first, labels(3, seed=5))
    assert not np.array_equal(first, labels(3, seed=6))
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[:1], labels(1, seed=5, round_=1))
    # A clustering does not depend on how many come after it.
    np.testing.assert_array_equal(first[:1], labels(1, seed=5))


def test_all_points_are_used_for_training(unit_rows):
    """With as many clusters as points every point ends as its own centroid."""
    result = clustering.kmeans(unit_rows(64, 8), 64, seed=0)
    assert result.inertia < 1e-5 and (result.sizes == 1).all()


def test_what_cannot_be_clustered_says_so(unit_rows):
    with pytest.raises(ValueError, match="cannot make 11 clusters of 10 vectors"):
        clustering.kmeans(unit_rows(10, 4), 11, seed=0)
    broken = unit_rows(10, 4)
    broken[3, 1] = np.nan
    with pytest.raises(ValueError, match="diverged"):
        clustering.kmeans(broken, 2, seed=0)


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_clusterings_that_are_shared_out_are_those_of_one(unit_rows, workers):
    points, together = unit_rows(300, 8), {}
    for worker in range(workers):
        mine = range(worker, 4, workers)
        runs = clustering.run_clusterings(points, 10, 4, 3, numbers=mine)
        together |= dict(zip(mine, runs, strict=True))
    for number, run in enumerate(clustering.run_clusterings(points, 10, 4, 3)):
        np.testing.assert_array_equal(together[number].labels, run.labels)


@pytest.mark.parametrize("gpus", [[99], [98, 99, 97]])
def test_a_gpu_that_fails_is_named_and_its_clusterings_are_made_on_the_cpu(unit_rows, gpus):
    points, said = unit_rows(300, 8), []
    runs = clustering.run_clusterings(points, 10, 2, 3, gpus=gpus, say=said.append)
    assert [words.partition(" (")[0] for words in said] == [
        f"k-means failed on GPU {gpu}" for gpu in gpus[:2]
    ]
    assert all("Invalid GPU device" in words and "\n" not in words for words in said)
    expected = clustering.run_clusterings(points, 10, 2, 3, gpus=[])
    for run, other in zip(runs, expected, strict=True):
        np.testing.assert_array_equal(run.labels, other.labels)


def test_what_is_wrong_with_the_vectors_is_no_failure_of_a_gpu(unit_rows):
    with pytest.raises(ValueError, match="cannot make 11 clusters"):
        clustering.run_clusterings(unit_rows(10, 4), 11, 2, 3, gpus=[99])
