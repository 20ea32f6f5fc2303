"""Results of an evaluation: one JSON file each in the run directory, and the table of all."""

import dataclasses
import hashlib
import itertools
import json
import pathlib
import re
from typing import Any

from la_tf.errors import RunError
from la_tf.files import write_json
from la_tf.phases import IR, LA, UNTRAINED
from la_tf.results.knn_metric import KNN, KNN1
from la_tf.results.paper_tables import paper_rows

FOLDER = "evaluation"
READOUTS = ("conv1", "conv2", "conv3", "conv4", "conv5")
PIXELS = "pixels"  # of readouts on raw pixels
# In the order of Table 1.
COLUMNS = (*READOUTS, KNN.column, KNN1.column)
RAW_PIXELS = "raw pixels"
BANK, CROPS = "memory bank", "centre crops"  # what kNN has searched
# What stands in a table for the rows of one run, after the rows of the paper.
ROWS = (RAW_PIXELS, UNTRAINED, IR, LA)
# Of the paper's methods those with a counterpart here, and its clustering baseline.
PAPER_METHODS = ("Random", IR, "IR (with BN)", "DC", LA)


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
        """The file's name, without .json; another one for everything that decides the numbers."""
        decides = json.dumps([self.fingerprint, self.step, self.settings], sort_keys=True)
        digest = hashlib.sha256(decides.encode()).hexdigest()[:8]
        return f"{self.data}-{self.protocol}-{self.row.replace(' ', '-')}-{digest}"


def write_evaluation(run_path: pathlib.Path, evaluation: Evaluation) -> pathlib.Path:
    """Writes one result; only the same one, measured before, is overwritten.

    Raises:
      RunError: the file cannot be written.
    """
    folder = run_path / FOLDER
    file = folder / f"{evaluation.key}.json"
    try:
        folder.mkdir(exist_ok=True)
        write_json(file, dataclasses.asdict(evaluation))
    except OSError as error:
        raise RunError(f"{file} cannot be written: {error.strerror}.") from error
    return file


def find_evaluation(run_path: pathlib.Path, like: Evaluation) -> Evaluation | None:
    """The stored result of the same images, network state and settings, if there is one.

    Raises:
      RunError: its file cannot be read.
    """
    file = run_path / FOLDER / f"{like.key}.json"
    return _read(file) if file.exists() else None


def require_own_name(run_path: pathlib.Path, data: str, fingerprint: str) -> None:
    """Keeps two sets of images out of one table.

    Raises:
      RunError: the name cannot be part of a file's, or results of other images have it.
    """
    if not re.fullmatch(r"\w[\w.+-]*", data):
        raise RunError(
            f"'{data}' is no name for a table: give one of letters, digits, '-', '_', '+' and '.' "
            "with --name."
        )
    for evaluation in read_evaluations(run_path):
        if evaluation.data == data and evaluation.fingerprint != fingerprint:
            raise RunError(
                f"{run_path / FOLDER} has results of other images that are called {data} too: give "
                "these another name with --name."
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
        evaluation = Evaluation(**json.loads(file.read_text(encoding="utf-8")))
        if evaluation.row not in ROWS:
            raise ValueError(f"its row is {evaluation.row}")
        return evaluation
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
        rows += _rows_of([e for e in ours if e.row == name])
    return rows


def _rows_of(evaluations: list[Evaluation]) -> list[TableRow]:
    """A line for each step, and more where a protocol was applied in several ways."""
    rows = []
    steps = sorted({e.step for e in evaluations})
    for step in steps:
        knn, linear = (
            [e for e in evaluations if e.step == step and e.protocol == protocol]
            for protocol in ("knn", "linear")
        )
        for pair in itertools.zip_longest(knn, linear):
            found = [e for e in pair if e is not None]
            details = [f"epoch {found[0].epoch:.4g}"] if len(steps) > 1 else []
            for several, e in zip((knn, linear), pair, strict=True):
                if e is not None and len(several) > 1:
                    details.append(_way(e))
            name = found[0].row + (f" ({', '.join(details)})" if details else "")
            values = {c: 100 * share for e in found for c, share in e.accuracy.items()}
            rows.append(TableRow(name, values))
    return rows


def _way(evaluation: Evaluation) -> str:
    """How a protocol was applied, in a few words."""
    settings = evaluation.settings
    if evaluation.protocol == "knn":
        return settings["gallery"]
    rate = f"rate {settings['learning_rate']:g}"
    return f"readouts: {settings['epochs']} epochs, {rate}, {settings['crop']} crops"


def gallery_note(evaluations: list[Evaluation], data: str) -> str:
    """What the kNN of each row has searched, as a sentence; empty without kNN."""
    galleries: dict[str, dict[str, None]] = {}
    clipped = False
    for e in evaluations:
        if e.data == data and e.protocol == "knn":
            galleries.setdefault(e.settings["gallery"], {})[e.row] = None
            clipped |= e.settings["k"][0] < KNN.k
    if not galleries:
        return ""
    searched = " and ".join(f"{g} ({', '.join(rows)})" for g, rows in galleries.items())
    all_vote = f" There are fewer than {KNN.k}, so all of them vote." if clipped else ""
    return f"{KNN.column} is {KNN.words}, and searches {searched}.{all_vote}"


def _paper_values(row, transfer: bool) -> dict[str, float]:
    readouts = row.places if transfer else row.imagenet
    knn = row.places_knn if transfer else row.imagenet_knn
    values = dict(zip(READOUTS, readouts, strict=True)) if readouts else {}
    return values | ({} if knn is None else {KNN.column: knn})


def columns_of(rows: list[TableRow]) -> list[str]:
    """The columns of a table, those without any number left out."""
    return [c for c in (*COLUMNS, PIXELS) if any(c in row.values for row in rows)]


def format_results(rows: list[TableRow]) -> str:
    """A table as text for a console; columns without any number are left out."""
    columns = columns_of(rows)
    width = max([len(row.name) for row in rows], default=0) + 2
    lines = ["".join([f"{'':{width}}", *(f"{c:>9}" for c in columns)])]
    for row in rows:
        cells = (f"{row.values[c]:9.1f}" if c in row.values else f"{'-':>9}" for c in columns)
        lines.append(f"{row.name:{width}}" + "".join(cells))
    return "\n".join(lines)
