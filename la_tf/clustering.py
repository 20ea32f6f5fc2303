"""The H clusterings behind the close neighbours (section 3.1), by Faiss k-means."""

import dataclasses

import numpy as np

from la_tf.faiss_library import faiss


@dataclasses.dataclass(frozen=True)
class Clustering:
    """One k-means run.

    Attributes:
      labels: [N] int32, the cluster of every vector.
      inertia: summed squared distance of the vectors to their centroids.
      sizes: [m] int, members of each cluster.
    """

    labels: np.ndarray
    inertia: float
    sizes: np.ndarray


def kmeans(vectors: np.ndarray, num_clusters: int, seed: int, iterations: int = 20) -> Clustering:
    """Clusters vectors by k-means with Euclidean distance, from a random start.

    As in the official code: 20 iterations over all points, centroids not normalised, float32.
    Runs on every GPU that Faiss sees, else on all CPU cores.

    Args:
      vectors: [N, D] float32.
      num_clusters: m.
      seed: seed of the initial centroids.
      iterations: Lloyd iterations.

    Returns:
      The clustering. Faiss refills clusters that run empty while it trains; only the last
      assignment can leave one empty, which `sizes` then shows.

    Raises:
      ValueError: fewer vectors than clusters, or a vector that is not finite.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    count, dim = vectors.shape
    if num_clusters > count:
        raise ValueError(f"cannot make {num_clusters} clusters of {count} vectors.")
    if not np.isfinite(vectors).all():
        raise ValueError("some of the vectors to cluster are not finite: the training diverged.")
    engine = faiss.Kmeans(
        dim,
        num_clusters,
        niter=iterations,
        seed=seed,
        gpu=faiss.get_num_gpus() > 0,
        # Train on all points, as the official code does, and be silent about small clusters:
        # they are what Local Aggregation asks for.
        min_points_per_centroid=1,
        max_points_per_centroid=count,
    )
    engine.train(vectors)
    distances, labels = engine.index.search(vectors, 1)
    labels = labels[:, 0].astype(np.int32)
    return Clustering(
        labels=labels,
        inertia=float(np.sum(distances, dtype=np.float64)),
        sizes=np.bincount(labels, minlength=num_clusters),
    )


def clustering_seeds(seed: int, round_: int, num_clusterings: int) -> np.ndarray:
    """Seeds of the H clusterings of one round: [H] int, a function of (seed, round, h).

    The official code uses the same H seeds every time; fresh ones each round let a poor start
    not come back.
    """
    # Faiss takes a C int.
    return np.random.SeedSequence([seed, round_]).generate_state(num_clusterings) >> 1


def run_clusterings(
    vectors: np.ndarray,
    num_clusters: int,
    num_clusterings: int,
    seed: int,
    round_: int = 0,
    iterations: int = 20,
) -> list[Clustering]:
    """H clusterings that differ in their random start (section 3.1).

    Args:
      vectors: [N, D] float32.
      num_clusters: m.
      num_clusterings: H.
      seed: the run's seed.
      round_: how many times this run has clustered before.
      iterations: Lloyd iterations of each.

    Returns:
      H clusterings.
    """
    return [
        kmeans(vectors, num_clusters, int(start), iterations)
        for start in clustering_seeds(seed, round_, num_clusterings)
    ]
