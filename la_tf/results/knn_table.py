"""The short table that a run ends with."""

from typing import Any

from la_tf.phases import phase_after
from la_tf.results.knn_metric import KNN, KNN1

Row = tuple[str, float, float]


def table_rows(
    records: list[dict[str, Any]], warm_start_steps: int, total_steps: int
) -> tuple[list[Row], str]:
    """Held-out kNN from a run's records.

    Milestones, when the run has them; else the kNN against the bank at the ends of the two phases.

    Args:
      records: of metrics.jsonl.
      warm_start_steps: steps of instance recognition.
      total_steps: steps of the whole run.

    Returns:
      Rows of (name, accuracy at K = 200, at K = 1), and what was searched, in words.
    """
    milestones = [record for record in records if record["kind"] == "milestone"]
    if milestones:
        rows = [(r["name"], *_accuracies(r)) for r in milestones]
        return rows, "centre crops of the training images"
    ends = {min(warm_start_steps, total_steps), total_steps} - {0}
    names = {step: f"end of {phase_after(step, warm_start_steps)}" for step in ends}
    rows = [
        (names[record["step"]], *_accuracies(record))
        for record in records
        if record["kind"] == "knn" and record["step"] in names
    ]
    return rows, "the memory bank"


def _accuracies(record: dict[str, Any]) -> tuple[float, float]:
    return record[KNN.field], record[KNN1.field]


def format_table(rows: list[Row], gallery: str) -> str:
    """The table as text for a console."""
    lines = [f"Held-out kNN accuracy against {gallery}:", ""]
    lines.append(f"  {'':20} {KNN.words:>8} {KNN1.words:>8}")
    lines += [f"  {name:20} {100 * a:7.1f}% {100 * b:7.1f}%" for name, a, b in rows]
    return "\n".join(lines)
