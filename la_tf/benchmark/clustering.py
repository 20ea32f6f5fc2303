"""The H clusterings of a round, compared with H plain calls of `faiss.Kmeans`."""

import functools

import numpy as np

from la_tf.benchmark import plain_kmeans
from la_tf.benchmark.process import answer, in_process
from la_tf.benchmark.step import clustered_rows
from la_tf.benchmark.timing import Row, repeat, with_results
from la_tf.clustering import clustering_seeds, run_clusterings

_SEED = 0


def measure(
    num_examples: int = 200_000,
    num_clusters: int = 4_000,
    num_clusterings: int = 2,
    iterations: int = 3,
    repetitions: int = 3,
) -> list[Row]:
    """Times `run_clusterings` and plain calls from the same seeds with the same settings.

    Training has 20 iterations, and H = 3 or 10. The defaults here only repeat the same work less
    often, so that the ratio is about the same, in less time.

    Args:
      num_examples: N.
      num_clusters: m.
      num_clusterings: H.
      iterations: Lloyd iterations of each; one more assignment gives the labels.
      repetitions: how often, each of all three in turn.

    Returns:
      Three rows: plain Faiss in a process of its own, the floor; plain Faiss in this process, with
      the kernels that `faiss_library` chooses; and this project. The note is the mean inertia.

    Raises:
      ValueError: more clusters than examples, or the other process ended.
    """
    vectors = clustered_rows(num_examples, _SEED).numpy()
    seeds = clustering_seeds(_SEED, 0, num_clusterings).tolist()
    plain = (vectors, num_clusters, iterations, seeds)
    floor = f"{num_clusterings} x faiss.Kmeans"

    def ours() -> list[float]:
        settings = (num_clusters, num_clusterings, _SEED, 0, iterations)
        return [run.inertia for run in run_clusterings(vectors, *settings)]

    with in_process(answer, functools.partial, plain_kmeans.cluster, *plain) as elsewhere:
        functions, results = with_results(
            {
                floor: elsewhere,
                f"{floor}, in this process": lambda: plain_kmeans.cluster(*plain),
                f"{num_clusterings} x clusterings": ours,
            }
        )
        seconds = repeat(functions, repetitions)
    inertia = {name: of_rounds[-1] for name, of_rounds in results.items()}
    return [
        Row(
            name,
            seconds[name],
            None if name == floor else floor,
            num_clusterings,
            f"N = {num_examples}, m = {num_clusters}, {iterations} iterations: "
            f"inertia {np.mean(inertia[name]):.8g}" + _compared(inertia[name], inertia[floor]),
        )
        for name in functions
    ]


def _compared(inertia: list[float], floor: list[float]) -> str:
    """In words, how far the inertia of clusterings is from the floor's; empty where it is equal."""
    if inertia == floor:
        return ""
    largest = np.abs(np.divide(inertia, floor) - 1).max()
    return f", {largest:.0e} off at most"  # other kernels round differently
