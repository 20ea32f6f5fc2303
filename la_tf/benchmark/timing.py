"""Times functions in turns, to be compared with each other."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Row:
    """One thing that was timed.

    Attributes:
      name: what.
      seconds: of every repetition.
      floor: name of the row it is compared with; None for the floor itself.
      items: images or steps of one repetition, to give a rate.
      note: what else was measured of it.
    """

    name: str
    seconds: list[float]
    floor: str | None = None
    items: int = 1
    note: str = ""

    @property
    def median(self) -> float:
        """Seconds, the median over the repetitions."""
        return float(np.median(self.seconds))


def repeat(
    functions: Mapping[str, Callable[[], object]], repetitions: int
) -> dict[str, list[float]]:
    """Runs all functions in turn, several times, so that a slow moment affects all of them.

    Args:
      functions: by name; a GPU may still be at work when one returns, and is waited for.
      repetitions: rounds that count; one more goes before them and does not.

    Returns:
      Seconds of every round, by name.
    """
    seconds = {name: [] for name in functions}
    for function in functions.values():
        function()
    tf.test.experimental.sync_devices()
    for _ in range(repetitions):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            tf.test.experimental.sync_devices()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def with_results(
    functions: Mapping[str, Callable[[], Any]],
) -> tuple[dict[str, Callable[[], None]], dict[str, list]]:
    """The same functions for `repeat`, and what each call of them will have returned, by name."""
    results: dict[str, list] = {name: [] for name in functions}

    def noting(name: str) -> Callable[[], None]:
        return lambda: results[name].append(functions[name]())

    return {name: noting(name) for name in functions}, results


def paired_ratio(row: Row, floor: Row) -> float:
    """Median over the rounds of a row's time over its floor's time in the same round."""
    return float(np.median(np.divide(row.seconds, floor.seconds)))


def table(rows: list[Row], unit: str = "") -> list[str]:
    """Lines of text: time, spread, rate in `unit` a second, and how many times the floor's time."""
    floors = {row.name: row for row in rows}
    width = max(len(row.name) for row in rows)
    lines = []
    for row in rows:
        low, middle, high = (1000 * x for x in (min(row.seconds), row.median, max(row.seconds)))
        line = f"{row.name:{width}}  {middle:9.1f} ms ({low:.1f} to {high:.1f})"
        if unit:
            line += f"  {row.items / row.median:8.1f} {unit}/s"
        if row.floor is not None:
            line += f"  {paired_ratio(row, floors[row.floor]):6.2f} x {row.floor}"
        lines.append(line + (f"; {row.note}" if row.note else ""))
    return lines
