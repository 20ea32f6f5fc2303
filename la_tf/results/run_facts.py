"""The parts of a report that are tables: what a run is, how it went, and on what it ran."""

import dataclasses
import itertools
import json
from collections.abc import Sequence
from typing import Any

from la_tf.config import Config
from la_tf.errors import RunError
from la_tf.phases import IR, LA, UNTRAINED
from la_tf.results.evaluations import (
    TableRow,
    columns_of,
    gallery_note,
    read_evaluations,
    result_table,
)
from la_tf.results.knn_metric import KNN, KNN1, KNN_METRICS
from la_tf.results.knn_table import Row
from la_tf.runs.health import HealthMonitor
from la_tf.runs.log import Record
from la_tf.runs.trained_run import TrainedRun

OBJECTIVES = {
    UNTRAINED: "Untrained",
    IR: "Instance recognition",
    LA: "Local Aggregation",
}


@dataclasses.dataclass(frozen=True)
class Fact:
    """One line of the summary."""

    term: str
    value: str
    note: str = ""


def summary(run: TrainedRun, metrics: Sequence[Record]) -> list[Fact]:
    """What the run is, how far it is, and how good it is now."""
    config = run.config
    heldout = run.data["held-out set"]
    facts = [
        Fact(
            "Network",
            config.network.network,
            f"{run.network.count_params():,} weights, embeddings of {config.network.dim}",
        ),
        Fact(
            "Training images",
            f"{run.num_examples:,}",
            f"{config.data.data}, at {config.data.image_size} pixels; "
            + (f"{heldout['examples']:,} held out" if heldout else "none held out"),
        ),
        Fact("Objective", OBJECTIVES[run.objective], _phases(config)),
        Fact(
            "Epochs",
            f"{run.epoch:.4g} of {config.schedule.epochs}",
            f"{run.step:,} steps of {config.data.batch_size} images",
        ),
    ]
    evaluations = [record for record in metrics if record["kind"] == "knn"]
    if evaluations:
        last = evaluations[-1]
        facts.append(
            Fact(
                "Held-out kNN",
                f"{last[KNN.field]:.1%}",
                f"with {KNN.words}, {last[KNN1.field]:.1%} with {KNN1.words}; against the memory "
                f"bank, at epoch {last['epoch']}",
            )
        )
    else:
        facts.append(Fact("Held-out kNN", "not measured", "it needs labelled held-out images"))
    facts.append(
        Fact(
            "Neighbours",
            f"k = {config.objective.k:,}",
            f"m = {config.clustering.num_clusters:,} clusters, "
            f"H = {config.clustering.num_clusterings} clusterings",
        )
    )
    return facts


def _phases(config: Config) -> str:
    schedule = config.schedule
    if schedule.ir_epochs >= schedule.epochs:
        return "instance recognition alone"
    if not schedule.ir_epochs:
        return "without a warm start"
    epochs = "an epoch" if schedule.ir_epochs == 1 else f"{schedule.ir_epochs} epochs"
    return f"instance recognition for {epochs}, then Local Aggregation"


def warnings(run: TrainedRun, metrics: Sequence[Record]) -> list[str]:
    """What to know before the numbers: what is unfinished or was lost, and doubts of health."""
    said = []
    planned = run.config.schedule.epochs
    if run.epoch < planned:
        said.append(
            f"This run is not finished: {run.epoch:.4g} of {planned} epochs are done. The command "
            "that started it goes on with it."
        )
    logged = max((record["step"] for record in metrics), default=0)
    if logged > run.step:
        said.append(
            f"The log reaches step {logged:,}, but the newest checkpoint is of step {run.step:,}: "
            "curves and tables are of the log, figures of embeddings and images of the checkpoint."
        )
    monitor = HealthMonitor(run.config.network.dim, said.append)
    for record in metrics:
        monitor(record)
    return said


@dataclasses.dataclass(frozen=True)
class Table:
    """A table with numbers.

    Attributes:
      caption: what is counted.
      columns: their heads.
      rows: (name, cells, whether it is the paper's).
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...], bool], ...]


def milestone_table(rows: Sequence[Row], gallery: str) -> Table:
    """Held-out kNN at the milestones of the run, or the ends of its phases."""
    return Table(
        f"Held-out kNN accuracy in percent, against {gallery}.",
        tuple(metric.words for metric in KNN_METRICS),
        tuple((name, (_percent(100 * a), _percent(100 * b)), False) for name, a, b in rows),
    )


def result_tables(run: TrainedRun) -> list[Table]:
    """What was evaluated of the run, a table a data set, beside the paper's rows.

    Raises:
      RunError: a result cannot be read.
    """
    evaluations = read_evaluations(run.path)
    names = dict.fromkeys(evaluation.data for evaluation in evaluations)
    return [
        _result_table(name, result_table(evaluations, name), gallery_note(evaluations, name))
        for name in names
    ]


def _result_table(data: str, rows: list[TableRow], note: str) -> Table:
    of_paper = " Rows in italics are the paper's." if any(row.of_paper for row in rows) else ""
    columns = tuple(columns_of(rows))
    return Table(
        " ".join(f"{data}: top-1 accuracy in percent. {note}{of_paper}".split()),
        columns,
        tuple(
            (
                row.name,
                tuple(_percent(row.values[c]) if c in row.values else "-" for c in columns),
                row.of_paper,
            )
            for row in rows
        ),
    )


def _percent(value: float) -> str:
    return f"{value:.1f}"


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a configuration, with what `Config` says of it."""

    name: str
    value: str
    changed: bool
    help: str
    paper: str


@dataclasses.dataclass(frozen=True)
class ConfigSection:
    """The options of one section."""

    name: str
    about: str
    options: tuple[Option, ...]


def configuration(config: Config) -> list[ConfigSection]:
    """Every option by section."""
    return [
        ConfigSection(
            section.name,
            section.type.__doc__.splitlines()[0],
            tuple(
                _option(field, getattr(getattr(config, section.name), field.name))
                for field in dataclasses.fields(section.type)
            ),
        )
        for section in dataclasses.fields(config)
    ]


def _option(field: dataclasses.Field, value: Any) -> Option:
    metadata = field.metadata
    return Option(
        field.name, _plain(value), value != field.default, metadata["help"], metadata["section"]
    )


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == ():
        return "none"
    if isinstance(value, (tuple, list)):
        return ", ".join(_plain(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclasses.dataclass(frozen=True)
class Environment:
    """The environment of some starts in a row.

    Attributes:
      starts: which, counted from 1.
      values: name -> what it was.
    """

    starts: str
    values: dict[str, str]


def environments(run: TrainedRun) -> list[Environment]:
    """The environment of every start; equal ones that follow each other are joined.

    Raises:
      RunError: environment.json cannot be read.
    """
    try:
        starts = json.loads((run.path / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"environment.json cannot be read ({error}).") from error
    found, first = [], 1
    for environment, group in itertools.groupby(starts):
        count = len(list(group))
        span = f"Start {first}" if count == 1 else f"Starts {first} to {first + count - 1}"
        found.append(Environment(span, _flat(environment)))
        first += count
    return found


def _flat(environment: Record) -> dict[str, str]:
    """One level instead of two, and words instead of values."""
    flat = {}
    for name, value in environment.items():
        if isinstance(value, dict):
            flat |= {inner: _plain(v) for inner, v in value.items()}
        else:
            flat[name.replace("_", " ")] = "none" if value == [] else _plain(value)
    return flat
