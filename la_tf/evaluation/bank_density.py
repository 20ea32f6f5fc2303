"""Local and background density of an embedding (Figure 2)."""

from typing import NamedTuple

import numpy as np

from la_tf.evaluation.knn import nearest_others

_BLOCK = 4096  # rows whose neighbours are held at once


class Densities(NamedTuple):
    """Local and background density of some rows.

    Attributes:
      local: [R] float64, mean similarity to the nearest others.
      background: [R] float64, mean similarity to others of higher rank.
      local_count: how many others `local` is a mean over.
      background_ranks: first and last rank, counted from 1, that `background` is a mean over.
    """

    local: np.ndarray
    background: np.ndarray
    local_count: int
    background_ranks: tuple[int, int]


def densities(
    vectors: np.ndarray,
    rows: np.ndarray | None = None,
    local: int = 30,
    background: tuple[int, int] = (1000, 4096),
) -> Densities:
    """Mean similarity to the 30 nearest others and to the 1000th to 4096th (Figure 2), exactly.

    The background's last rank is at most a quarter of the others, as k is at most a quarter of the
    images; its first rank shrinks in proportion, and the local neighbours end before it.

    Args:
      vectors: [N, D] unit rows.
      rows: [R] numbers of the rows to describe; all by default.
      local: how many of the nearest count as local.
      background: first and last rank of the background, counted from 1.

    Returns:
      The densities in the order of `rows`, and the ranks that they cover.

    Raises:
      ValueError: there is only one row.
    """
    others = len(vectors) - 1
    if others < 1:
        raise ValueError("a density needs at least two rows.")
    rows = np.arange(len(vectors)) if rows is None else np.asarray(rows)
    last = max(1, min(background[1], others // 4))
    first = max(1, round(background[0] * last / background[1]))
    count = max(1, min(local, first - 1))
    near, far = np.empty(len(rows)), np.empty(len(rows))
    for i in range(0, len(rows), _BLOCK):
        part = rows[i : i + _BLOCK]
        block, _ = nearest_others(vectors[part], part, vectors, last)
        near[i : i + _BLOCK] = block[:, :count].mean(axis=1, dtype=np.float64)
        far[i : i + _BLOCK] = block[:, first - 1 :].mean(axis=1, dtype=np.float64)
    return Densities(near, far, count, (first, last))
