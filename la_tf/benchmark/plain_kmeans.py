"""Plain `faiss.Kmeans`, for a process that takes Faiss as it is installed."""

from collections.abc import Sequence

import numpy as np


def cluster(
    vectors: np.ndarray, num_clusters: int, iterations: int, seeds: Sequence[int]
) -> list[float]:
    """Clusters vectors [N, D] from every seed, labels included, and returns each inertia."""
    return [_cluster(vectors, num_clusters, iterations, seed) for seed in seeds]


def _cluster(vectors: np.ndarray, num_clusters: int, iterations: int, seed: int) -> float:
    import faiss  # only now: whoever loads it first in a process chooses its kernels

    count, dim = vectors.shape
    kmeans = faiss.Kmeans(
        dim,
        num_clusters,
        niter=iterations,
        seed=seed,
        gpu=faiss.get_num_gpus() > 0,
        min_points_per_centroid=1,
        max_points_per_centroid=count,
    )
    kmeans.train(vectors)
    distances, _ = kmeans.index.search(vectors, 1)
    return float(np.sum(distances, dtype=np.float64))
