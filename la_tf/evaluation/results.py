"""Results of an evaluation: one JSON file each in the run directory, and the table of all."""

import dataclasses
import json
import pathlib
from typing import Any

from la_tf.evaluation.paper import paper_rows
from la_tf.run_directory import RunError, write_json

FOLDER = "evaluation"
READOUTS = ("conv1", "conv2", "conv3", "conv4", "conv5")
# In the order of Table 1. The paper's KNN is K = 200; K = 1 is what its ablations report.
COLUMNS = (*READOUTS, "KNN", "KNN K=1")
# What stands in a table for the rows of one run, after the rows of the paper.
ROWS = ("raw pixels", "untrained", "IR", "LA")
# Of the paper's methods those with a counterpart here, and its clustering baseline.
PAPER_METHODS = ("Random", "IR", "IR (with BN)", "DC", "LA")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One protocol on one data set for one row of the table.

    Attributes:
      protocol: 'knn' or 'linear'.
      data: a name for the images, `sun18` for example.
      fingerprint: of training and held-out images, so that two sets of one name stay apart.
      row: one of ROWS.
      transfer: whether the network was trained on other images.
      network: the architecture.
      step: steps of training behind the network; 0 for what is not trained.
      epoch: the same in epochs.
      accuracy: column -> share of the held-out images that are classified rightly; 'pixels' too,
        for a readout on raw pixels.
      settings: what else decides the numbers, ready for JSON.
      seconds: how long it took, all starts together.
      environment: versions and devices, see `runtime.environment`.
    """

    protocol: str
    data: str
    fingerprint: str
    row: str
    transfer: bool
    network: str
    step: int
    epoch: float
    accuracy: dict[str, float]
    settings: dict[str, Any]
    seconds: float
    environment: dict[str, Any]

    @property
    def key(self) -> str:
        """The file's name, without .json."""
        return f"{self.data}-{self.protocol}-{self.row.replace(' ', '-')}"


def write_evaluation(run_path: pathlib.Path, evaluation: Evaluation) -> pathlib.Path:
    """Writes one result, over an older one of the same protocol, data and row.

    Raises:
      RunError: there is one of other images under the same name.
    """
    folder = run_path / FOLDER
    file = folder / f"{evaluation.key}.json"
    if file.exists():
        _require_same_images(file, _read(file), evaluation)
    try:
        folder.mkdir(exist_ok=True)
        write_json(file, dataclasses.asdict(evaluation))
    except OSError as error:
        raise RunError(f"{file} cannot be written: {error.strerror}.") from error
    return file


def find_evaluation(run_path: pathlib.Path, like: Evaluation) -> Evaluation | None:
    """The stored result of the same images, network state and settings, if there is one.

    Raises:
      RunError: a file of that name cannot be read, or is of other images.
    """
    file = run_path / FOLDER / f"{like.key}.json"
    if not file.exists():
        return None
    stored = _read(file)
    _require_same_images(file, stored, like)
    same = (stored.step, stored.settings) == (like.step, like.settings)
    return stored if same else None


def _require_same_images(file: pathlib.Path, stored: Evaluation, wanted: Evaluation) -> None:
    if stored.fingerprint != wanted.fingerprint:
        raise RunError(
            f"{file} is of other images of the same name: give these another one with --name."
        )


def read_evaluations(run_path: pathlib.Path) -> list[Evaluation]:
    """All results of a run, in the order of `ROWS`, by data set.

    Raises:
      RunError: a file cannot be read.
    """
    found = [_read(file) for file in sorted((run_path / FOLDER).glob("*.json"))]
    return sorted(found, key=lambda e: (e.data, ROWS.index(e.row)))


def _read(file: pathlib.Path) -> Evaluation:
    try:
        return Evaluation(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{file} cannot be read ({error}): remove it and evaluate again.") from error


@dataclasses.dataclass(frozen=True)
class TableRow:
    """One line: its name, and column -> percent."""

    name: str
    values: dict[str, float]
    of_paper: bool = False


def result_table(evaluations: list[Evaluation], data: str) -> list[TableRow]:
    """The paper's rows for the network, then ours, for one data set.

    Beside images that the network was trained on stand the paper's ImageNet numbers (Table 1),
    beside others its Places numbers (Table 2 there and in the supplement).

    Args:
      evaluations: of one run.
      data: which of its data sets.
    """
    ours = [e for e in evaluations if e.data == data]
    transfer = any(e.transfer for e in ours)
    images = "Places" if transfer else "ImageNet"
    rows = [
        TableRow(f"{row.method}, {row.network}, {images} (paper)", values, True)
        for row in paper_rows(ours[0].network if ours else "")
        if row.method in PAPER_METHODS and (values := _paper_values(row, transfer))
    ]
    for name in ROWS:
        values = {}
        for evaluation in ours:
            if evaluation.row == name:
                values |= {c: 100 * a for c, a in evaluation.accuracy.items()}
        if values:
            rows.append(TableRow(name, values))
    return rows


def _paper_values(row, transfer: bool) -> dict[str, float]:
    readouts = row.places if transfer else row.imagenet
    knn = row.places_knn if transfer else row.imagenet_knn
    values = dict(zip(READOUTS, readouts, strict=True)) if readouts else {}
    return values | ({} if knn is None else {"KNN": knn})


def format_results(rows: list[TableRow]) -> str:
    """A table as text for a console; columns without any number are left out."""
    columns = [c for c in (*COLUMNS, "pixels") if any(c in row.values for row in rows)]
    width = max([len(row.name) for row in rows], default=0) + 2
    lines = ["".join([f"{'':{width}}", *(f"{c:>9}" for c in columns)])]
    for row in rows:
        cells = (f"{row.values[c]:9.1f}" if c in row.values else f"{'-':>9}" for c in columns)
        lines.append(f"{row.name:{width}}" + "".join(cells))
    return "\n".join(lines)
