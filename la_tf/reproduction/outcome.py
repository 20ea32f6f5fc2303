"""What finished runs say: a table with mean and spread over seeds, and the records behind it."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from la_tf.analysis.density import bank_density
from la_tf.files import replace_file, write_json
from la_tf.phases import UNTRAINED
from la_tf.reproduction.plan import Job, Plan, is_finished
from la_tf.reproduction.tables import PaperTable, Row
from la_tf.results.evaluations import COLUMNS, RAW_PIXELS, read_evaluations
from la_tf.results.knn_metric import KNN_METRICS
from la_tf.runs.description import CONFIG_FILE, Description, read_starts
from la_tf.runs.directory import read_file
from la_tf.runs.log import Record, read_log, records_with
from la_tf.runs.trained_run import open_run

NEIGHBORS = {
    "close_purity": "purity of C",
    "background_purity": "of B",
    "own_share": "itself, of P(C and B)",
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A table as far as its runs are finished.

    Attributes:
      table: the paper's.
      values: row -> column -> percent, one for each seed that is finished.
    """

    table: PaperTable
    values: dict[str, dict[str, list[float]]]

    @property
    def frame(self) -> pd.DataFrame:
        """Cells as text: mean, and standard deviation over seeds; '-' where nothing is finished."""
        rows = {
            row.name: {
                "paper": "-" if row.paper is None else f"{row.paper:.1f}",
                **{column: _cell(found) for column, found in self.values[row.name].items()},
                "seeds": str(max(map(len, self.values[row.name].values()), default=0)),
            }
            for row in self.table.rows
        }
        # In the order of the row that has most of them: the image alone has no purity, for one.
        most_first = sorted(self.values.values(), key=len, reverse=True)
        columns = dict.fromkeys(column for found in most_first for column in found)
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=["paper", *columns, "seeds"])
        return frame.fillna("-")

    @property
    def markdown(self) -> str:
        """The table as Markdown, under its title and the paper's claim."""
        body = self.frame.to_markdown(disable_numparse=True)
        return f"### {self.table.title}\n\nThe paper: {self.table.claim}\n\n{body}\n"


def outcome(table: PaperTable, plan: Plan) -> Outcome:
    """Collects a table from the run directories of a plan.

    Raises:
      RunError: a file of a run cannot be read.
    """
    values: dict[str, dict[str, list[float]]] = {}
    for row in table.rows:
        columns: dict[str, list[float]] = {}
        for seed in plan.seeds:
            for column, percent in _of_run(table, row, plan.run_dir(row, seed)).items():
                columns.setdefault(column, []).append(percent)
        values[row.name] = columns
    return Outcome(table, values)


def _of_run(table: PaperTable, row: Row, path: pathlib.Path) -> dict[str, float]:
    """Column -> percent, of a run that is finished; else nothing."""
    if not is_finished(path):
        return {}
    if table.densities:
        return _densities(path)
    return _evaluated(row, path) if table.readouts else _logged(path)


def _evaluated(row: Row, path: pathlib.Path) -> dict[str, float]:
    """What `tools/evaluate.py --baselines` has measured, in the columns of Table 1."""
    untrained = row.name == UNTRAINED
    found = [
        evaluation
        for evaluation in read_evaluations(path)
        if evaluation.row != RAW_PIXELS and (evaluation.row == UNTRAINED) == untrained
    ]
    accuracy = {column: 100 * share for e in found for column, share in e.accuracy.items()}
    return {column: accuracy[column] for column in COLUMNS if column in accuracy}


def _densities(path: pathlib.Path) -> dict[str, float]:
    """Means of Figure 2 over a sample of the memory bank, as cosines times 100."""
    run = open_run(str(path))
    found = bank_density(path.name, run.bank, run.config.schedule.seed).found
    first, last = found.background_ranks
    return {
        f"cosine x 100 of the {found.local_count} nearest": 100 * float(found.local.mean()),
        f"of the neighbours {first} to {last}": 100 * float(found.background.mean()),
    }


def _logged(path: pathlib.Path) -> dict[str, float]:
    """Held-out kNN at the end, and what the last neighbours were."""
    records = read_log(path / "metrics.jsonl")
    knn = records_with(records, "knn", *(metric.field for metric in KNN_METRICS))[-1:]
    cells = {m.words: 100 * last[m.field] for last in knn for m in reversed(KNN_METRICS)}
    neighbors = records_with(records, "neighbors")
    for field, column in NEIGHBORS.items():
        if neighbors and neighbors[-1].get(field) is not None:
            cells[column] = 100 * neighbors[-1][field]
    return cells


def write_results(folder: pathlib.Path, outcomes: Sequence[Outcome], jobs: Sequence[Job]) -> None:
    """Writes tables.md, tables.json and runs.jsonl: the tables, and what stands behind them.

    Args:
      folder: takes the files.
      outcomes: the tables.
      jobs: those of which the runs are kept, a line each, as far as they are finished.

    Raises:
      RunError: a file of a run cannot be read.
    """
    replace_file(folder / "tables.md", "\n".join(o.markdown for o in outcomes).encode())
    write_json(folder / "tables.json", {o.table.key: o.values for o in outcomes})
    commands = {job.run_dir: job.command for job in reversed(jobs)}  # the training's comes last
    kept = [_kept(run, command) for run, command in commands.items() if is_finished(run)]
    replace_file(folder / "runs.jsonl", "".join(f"{json.dumps(k)}\n" for k in kept).encode())


def _kept(path: pathlib.Path, command: str) -> Record:
    """What is kept of a finished run.

    Its command, configuration, images and machine; of its log all of held-out kNN, and the first
    and the last record of every other kind; its evaluations.
    """
    description = read_file(path / CONFIG_FILE, Description)
    (environment,) = read_starts(path)[-1:] or [None]
    records = read_log(path / "metrics.jsonl")
    last = {record["kind"]: record for record in records}
    first = {record["kind"]: record for record in reversed(records)}
    evaluations = [dataclasses.asdict(e) | {"environment": None} for e in read_evaluations(path)]
    return {
        "command": command,
        **description,
        "environment": environment,
        "records": [
            r for r in records if r["kind"] == "knn" or r in (first[r["kind"]], last[r["kind"]])
        ],
        "evaluations": evaluations,
    }


def _cell(values: Sequence[float]) -> str:
    """Mean and, of several seeds, standard deviation."""
    spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{spread}"
