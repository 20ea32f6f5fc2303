"""Runs and the paper's rows side by side, from the JSON files of run directories alone."""

import functools
import pathlib
from collections.abc import Iterable
from typing import Any

import pandas as pd

from la_tf.config import Config
from la_tf.errors import RunError
from la_tf.phases import DEEPCLUSTER, IR, LA, OBJECTIVES, phase_after
from la_tf.results.evaluations import (
    BANK,
    CROPS,
    MEAN_PRECISIONS,
    PIXELS,
    Evaluation,
    read_evaluations,
)
from la_tf.results.evaluations import COLUMNS as ACCURACIES
from la_tf.results.knn_metric import KNN, KNN_METRICS
from la_tf.results.paper_tables import CLOSEST, paper_rows
from la_tf.results.precision import VOC07
from la_tf.results.tables import grouped, percentages
from la_tf.runs.description import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    read_description,
    read_origin,
    read_starts,
)
from la_tf.runs.log import Record, read_log, records_with
from la_tf.runs.warm_start import warm_start_end

COLUMNS = (
    *("run", "network", "data", "objective", "epochs", "batch", "k", "H", "m"),
    *(*ACCURACIES, *MEAN_PRECISIONS, "gallery", "git commit", "hours", "hardware"),
)
FOOTNOTE = (
    "Accuracies are top-1 in percent; mAP, of linear SVMs, is in percent too. k, H and m are given "
    "where they were used. Hours are training steps and clustering; work repeated after a stop and "
    "steps taken over from another run count, evaluation does not. Rows marked (paper) were not "
    "measured here."
)
FORMATS = ("markdown", "csv")

_FORMAT = {
    "epochs": "{:g}",
    "hours": "{:.2f}",
    **dict.fromkeys((*ACCURACIES, *MEAN_PRECISIONS), "{:.1f}"),
}
_WHERE_THERE_ARE_ANY = (PIXELS, *MEAN_PRECISIONS)
_COMMIT_DIGITS = 10
# H and m of each network's LA row, and the batch and k of all of them (section 4.1).
_PAPER_CLUSTERS = {
    "alexnet": (3, 30_000),
    "vgg16": (6, 10_000),
    "resnet18": (10, 30_000),
    "resnet50": (10, 30_000),
}
_PAPER_BATCH, _PAPER_K = 128, 4096

# Column -> percent, number or text; without the columns that are unknown or do not apply.
Line = dict[str, Any]


def comparison(run_dirs: Iterable[str]) -> list[Line]:
    """The lines of several runs, finished or not, then the paper's rows for their networks.

    A run has a line for each data set, row and step that it was evaluated on; without any
    evaluation it has one, with the last kNN accuracy of its training. Evaluations on the images of
    training are followed by the paper's ImageNet rows (Table 1), others by its Places rows (Table
    2 there and in the supplement).

    Raises:
      RunError: some are no runs, or cannot be read; a line for each says why.
    """
    lines, problems = [], []
    tables: dict[tuple[str, bool], None] = {}  # (network, transfer), in the order they occur
    for run_dir in run_dirs:
        try:
            found = _run_lines(run_dir)
        except RunError as error:
            problems.append(str(error))
        else:
            lines += [line for line, _ in found]
            tables |= dict.fromkeys(
                (line["network"], transfer) for line, transfer in found if transfer is not None
            )
    if problems:
        raise RunError("\n".join(problems))
    return lines + _paper_lines(list(tables))


def hours(timing: list[Record], config: Config, steps_per_epoch: int, step: int) -> float:
    """Hours of training up to a step by timing.jsonl: steps, waiting for data, and clustering.

    Work repeated after a stop counts each time. After a kill this is exact to a logging interval:
    the log does not say at which step a run was killed, nor at which it resumed.
    """
    every, seconds = config.report.log_every_steps, 0.0
    for record in records_with(timing, "throughput", "images_per_second"):
        if record["step"] <= step and record["images_per_second"] > 0:
            # A record is written every few steps, counted from the beginning of each epoch.
            steps = (record["step"] - 1) % steps_per_epoch % every + 1
            seconds += steps * config.data.batch_size / record["images_per_second"]
    for record in records_with(timing, "clustering", "seconds"):
        if record["step"] <= step:
            seconds += record["seconds"]
    return seconds / 3600


def format_markdown(lines: list[Line]) -> str:
    """A Markdown table with its footnote; '-' is what is unknown or does not apply."""
    cells = _cells(lines).replace("", "-").replace({r"[\\|]": r"\\\g<0>", "\n": " "}, regex=True)
    rows = [list(cells.columns), *cells.to_numpy().tolist()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    table = [f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows]
    return "\n".join([*table, "", FOOTNOTE]) + "\n"


def format_csv(lines: list[Line]) -> str:
    """The table as CSV with a head; what is unknown or does not apply is empty."""
    return _cells(lines).to_csv(index=False)


def _cells(lines: list[Line]) -> pd.DataFrame:
    """All columns as text; those of raw pixels and of mAP only where they have a number."""
    columns = [
        c for c in COLUMNS if c not in _WHERE_THERE_ARE_ANY or any(c in line for line in lines)
    ]
    rows = [
        [_FORMAT.get(c, "{}").format(line[c]) if c in line else "" for c in columns]
        for line in lines
    ]
    heads = [f"{c} (K={KNN.k})" if c == KNN.column else c for c in columns]
    return pd.DataFrame(rows, columns=heads, dtype=object)


def _run_lines(run_dir: str) -> list[tuple[Line, bool | None]]:
    """The lines of one run, each with whether its network was trained on other images.

    That is None where the paper has no such numbers.
    """
    path = pathlib.Path(run_dir).expanduser()
    config, data = read_description(path)
    per_epoch = _steps_per_epoch(config, data)
    # (line, step, transfer)
    found = [
        (
            _evaluated(group, _data_name(config)),
            group[0].step,
            None if {e.protocol for e in group} == {VOC07} else group[0].transfer,
        )
        for group in grouped(read_evaluations(path))
    ]
    if not found:
        found = [(*_logged(config, _read_log(path / "metrics.jsonl"), per_epoch), False)]
    machine, hours_up_to = _machine(path), functools.cache(functools.partial(_hours, path))
    for line, step, _ in found:
        line |= {"run": run_dir, "network": config.network.network, **machine}
        if line["objective"] in (IR, *OBJECTIVES.values()):
            line["batch"] = config.data.batch_size
            if (taken := hours_up_to(step)) is not None:
                line["hours"] = taken
        if line["objective"] == LA:
            line["k"] = config.objective.k
            line["H"] = config.clustering.num_clusterings
        if line["objective"] in (LA, DEEPCLUSTER):
            line["m"] = config.clustering.num_clusters
    return [(line, transfer) for line, _, transfer in found]


def _hours(path: pathlib.Path, step: int) -> float | None:
    """Hours up to a step, with those of the run that the first steps were taken over from.

    None where a log or that run is missing.
    """
    timing, origin, before = _read_log(path / "timing.jsonl"), read_origin(path), 0.0
    if origin is not None and origin["option"] != "init_from":
        first = pathlib.Path(origin["path"]).expanduser()
        known = (first / CONFIG_FILE).exists()
        before = _hours(first, min(step, origin["step"])) if known else None
    if before is None or not timing:
        return None
    config, data = read_description(path)
    return before + hours(timing, config, _steps_per_epoch(config, data), step)


def _steps_per_epoch(config: Config, data: dict[str, Any]) -> int:
    """At least one: a start that failed may have had less than a batch."""
    return max(1, data["training set"]["examples"] // config.data.batch_size)


def _data_name(config: Config) -> str:
    return pathlib.Path(config.data.data.replace(":", "-")).name


def _transferred(data: str, trained_on: str) -> str:
    """What stands as the data of a network that was evaluated on other images than its own."""
    return f"{data} (trained on {trained_on})"


def _evaluated(group: list[Evaluation], trained_on: str) -> Line:
    """One line of all protocols on one data set, row and step."""
    first = group[0]
    data = _transferred(first.data, trained_on) if first.transfer else first.data
    line = {"data": data, "objective": first.row, "epochs": round(first.epoch, 2)}
    line |= percentages(group)
    for evaluation in group:
        if "gallery" in evaluation.settings:
            line["gallery"] = evaluation.settings["gallery"]
    return line


def _logged(config: Config, log: list[Record], per_epoch: int) -> tuple[Line, int]:
    """The line of a run without evaluations, and its steps done."""
    step = log[-1]["step"] if log else 0
    warm_start = warm_start_end(config, per_epoch, log)
    line = {
        "data": _data_name(config),
        "objective": phase_after(step, warm_start, config.method.method),
        "epochs": round(step / per_epoch, 2),
    }
    fields = [metric.field for metric in KNN_METRICS]
    if found := records_with(log, "knn", "epoch", *fields):
        newest = found[-1]
        line |= {metric.column: 100 * newest[metric.field] for metric in KNN_METRICS}
        line["gallery"] = BANK
        if newest["step"] != step:
            line["gallery"] += f" of epoch {newest['epoch']}"
    return line, step


def _machine(path: pathlib.Path) -> Line:
    """Commits and hardware of all starts, each once."""
    if not (path / ENVIRONMENT_FILE).exists():
        return {}
    commits, hardware = {}, {}  # as ordered sets
    for start in read_starts(path):
        if start.get("git_commit"):
            changed = "+" if start["git_commit"].endswith("+") else ""
            commits[start["git_commit"][:_COMMIT_DIGITS] + changed] = None
        cores = f"{start.get('cpu_cores', '?')} cores of {start.get('cpu', '?')}"
        devices = ", ".join(dict.fromkeys(start.get("gpus", ()))) or cores
        replicas = start.get("replicas", 1)
        hardware[f"{replicas} x {devices}" if replicas > 1 else devices] = None
    return {"git commit": ", ".join(commits), "hardware": ", ".join(hardware)}


def _paper_lines(tables: Iterable[tuple[str, bool]]) -> list[Line]:
    """The paper's rows for (network, transfer) pairs."""
    wanted = {}  # (network of the paper, transfer) -> what to call it
    for network, transfer in tables:
        relative = CLOSEST.get(network)
        if relative is None:
            wanted[network, transfer] = network
        else:
            wanted.setdefault((relative, transfer), f"{relative} (closest to {network})")
    lines = []
    for (network, transfer), name in wanted.items():
        for row in paper_rows(network):
            if not (accuracy := row.accuracy(transfer)):
                continue
            line = {"run": "(paper)", "network": name, "objective": row.method, **accuracy}
            line["data"] = _transferred("Places", "ImageNet") if transfer else "ImageNet"
            if KNN.column in accuracy:
                line["gallery"] = CROPS if transfer else BANK
            if row.method == LA:
                line |= {"batch": _PAPER_BATCH, "k": _PAPER_K}
                line["H"], line["m"] = _PAPER_CLUSTERS[network]
            lines.append(line)
    return lines


def _read_log(path: pathlib.Path) -> list[Record]:
    try:
        return read_log(path) if path.exists() else []
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}): restore it.") from error
