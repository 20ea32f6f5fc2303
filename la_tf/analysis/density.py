"""Local and background density of the memory bank (Figure 2)."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from la_tf.analysis import plots
from la_tf.analysis.part import Part, Plot, Unavailable
from la_tf.data.base import sample_rows
from la_tf.evaluation.bank_density import DENSITY, Densities, densities, from_quantiles
from la_tf.runs.log import Record, records_with

MAX_ROWS = 5_000


@dataclasses.dataclass(frozen=True)
class BankDensity:
    """Densities at a sample of the N rows of one run's bank.

    Attributes:
      label: of the run.
      num_examples: N.
      found: the densities, as measured or as logged.
      sampled: how many rows they are of; None where that is not known any more.
    """

    label: str
    num_examples: int
    found: Densities
    sampled: int | None


def bank_density(label: str, bank: np.ndarray, seed: int) -> BankDensity:
    """Exact densities of a bank [N, D] at `MAX_ROWS` of its rows at most, which the seed chooses.

    Raises:
      Unavailable: the bank has one row.
    """
    if len(bank) < 2:
        raise Unavailable("A single image has no neighbours.")
    rows = sample_rows(len(bank), MAX_ROWS, seed)
    return BankDensity(label, len(bank), densities(bank, rows), len(rows))


def logged_density(
    label: str, metrics: Sequence[Record], step: int, num_examples: int
) -> list[BankDensity]:
    """The densities at the end of the warm start of a run that has gone on since, to `step`.

    Empty where the log does not have them: there was no warm start, or it was not over.
    """
    found = [r for r in records_with(metrics, DENSITY, "quantiles") if r["step"] < step][-1:]
    return [
        BankDensity(label, num_examples, from_quantiles(r["quantiles"], num_examples), None)
        for r in found
    ]


def density_part(runs: Sequence[BankDensity]) -> Part:
    """Figure 2: histograms of both densities, of several runs over each other."""
    return Part(
        "Mean dot product between a row of the memory bank and other rows: its nearest neighbours "
        "(local), and neighbours of higher rank (background). The paper takes the nearest 30, and "
        "ranks 1,000 to 4,096 of 1,281,167 images; where 4,096 would be more than a quarter of the "
        "images, the ranks are scaled down in proportion, so that they end at a quarter. "
        f"{' '.join(_ranks(run) for run in runs)} The lowest half percent is not drawn.",
        tuple(_histograms(runs, kind) for kind in ("local", "background")),
    )


def _histograms(runs: Sequence[BankDensity], kind: str) -> Plot:
    drawn = {run.label: getattr(run.found, kind) for run in runs}
    means = " ".join(f"{label}: mean {values.mean():.3f}." for label, values in drawn.items())
    title = f"{kind.capitalize()} density"
    return Plot(f"density-{kind}", plots.histograms(title, drawn), f"{title}. {means}")


def _ranks(run: BankDensity) -> str:
    """The neighbours that the densities of a run are means over, in words."""
    first, last = run.found.background_ranks
    sampled = ""
    if run.sampled is None:
        sampled = ", as training has logged it for a sample"
    elif run.sampled < run.num_examples:
        sampled = f", for a sample of {run.sampled:,}"
    return (
        f"{run.label}: the nearest {run.found.local_count}, and ranks {first:,} to {last:,}, of "
        f"{run.num_examples:,} images{sampled}."
    )
