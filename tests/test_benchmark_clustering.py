"""The k-means benchmark: its floor is Faiss as it is installed, and reaches the same objective."""

import functools
import re
import subprocess
import sys

import faiss
import numpy as np
import pytest

from la_tf.benchmark import clustering as benchmark
from la_tf.benchmark import plain_kmeans
from la_tf.benchmark.process import answer, in_process
from la_tf.benchmark.step import clustered_rows
from la_tf.clustering import clustering_seeds, run_clusterings

N, M, H, ITERATIONS = 600, 14, 2, 4


@pytest.fixture(scope="module")
def rows():
    return benchmark.measure(N, M, H, ITERATIONS, repetitions=3)


def test_rows_count_clusterings_and_repetitions(rows):
    plain, here, ours = rows
    assert (plain.floor, here.floor, ours.floor) == (None, plain.name, plain.name)
    for row in rows:
        assert row.items == H and len(row.seconds) == 3 and min(row.seconds) > 0


def lloyd(points: np.ndarray, centroids: np.ndarray, iterations: int) -> tuple:
    """k-means in float64: labels, inertia, and by how little an assignment was decided at least."""
    margin = np.inf
    for _ in range(iterations + 1):  # the last one gives the labels
        distances = ((points[:, np.newaxis] - centroids) ** 2).sum(axis=2)
        labels = distances.argmin(axis=1)
        nearest, second = np.sort(distances, axis=1)[:, :2].T
        margin, inertia = min(margin, (second - nearest).min()), nearest.sum()
        centroids = np.stack([points[labels == j].mean(axis=0) for j in range(len(centroids))])
    return labels, inertia, margin


def test_labels_and_inertia_are_those_of_lloyds_iterations(rows):
    """From the points that Faiss begins with; no assignment is so close that rounding decides."""
    points = clustered_rows(N).numpy()
    runs, expected = run_clusterings(points, M, H, 0, iterations=ITERATIONS), []
    for run, seed in zip(runs, clustering_seeds(0, 0, H), strict=True):
        start = faiss.Kmeans(128, M, niter=0, seed=int(seed), max_points_per_centroid=N)
        start.train(points)
        assert set(map(bytes, start.centroids)) <= set(map(bytes, points))
        labels, inertia, margin = lloyd(
            points.astype(np.float64), start.centroids.astype(np.float64), ITERATIONS
        )
        assert margin > 1e-5
        np.testing.assert_array_equal(run.labels, labels)
        np.testing.assert_allclose(run.inertia, inertia, rtol=1e-5)
        expected.append(inertia)
    for row in rows:
        inertia = float(re.search(r"inertia ([\d.]+)", row.note).group(1))
        np.testing.assert_allclose(inertia, np.mean(expected), rtol=1e-5, err_msg=row.name)
    here, ours = rows[1:]
    assert here.note == ours.note  # equal to the last digit: the same kernels, the same seeds


def test_the_plain_process_takes_faiss_as_it_is_installed():
    """Nothing that it imports may choose kernels first."""
    code = "import sys; from la_tf.benchmark import plain_kmeans; print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    ours = {name for name in output.split() if name.startswith("la_tf")}
    assert ours == {"la_tf", "la_tf.benchmark", "la_tf.benchmark.plain_kmeans"}


def test_a_process_that_ends_is_said_to_have_ended():
    points = clustered_rows(10).numpy()
    too_many = in_process(answer, functools.partial, plain_kmeans.cluster, points, 11, 2, [0])
    with pytest.raises(ValueError, match="ended before it was done"), too_many as cluster:
        cluster()


def test_one_inertia_for_every_seed():
    points = clustered_rows(300).numpy()
    first, second = plain_kmeans.cluster(points, 300, 2, [1, 2])
    assert first < 1e-3 and second < 1e-3  # as many clusters as points
