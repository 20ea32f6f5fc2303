"""What a report says of a run in words: what it is, how it went, and on what it ran."""

import dataclasses
import itertools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from la_tf.config import Config, ConfigError
from la_tf.phases import DEEPCLUSTER, IR, LA, SUPERVISED, UNTRAINED
from la_tf.resolve import resolve
from la_tf.results.knn_metric import KNN, KNN1
from la_tf.runs.description import Origin, read_starts
from la_tf.runs.health import EXPORTED, HealthMonitor
from la_tf.runs.log import Record, records_with
from la_tf.runs.trained_run import TrainedRun

OBJECTIVES = {
    UNTRAINED: "Untrained",
    IR: "Instance recognition",
    LA: "Local Aggregation",
    DEEPCLUSTER: "DeepCluster",
    SUPERVISED: "Classification",
}


class Fact(NamedTuple):
    """One line of the summary."""

    term: str
    value: str
    note: str


def summary(run: TrainedRun, metrics: Sequence[Record]) -> list[Fact]:
    """What the run is, how far it has come, and how good it is now."""
    config, heldout = run.config, run.data.get("held-out set")
    clustering = config.clustering
    accuracy, knn_note = "not measured", "it needs labelled held-out images"
    if measured := records_with(metrics, "knn", "epoch", KNN.field, KNN1.field):
        last = measured[-1]
        accuracy = f"{last[KNN.field]:.1%}"
        knn_note = (
            f"with {KNN.words}, {last[KNN1.field]:.1%} with {KNN1.words}; against the memory bank, "
            f"at epoch {last['epoch']}"
        )
    weights = f"{run.network.count_params():,} weights, embeddings of {config.network.dim}"
    images = f"{config.data.data}, at {config.data.image_size} pixels; "
    images += f"{heldout['examples']:,} held out" if heldout else "none held out"
    steps = f"{run.step:,} steps of {config.data.batch_size} images"
    facts = [
        Fact("Network", config.network.network, weights),
        Fact("Training images", f"{run.num_examples:,}", images),
        Fact("Objective", OBJECTIVES[run.objective], _phases(config)),
        Fact("Epochs", f"{run.epoch:.4g} of {config.schedule.epochs}", steps),
        Fact("Held-out kNN", accuracy, knn_note),
    ]
    if run.origin is not None:
        facts.append(_beginning(run.origin))
    if run.method == "local_aggregation":
        h = clustering.num_clusterings
        clusters = f"m = {clustering.num_clusters:,} clusters, H = {h} clusterings"
        facts.append(Fact("Neighbours", f"k = {config.objective.k:,}", clusters))
    elif run.method == "deepcluster":
        note = "clusters of its features, found anew in every round"
        facts.append(Fact("Pseudo-classes", f"m = {clustering.num_clusters:,}", note))
    return facts


def _beginning(origin: Origin) -> Fact:
    """What the run began with; of the path its name alone, since pages are passed on."""
    name, step = pathlib.Path(origin["path"]).name, origin.get("step")
    if origin["option"] != "init_from":
        what = "the warm start" if origin["option"] == "warm_start" else "all"
        return Fact("Goes on from", name, f"{what} of its first {step:,} steps")
    after = "" if step is None else f"after {step:,} steps, "
    return Fact("Begins with", name, f"its weights {after}of SHA-256 {origin['weights']}")


def _phases(config: Config) -> str:
    schedule = config.schedule
    if config.method.method != "local_aggregation":
        labels = "with" if config.method.method == "supervised" else "without"
        return f"a baseline, trained {labels} labels"
    if schedule.ir_epochs >= schedule.epochs:
        return "only instance recognition"
    if not schedule.ir_epochs:
        return "without a warm start"
    epochs = "an epoch" if schedule.ir_epochs == 1 else f"{schedule.ir_epochs} epochs"
    if schedule.ir_until_plateau:
        epochs += " at most, until its loss levelled off"
    return f"instance recognition for {epochs}, then Local Aggregation"


def warnings(run: TrainedRun, metrics: Sequence[Record]) -> list[str]:
    """What limits the numbers: an unfinished run, lost work, and signs of failed training."""
    said = []
    planned = run.config.schedule.epochs
    if run.epoch < planned:
        said.append(
            f"This run is not finished: {run.epoch:.4g} of {planned} epochs are done. The command "
            "that started it continues it."
        )
    logged = max((record["step"] for record in metrics), default=0)
    if logged > run.step:
        said.append(
            f"The log reaches step {logged:,}, but the newest checkpoint is of step {run.step:,}: "
            "curves and tables show the log, figures of embeddings and images the checkpoint."
        )
    monitor = HealthMonitor(run.config.network.dim, said.append)
    for record in records_with(metrics, "train", "loss", "steps", "spread", "empty_close"):
        monitor(record)
    for record in records_with(metrics, EXPORTED, "similarity")[-1:]:
        monitor(record)
    return said


class Option(NamedTuple):
    """One option of a configuration, with what `Config` says of it."""

    name: str
    value: str
    changed: bool
    help: str
    paper: str


class ConfigSection(NamedTuple):
    """The options of one section."""

    name: str
    about: str
    options: list[Option]


def configuration(config: Config, num_examples: int) -> list[ConfigSection]:
    """Every option by section.

    Args:
      config: resolved; what the library chose for it counts as its default.
      num_examples: N, training images.
    """
    sections = []
    for section in dataclasses.fields(config):
        options = []
        for field in dataclasses.fields(section.type):
            value = getattr(getattr(config, section.name), field.name)
            about = field.metadata["help"], field.metadata["section"]
            changed = value != field.default and not _chosen(
                config, section.name, field, num_examples
            )
            options.append(Option(field.name, _plain(value), changed, *about))
        about = section.type.__doc__.splitlines()[0]
        sections.append(ConfigSection(section.name, about, options))
    return sections


def _chosen(config: Config, section: str, field: dataclasses.Field, num_examples: int) -> bool:
    """Whether an option has the value that the library chooses where none is given."""
    if field.default is not None:
        return False
    options = dataclasses.replace(getattr(config, section), **{field.name: None})
    try:
        return resolve(dataclasses.replace(config, **{section: options}), num_examples) == config
    except ConfigError:  # of a run that another version trained
        return False


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == () or value == []:
        return "none"
    if isinstance(value, (tuple, list)):
        return ", ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def environments(run: TrainedRun) -> dict[str, dict[str, str]]:
    """The environment of every start; of consecutive equal ones, one.

    Returns:
      Which starts, in words -> name -> value.

    Raises:
      RunError: environment.json cannot be read.
    """
    found, first = {}, 1
    for environment, group in itertools.groupby(read_starts(run.path)):
        last = first + len(list(group)) - 1
        span = f"Start {first}" if first == last else f"Starts {first} to {last}"
        found[span] = _flat(environment)
        first = last + 1
    return found


def _flat(environment: Record) -> dict[str, str]:
    """One level instead of two, and text for values."""
    flat = {}
    for name, value in environment.items():
        if isinstance(value, dict):
            flat |= {inner: _plain(v) for inner, v in value.items()}
        else:
            flat[name.replace("_", " ")] = _plain(value)
    return flat
