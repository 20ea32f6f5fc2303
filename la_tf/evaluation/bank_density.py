"""Local and background density of an embedding (Figure 2)."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from la_tf.evaluation.knn import nearest_others

DENSITY = "density"  # the kind of a record in a run's log
_BLOCK = 4096  # rows whose neighbours are held at once
_QUANTILES = 201  # of a distribution in a record: its minimum, a value every half percent, ...
_DIGITS = 5  # of a density in a record


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


def ranks(
    num_examples: int, local: int = 30, background: tuple[int, int] = (1000, 4096)
) -> tuple[int, tuple[int, int]]:
    """How many others are local among N examples, and which ranks are background: `densities`.

    Raises:
      ValueError: there is only one row.
    """
    others = num_examples - 1
    if others < 1:
        raise ValueError("a density needs at least two rows.")
    last = max(1, min(background[1], others // 4))
    first = max(1, round(background[0] * last / background[1]))
    return max(1, min(local, first - 1)), (first, last)


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
    rows = np.arange(len(vectors)) if rows is None else np.asarray(rows)
    count, (first, last) = ranks(len(vectors), local, background)
    near, far = np.empty(len(rows)), np.empty(len(rows))
    for i in range(0, len(rows), _BLOCK):
        part = rows[i : i + _BLOCK]
        block, _ = nearest_others(vectors[part], part, vectors, last)
        near[i : i + _BLOCK] = block[:, :count].mean(axis=1, dtype=np.float64)
        far[i : i + _BLOCK] = block[:, first - 1 :].mean(axis=1, dtype=np.float64)
    return Densities(near, far, count, (first, last))


def quantiles(found: Densities) -> dict[str, list[float]]:
    """Both distributions as a record holds them: values at evenly spaced quantiles, rising."""
    places = np.linspace(0, 1, _QUANTILES)
    return {
        kind: np.quantile(getattr(found, kind), places).round(_DIGITS).tolist()
        for kind in ("local", "background")
    }


def from_quantiles(found: Mapping[str, list[float]], num_examples: int) -> Densities:
    """What `quantiles` has given of a bank of N rows, as if of one row for each of them."""
    local, background = (np.array(found[kind]) for kind in ("local", "background"))
    return Densities(local, background, *ranks(num_examples))
