"""Tables of accuracies, laid out once for the console, the report and the model card."""

import collections
import dataclasses
import math
from collections.abc import Sequence

import pandas as pd

from la_tf.phases import IR, LA, phase_after
from la_tf.results import precision
from la_tf.results.evaluations import COLUMNS, PIXELS, READOUTS, ROWS, Evaluation
from la_tf.results.knn_metric import KNN, KNN_METRICS
from la_tf.results.paper_tables import paper_rows
from la_tf.runs.log import Record, records_with

# Of the paper's methods those with a counterpart here, and its clustering baseline.
_PAPER_METHODS = ("Random", IR, "IR (with BN)", "DC", LA)

Row = tuple[str, float, float]


@dataclasses.dataclass(frozen=True)
class Table:
    """Accuracies or precisions in percent.

    Attributes:
      caption: what was measured, and how.
      numbers: a named row for each network; NaN where there is no number.
      num_paper: how many of the first rows are the paper's.
      deviations: of the numbers, where they are means; NaN where there is none.
    """

    caption: str
    numbers: pd.DataFrame
    num_paper: int = 0
    deviations: pd.DataFrame | None = None

    @property
    def cells(self) -> pd.DataFrame:
        """The numbers as text with one decimal; '-' where there is none."""
        cells = self.numbers.map(lambda number: "-" if pd.isna(number) else f"{number:.1f}")
        if self.deviations is None:
            return cells
        return cells + self.deviations.map(lambda d: "" if pd.isna(d) else f" ± {d:.1f}")

    def __str__(self) -> str:
        """Caption and table for a console."""
        return f"{self.caption}\n\n{self.cells.to_string()}"


def milestone_rows(
    records: Sequence[Record],
    warm_start_steps: int,
    total_steps: int,
    method: str = "local_aggregation",
) -> tuple[list[Row], str]:
    """Held-out kNN from a run's records in metrics.jsonl.

    At the milestones, where the run has them; else against the memory bank at the ends of the two
    phases.

    Returns:
      Rows of (name, accuracy at K = 200, at K = 1), and what was searched, in words.
    """
    ends = {min(warm_start_steps, total_steps), total_steps} - {0}
    names = {step: f"end of {phase_after(step, warm_start_steps, method)}" for step in ends}
    fields = [metric.field for metric in KNN_METRICS]
    found = [(r["name"], r) for r in records_with(records, "milestone", "name", *fields)]
    gallery = (
        "centre crops of the training images (while training, against the memory bank)"
        if found
        else "the memory bank"
    )
    found = found or [
        (names[r["step"]], r) for r in records_with(records, "knn", *fields) if r["step"] in names
    ]
    return [(name, *(r[field] for field in fields)) for name, r in found], gallery


def milestone_table(rows: Sequence[Row], gallery: str) -> Table:
    """What `milestone_rows` finds, as a table."""
    names, *columns = zip(*rows, strict=True)
    words = [metric.words for metric in KNN_METRICS]
    numbers = 100 * pd.DataFrame(dict(zip(words, columns, strict=True)), index=names)
    return Table(f"Held-out kNN accuracy in percent, against {gallery}.", numbers)


def result_tables(evaluations: Sequence[Evaluation]) -> list[Table]:
    """For each data set that a run was evaluated on, a `result_table` or `precision_tables`."""
    tables = []
    for data in dict.fromkeys(e.data for e in evaluations):
        ours = [e for e in evaluations if e.data == data]
        if any(e.protocol != precision.VOC07 for e in ours):
            tables.append(result_table(ours, data))
        tables += precision_tables([e for e in ours if e.protocol == precision.VOC07], data)
    return tables


def result_table(evaluations: Sequence[Evaluation], data: str) -> Table:
    """The paper's rows for the network of a run, then its own, for one data set.

    Beside images that the network was trained on stand the paper's ImageNet numbers (Table 1),
    beside others its Places numbers (Table 2 there and in the supplement). Columns without any
    number are left out.
    """
    ours = [e for e in evaluations if e.data == data and e.protocol != precision.VOC07]
    transfer = any(e.transfer for e in ours)
    images = "Places" if transfer else "ImageNet"
    paper = [
        (f"{row.method}, {row.network}, {images} (paper)", accuracy)
        for row in paper_rows(ours[0].network)
        if row.method in _PAPER_METHODS and (accuracy := row.accuracy(transfer))
    ]
    names, values = zip(
        *paper, *((_name(group, ours), percentages(group)) for group in grouped(ours)), strict=True
    )
    numbers = pd.DataFrame(values, index=names, columns=COLUMNS).dropna(axis="columns", how="all")
    caption = f"{data}: top-1 accuracy in percent. {_knn_note(ours)}".rstrip()
    return Table(caption, numbers, len(paper))


def precision_tables(evaluations: Sequence[Evaluation], data: str) -> list[Table]:
    """What SVMs on frozen layers reach on one data set: mAP, by class, and with few images.

    Tables without any number are left out.
    """
    lines = {_name(group, evaluations): group[0] for group in grouped(evaluations)}
    layers = (*READOUTS, PIXELS)
    means = {
        name: {x: e.accuracy[key] for x in layers if (key := precision.mean_of(x)) in e.accuracy}
        for name, e in lines.items()
    }
    by_class, few, deviations = {}, {}, {}
    for name, e in lines.items():
        of = e.accuracy.get
        if means[name]:
            best = max(means[name], key=means[name].get)
            classes = e.settings.get("classes", ())
            by_class[f"{name}, {best}"] = {c: of(precision.class_of(best, c)) for c in classes}
        for x in means[name]:
            shots, row = e.settings.get("shots", ()), f"{name}, {x}"
            few[row] = {k: of(precision.shots_of(x, k)) for k in shots}
            deviations[row] = {k: of(precision.deviation_of(x, k)) for k in shots}
    draws = dict.fromkeys(str(e.settings.get("draws", "?")) for e in lines.values())
    few = _percent(few, "index")
    found = (
        Table(
            f"{data}: mean average precision (mAP) in percent by eleven points, of linear SVMs on "
            "each layer.",
            _percent(means, "index", layers),
        ),
        Table(
            f"{data}: average precision of each class in percent, on the layer with the largest "
            "mAP.",
            _percent(by_class, "columns"),
        ),
        Table(
            f"{data}: mAP in percent after training on so many images a class; means and standard "
            f"deviations over {' or '.join(draws)} draws.",
            few,
            deviations=_percent(deviations, "index").reindex_like(few),
        ),
    )
    return [table for table in found if not table.numbers.empty]


def _percent(shares: dict[str, dict], orient: str, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Shares as percent, without columns that have none; of rows or, with 'columns', of columns."""
    frame = pd.DataFrame.from_dict(shares, orient, dtype=float)
    if columns:
        frame = frame.reindex(columns=columns)
    return 100 * frame.dropna(axis="columns", how="all")


def grouped(evaluations: Sequence[Evaluation]) -> list[list[Evaluation]]:
    """The evaluations that share a line: all protocols on the same images, row and step.

    Where a protocol was applied with several settings, each has a line.
    """
    counts = collections.Counter()
    lines: dict[tuple, list[Evaluation]] = {}
    for e in sorted(evaluations, key=lambda e: (e.data, ROWS.index(e.row), e.step)):
        subject = (e.data, e.fingerprint, e.row, e.step)
        counts[subject, e.protocol] += 1
        lines.setdefault((subject, counts[subject, e.protocol]), []).append(e)
    return list(lines.values())


def percentages(line: Sequence[Evaluation]) -> dict[str, float]:
    """Column -> percent, of all evaluations of a line."""
    return {column: 100 * share for e in line for column, share in e.accuracy.items()}


def _name(line: Sequence[Evaluation], every: Sequence[Evaluation]) -> str:
    """The row of a line, with what tells it from the other lines of the same row."""
    row = line[0].row
    of_row = [e for e in every if e.row == row]
    details = [f"epoch {line[0].epoch:.4g}"] if len({e.step for e in of_row}) > 1 else []
    for e in line:
        if sum((other.step, other.protocol) == (e.step, e.protocol) for other in of_row) > 1:
            details.append(_setting(e))
    return f"{row} ({', '.join(details)})" if details else row


def _setting(evaluation: Evaluation) -> str:
    """How a protocol was applied, in a few words."""
    settings = evaluation.settings
    if evaluation.protocol == "knn":
        return settings.get("gallery", "?")
    if evaluation.protocol == precision.VOC07:
        return f"{settings.get('draws', '?')} draws"
    epochs, crop = (settings.get(name, "?") for name in ("epochs", "crop"))
    return (
        f"readouts: {epochs} epochs, rate {settings.get('learning_rate', math.nan):g}, {crop} crops"
    )


def _knn_note(evaluations: Sequence[Evaluation]) -> str:
    """What kNN searched in each row, in sentences; empty without kNN."""
    knn = [e for e in evaluations if e.protocol == "knn"]
    if not knn:
        return ""
    rows_of: dict[str, dict[str, None]] = {}  # the inner dicts are ordered sets
    for e in knn:
        rows_of.setdefault(e.settings.get("gallery", "?"), {})[e.row] = None
    searched = " and ".join(f"{g} ({', '.join(rows)})" for g, rows in rows_of.items())
    few = any(max(e.settings.get("k", ()), default=KNN.k) < KNN.k for e in knn)
    all_vote = f" There are fewer than {KNN.k} images, so all of them vote." if few else ""
    return f"{KNN.column} is {KNN.words}, and searches {searched}.{all_vote}"
