"""The H clusterings behind the close neighbours (section 3.1): Faiss k-means, or DBSCAN."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from sklearn.cluster import DBSCAN
from sklearn.neighbors import NearestNeighbors

from la_tf.errors import first_line
from la_tf.faiss_library import faiss

# Bytes that Faiss sets aside on a GPU, whose own choice is 1.5 GB: enough for two tiles of 512
# vectors against 30,000 centroids, and a page of vectors. What needs more is allocated when needed.
_GPU_BYTES = 256 << 20


@dataclasses.dataclass(frozen=True)
class Clustering:
    """One run of k-means or DBSCAN.

    Attributes:
      labels: [N] int32, the cluster of every vector.
      inertia: summed squared distance of the vectors to their centroids.
      sizes: [m] int, members of each cluster.
    """

    labels: np.ndarray
    inertia: float
    sizes: np.ndarray


def kmeans(
    vectors: np.ndarray, num_clusters: int, seed: int, iterations: int = 20, gpu: int | None = None
) -> Clustering:
    """Clusters vectors by k-means with Euclidean distance, from a random start.

    As in the official code: 20 iterations over all points, centroids not normalised, float32.

    Args:
      vectors: [N, D] float32.
      num_clusters: m.
      seed: seed of the initial centroids.
      iterations: Lloyd iterations.
      gpu: number of the GPU to run on; default all CPU cores.

    Returns:
      The clustering. Faiss refills clusters that run empty while it trains; only the last
      assignment can leave one empty, which `sizes` then shows.

    Raises:
      ValueError: fewer vectors than clusters, or a vector that is not finite.
      RuntimeError: the GPU is not there or out of memory.
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
        # Train on all points, as the official code does, and be silent about small clusters:
        # they are what Local Aggregation asks for.
        min_points_per_centroid=1,
        max_points_per_centroid=count,
    )
    if gpu is not None:
        engine.index = _gpu_index(dim, gpu)
    engine.train(vectors)
    distances, labels = engine.index.search(vectors, 1)
    labels = labels[:, 0].astype(np.int32)
    inertia = float(np.sum(distances, dtype=np.float64))
    return Clustering(labels, inertia, np.bincount(labels, minlength=num_clusters))


def _gpu_index(dim: int, gpu: int) -> "faiss.GpuIndexFlatL2":
    """The index of centroids that k-means searches on a GPU; plain float32, as on the CPU."""
    config = faiss.GpuIndexFlatConfig()
    config.device = gpu
    return faiss.GpuIndexFlatL2(_gpu_resources(gpu), dim, config)


@functools.cache
def _gpu_resources(gpu: int) -> "faiss.StandardGpuResources":
    """The memory of Faiss on one GPU, apart from TensorFlow's and kept over all rounds."""
    del gpu  # each has its own, for they may not be shared by threads
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(_GPU_BYTES)
    return resources


def dbscan(vectors: np.ndarray, eps: float | None, min_samples: int) -> Clustering:
    """Clusters vectors by DBSCAN, the alternative to k-means of section 5.2.

    It compares all vectors with each other, which takes N x N distances.

    Args:
      vectors: [N, D] float32.
      eps: largest Euclidean distance of two neighbours; None is the one within which half of the
        vectors are cores, since no fixed distance suits an embedding that changes.
      min_samples: vectors within `eps`, itself included, that make one the core of a cluster, 2 or
        more.

    Returns:
      The clustering; a vector that belongs to no cluster (noise) is one of its own.
    """
    if eps is None:
        near = NearestNeighbors(n_neighbors=min_samples).fit(vectors)
        eps = float(np.median(near.kneighbors()[0][:, min_samples - 2]))
    labels = DBSCAN(eps=eps, min_samples=min_samples).fit_predict(vectors).astype(np.int32)
    noise = labels < 0
    labels[noise] = labels.max(initial=-1) + 1 + np.arange(noise.sum())
    sizes = np.bincount(labels)
    means = np.stack([np.bincount(labels, column) for column in vectors.T], axis=1)
    means /= sizes[:, np.newaxis]
    inertia = float(np.sum((vectors - means[labels]) ** 2, dtype=np.float64))
    return Clustering(labels, inertia, sizes)


def clustering_seeds(seed: int, round_: int, num_clusterings: int) -> np.ndarray:
    """Seeds of the H clusterings of one round: [H] int, a function of (seed, round, h).

    The official code uses the same H seeds every time; with new ones each round, a poor start does
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
    *,
    numbers: Iterable[int] | None = None,
    gpus: Sequence[int] | None = None,
    say: Callable[[str], None] = print,
) -> list[Clustering]:
    """H clusterings that differ in their random start (section 3.1), or some of the H.

    With several GPUs each takes one clustering at a time. Where a GPU fails, its clusterings are
    made on the CPU.

    Args:
      vectors: [N, D] float32.
      num_clusters: m.
      num_clusterings: H.
      seed: the run's seed.
      round_: how many times this run has clustered before.
      iterations: Lloyd iterations of each.
      numbers: which of the H, counted from 0, to make; default all.
      gpus: numbers of the GPUs to run on; default all that Faiss sees. Empty is the CPU.
      say: takes a sentence when a GPU fails.

    Returns:
      The clusterings, in the order of `numbers`.
    """
    numbers = list(range(num_clusterings) if numbers is None else numbers)
    seeds = clustering_seeds(seed, round_, num_clusterings)
    gpus = range(faiss.get_num_gpus()) if gpus is None else gpus

    def make(number: int, gpu: int | None = None) -> Clustering:
        return kmeans(vectors, num_clusters, int(seeds[number]), iterations, gpu)

    made = _made_on_gpus(make, numbers, gpus, say)
    # One after the other: a clustering alone uses all cores.
    return [made[number] if number in made else make(number) for number in numbers]


def _made_on_gpus(
    make: Callable[[int, int], Clustering],
    numbers: Sequence[int],
    gpus: Sequence[int],
    say: Callable[[str], None],
) -> dict[int, Clustering]:
    """The clusterings that GPUs could make, by their numbers."""
    made: dict[int, Clustering] = {}

    def work(gpu: int, mine: Sequence[int]) -> None:
        for number in mine:
            made[number] = make(number, gpu)

    # One thread a GPU: Faiss's memory on it may not be shared by threads.
    with ThreadPoolExecutor(max(1, len(gpus))) as pool:
        working = [pool.submit(work, gpu, numbers[i :: len(gpus)]) for i, gpu in enumerate(gpus)]
    for gpu, work_of_gpu in zip(gpus, working, strict=True):
        try:
            work_of_gpu.result()
        except RuntimeError as error:  # Faiss's message begins with the place in its code
            reason = first_line(error).rpartition("Error: ")[2]
            say(f"k-means failed on GPU {gpu} ({reason}): clustering on the CPU instead.")
    return made
