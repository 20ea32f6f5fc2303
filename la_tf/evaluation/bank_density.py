"""How densely the bank is populated around an image, close by and further off (Figure 2)."""

from typing import NamedTuple

import numpy as np

from la_tf.evaluation.knn import nearest

_BLOCK = 4096  # rows whose neighbours are held at once


class Densities(NamedTuple):
    """Local and background density of some rows.

    Attributes:
      local: [R] float64, mean similarity to the nearest others.
      background: [R] float64, mean similarity to others further off.
      local_count: how many others `local` is a mean over.
      background_ranks: first and last rank among the others, counted from 1, in `background`.
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
    images; its first rank shrinks in proportion, and the local ones stay in front of it.

    Args:
      vectors: [N, D] unit rows.
      rows: [R] numbers of the rows to describe; all by default.
      local: how many of the nearest count as local.
      background: first and last rank of the background, counted from 1.

    Returns:
      The densities in the order of `rows`, and the ranks that they cover.

    Raises:
      ValueError: there is no other row than one.
    """
    others = len(vectors) - 1
    if others < 1:
        raise ValueError("a density needs two rows at least.")
    rows = np.arange(len(vectors)) if rows is None else np.asarray(rows)
    last = max(1, min(background[1], others // 4))
    first = max(1, round(background[0] * last / background[1]))
    count = max(1, min(local, first - 1))
    near, far = np.empty(len(rows)), np.empty(len(rows))
    for i in range(0, len(rows), _BLOCK):
        block = _similarities_to_others(vectors, rows[i : i + _BLOCK], last)
        near[i : i + _BLOCK] = block[:, :count].mean(axis=1, dtype=np.float64)
        far[i : i + _BLOCK] = block[:, first - 1 :].mean(axis=1, dtype=np.float64)
    return Densities(near, far, count, (first, last))


def _similarities_to_others(vectors: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """Similarities of rows to the `count` nearest other ones: [R, count], falling."""
    similarities, neighbours = nearest(vectors[rows], vectors, count + 1)
    itself = neighbours == rows[:, np.newaxis]
    # Copies of a row are as near as the row, and may have kept it out of the list altogether.
    itself[~itself.any(axis=1), -1] = True
    return similarities[~itself].reshape(len(rows), count)
