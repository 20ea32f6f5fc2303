"""Writes report.html: the results, figures and configuration of a run, in one file."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from PIL import Image

from la_tf.analysis import curves, retrieval
from la_tf.analysis.clusters import clusters_part
from la_tf.analysis.density import bank_density, density_part, logged_density
from la_tf.analysis.extremes import extremes_part
from la_tf.analysis.html import data_uri, html_template
from la_tf.analysis.images import EmbeddedImages, RunImages
from la_tf.analysis.mds import mds_part
from la_tf.analysis.part import Part, Unavailable
from la_tf.analysis.photo_map import photo_map_part
from la_tf.analysis.sheets import sheet
from la_tf.data.base import DataError
from la_tf.errors import RunError, first_line
from la_tf.files import replace_file
from la_tf.results import run_facts
from la_tf.results.evaluations import read_evaluations
from la_tf.results.tables import milestone_rows, milestone_table, result_tables
from la_tf.runs.log import read_log
from la_tf.runs.trained_run import TrainedRun, open_images, open_run

REPORT = "report.html"
FIGURES = "figures"
AUGMENTED_VIEWS = "augmented_views.png"  # in FIGURES, from training


def write_report(
    run_dir: str,
    others: Sequence[str] = (),
    data: str | None = None,
    val_data: str | None = None,
    holdout: int = 0,
    say: Callable[[str], None] = print,
) -> pathlib.Path:
    """Writes report.html and figures/ into a run directory, finished or not, labelled or not.

    In place of a part that cannot be made stands the reason. Large data are sampled, and the
    captions say so: 5,000 rows of the bank for the densities, 10,000 images for the nearest pairs
    and the farthest, 500 on the map, 10,000 held-out images, and 50,000 training images where
    the bank is of others.

    Args:
      run_dir: as `tools/train.py` made it.
      others: runs whose densities are drawn too (Figure 2).
      data: with `val_data` and `holdout` as `open_images` takes it; by default the run's images,
        if they are still there.
      val_data: see `data`.
      holdout: see `data`.
      say: takes sentences for a person.

    Returns:
      The report's path.

    Raises:
      ConfigError, UserError: run or images cannot be used, or the report cannot be written.
    """
    run = open_run(run_dir)
    compared = [open_run(other) for other in others]
    of_images = _of_images(run, data, val_data, holdout, say)
    metrics, timing = _log(run, "metrics.jsonl"), _log(run, "timing.jsonl")
    records = metrics.value or []
    steps = run.steps_per_epoch
    schedule = run.config.schedule
    panels = curves.panels(records, timing.value or [], run.config, run.num_examples, steps)
    total_steps = schedule.epochs * steps
    rows, gallery = milestone_rows(records, run.warm_start_steps, total_steps, run.method)
    switch = run.warm_start_steps // steps
    drawn_curves = _attempt(lambda: curves.curves_part(panels, switch, run.epoch))
    density = _attempt(lambda: _densities([run, *compared]))
    sections = [
        _Section("curves", "Learning curves", drawn_curves),
        _Section("density", "Density of the embedding", density, "Figure 2"),
        _Section("photos", "Map of the images", of_images["photos"]),
        _Section("neighbours", "Nearest neighbours", of_images["neighbours"], "Figure 3"),
        _Section("clusters", "Clusters", of_images["clusters"]),
        _Section("extremes", "Nearest pairs and farthest images", of_images["extremes"]),
        _Section("map", "Map of classes", of_images["map"], "Figure 4"),
    ]
    page = html_template("la_tf.analysis", "report.html").render(
        name=_name(run),
        path=str(run.path),
        summary=run_facts.summary(run, records),
        warnings=[log.missing for log in (metrics, timing) if log.missing]
        + run_facts.warnings(run, records),
        milestones=milestone_table(rows, gallery) if rows else None,
        results=_attempt(lambda: result_tables(read_evaluations(run.path))),
        views=_attempt(lambda: _augmented_views(run)),
        sections=sections,
        configuration=run_facts.configuration(run.config, run.num_examples),
        environments=_attempt(lambda: run_facts.environments(run)),
    )
    try:
        _write_figures(run.path / FIGURES, sections)
        replace_file(run.path / REPORT, page.encode(errors="replace"))
    except OSError as error:
        raise RunError(
            f"the report cannot be written into {run.path}: {error.strerror}."
        ) from error
    return run.path / REPORT


@dataclasses.dataclass(frozen=True)
class _Attempt:
    """A part of the page, or the sentence that says why it is missing."""

    value: Any = None
    missing: str = ""


def _attempt(make: Callable[[], Any]) -> _Attempt:
    try:
        return _Attempt(make())
    except (Unavailable, RunError) as reason:
        return _Attempt(missing=str(reason))
    except tf.errors.OpError as error:
        # Large data are not decoded before they are used, see `check_images`.
        return _Attempt(missing=f"An image cannot be read: {first_line(error)}.")


@dataclasses.dataclass(frozen=True)
class _Section:
    """A part of the report with its heading, and which figure of the paper it is."""

    key: str
    heading: str
    attempt: _Attempt
    figure: str = ""


def _of_images(
    run: TrainedRun, data: str | None, val_data: str | None, holdout: int, say: Callable
) -> dict[str, _Attempt]:
    """The parts that need the images, by the keys of their sections."""
    keys = ("neighbours", "map", "photos", "clusters", "extremes")
    try:
        train, heldout = open_images(run, data, val_data, holdout, say)
    except DataError as error:
        if data is not None or val_data is not None:
            raise
        gone = _Attempt(
            missing=f"The images of the run are needed, and cannot be used: {error} If they have "
            "moved, give their place to tools/analyze.py as --data."
        )
        return dict.fromkeys(keys, gone)
    images = RunImages(run, train, heldout, say)
    gallery = _attempt(images.gallery)
    if gallery.missing:
        return dict.fromkeys(keys, gallery)
    return {
        "photos": _attempt(lambda: photo_map_part(images, gallery.value)),
        "clusters": _attempt(lambda: clusters_part(images, gallery.value)),
        "extremes": _attempt(lambda: extremes_part(images, images.as_used(gallery.value))),
        **_by_class(images, gallery.value),
    }


def _by_class(images: RunImages, gallery: EmbeddedImages) -> dict[str, _Attempt]:
    """Figures 3 and 4, which compare classes where there are any."""
    if not images.labelled:
        return {
            "neighbours": _attempt(lambda: retrieval.sampled_part(images, gallery)),
            "map": _Attempt(
                missing="Labelled held-out images are needed to choose classes; none exist."
            ),
        }
    queries = _attempt(images.queries)
    if queries.missing:
        return dict.fromkeys(("neighbours", "map"), queries)
    found = retrieval.classify(
        queries.value.vectors,
        gallery.vectors,
        gallery.source.labels,
        len(images.train.class_names),
        images.run.config.objective.tau,
    )
    return {
        "neighbours": _attempt(
            lambda: retrieval.labelled_part(images, gallery, queries.value, found)
        ),
        "map": _attempt(lambda: mds_part(images, queries.value, found)),
    }


def _augmented_views(run: TrainedRun) -> str:
    """The sheet of augmented views that training writes, as a data: address."""
    path = run.path / FIGURES / AUGMENTED_VIEWS
    try:
        with Image.open(path) as sheet:
            return data_uri(sheet, side=1200)
    except Exception as error:  # a damaged picture breaks Pillow in many ways
        raise Unavailable(
            f"There is no {FIGURES}/{AUGMENTED_VIEWS} that can be read; training writes it."
        ) from error


def _densities(runs: Sequence[TrainedRun]) -> Part:
    """Figure 2 of runs, under their names, or their paths where names are the same."""
    names = [_name(run) for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.path) for run in runs]
    found = []
    for name, run in zip(names, runs, strict=True):
        records = _log(run, "metrics.jsonl").value or []
        found += logged_density(f"{name} (end of IR)", records, run.step, run.num_examples)
        label = f"{name} ({run.objective})"
        found.append(bank_density(label, run.bank, run.config.schedule.seed))
    return density_part(found)


def _name(run: TrainedRun) -> str:
    return run.path.resolve().name


def _log(run: TrainedRun, name: str) -> _Attempt:
    """The records of one of the run's logs."""
    try:
        return _Attempt(read_log(run.path / name))
    except (OSError, ValueError) as error:
        return _Attempt(missing=f"{name} cannot be read ({error}): its numbers are left out.")


def _write_figures(folder: pathlib.Path, sections: Sequence[_Section]) -> None:
    """Writes every drawing as a file of its own."""
    folder.mkdir(exist_ok=True)
    for section in sections:
        part = section.attempt.value
        if part is None:
            continue
        for plot in part.plots:
            replace_file(folder / f"{plot.name}.svg", plot.svg.encode())
        if part.groups:
            replace_file(folder / f"{section.key}.png", sheet(part.groups))
