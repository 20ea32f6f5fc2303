"""The runs behind a table: which there must be, in what order, and the command of each."""

import dataclasses
import itertools
import pathlib
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from la_tf.data.pipeline import steps_per_epoch
from la_tf.phases import UNTRAINED
from la_tf.reproduction.scales import Scale
from la_tf.reproduction.tables import PaperTable, Row
from la_tf.results.evaluations import RAW_PIXELS, read_evaluations
from la_tf.runs.description import read_description
from la_tf.runs.log import read_log

WARM_START = "warm-start"
BASELINES = "--baselines"  # of tools/evaluate.py: the untrained network and raw pixels too


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a tool.

    Attributes:
      arguments: the tool, and its flags.
      run_dir: the run directory that it trains or evaluates.
      epochs: how many it trains itself.
      is_done: whether there is nothing left to do.
    """

    arguments: tuple[str, ...]
    run_dir: pathlib.Path
    epochs: int
    is_done: Callable[[], bool]

    @property
    def command(self) -> str:
        """What a person types to start it alone."""
        return shlex.join(["python", *self.arguments])


class Plan:
    """The runs of some tables at one scale, seed by seed."""

    def __init__(self, scale: Scale, folder: pathlib.Path, data: str, seeds: Sequence[int]):
        """Describes where they go and on which images they are trained.

        Args:
          scale: recipe and numbers.
          folder: the runs' directories are made in it.
          data: as `tools/train.py` takes it.
          seeds: each row is run once with each.
        """
        self.scale, self.folder, self.data, self.seeds = scale, folder, data, seeds

    def jobs(self, tables: Iterable[PaperTable]) -> list[Job]:
        """All that the tables need, once each, warm starts before what starts from them.

        One seed after the other, so that every row has one run before any has two. Rows with equal
        options share their run.
        """
        found: dict[tuple[str, ...], Job] = {}
        for seed in self.seeds:
            for table in tables:
                for row in table.rows:
                    for job in self._jobs_of(table, row, seed):
                        found.setdefault(job.arguments, job)
        # An evaluation with baselines measures what the same one without them does.
        return [job for given, job in found.items() if (*given, BASELINES) not in found]

    def run_dir(self, row: Row, seed: int) -> pathlib.Path:
        """The directory of the run that stands in a row."""
        name = "-".join(f"{key}={value}" for key, value in sorted(row.options.items()))
        return self.folder / f"seed{seed}" / (name or "base")

    def _jobs_of(self, table: PaperTable, row: Row, seed: int) -> Iterator[Job]:
        schedule, run_dir = self.scale.base.schedule, self.run_dir(row, seed)
        if "method" in row.options:  # a baseline, without a warm start
            yield self._training(run_dir, row.options, seed, schedule.epochs)
        else:
            warm = self.folder / f"seed{seed}" / WARM_START
            length = schedule.ir_epochs
            yield self._training(warm, {"epochs": length, "ir_epochs": length}, seed, length)
            options = {**row.options, "warm_start": warm}
            yield self._training(run_dir, options, seed, schedule.epochs - length)
        if table.readouts:
            yield self._evaluation(run_dir, baselines=row.name == UNTRAINED)

    def _training(
        self, run_dir: pathlib.Path, options: Mapping[str, Any], seed: int, epochs: int
    ) -> Job:
        given = {**self.scale.options, **options, "data": self.data, "seed": seed}
        flags = [f"--{key}={_text(value)}" for key, value in given.items()]
        recipe = f"--flagfile=configs/{self.scale.recipe}.flags"
        arguments = ("tools/train.py", recipe, *flags, f"--run_dir={run_dir}")
        return Job(arguments, run_dir, epochs, lambda: is_finished(run_dir))

    def _evaluation(self, run_dir: pathlib.Path, baselines: bool) -> Job:
        flags = [f"--run_dir={run_dir}", "--protocol=knn,linear", "--gallery=crops"]
        flags += [*self.scale.evaluation, *([BASELINES] if baselines else [])]

        def is_done() -> bool:
            found = [e for e in read_evaluations(run_dir) if e.row != RAW_PIXELS]
            rows = {(e.protocol, e.row == UNTRAINED) for e in found}
            return set(itertools.product(("knn", "linear"), {False, baselines})) <= rows

        return Job(("tools/evaluate.py", *flags), run_dir, 0, is_done)


def is_finished(path: pathlib.Path) -> bool:
    """Whether the run of a directory has trained and evaluated to its end.

    Raises:
      RunError: a file of the run cannot be read.
    """
    if not (path / "config.json").exists() or not (path / "metrics.jsonl").exists():
        return False
    config, data = read_description(path)
    spe = steps_per_epoch(data["training set"]["examples"], config.data.batch_size)
    end = spe * config.schedule.epochs
    return any(r["kind"] == "knn" and r["step"] == end for r in read_log(path / "metrics.jsonl"))


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
