"""From a trained network and labelled images to a classifier that is kept."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from la_tf.classifier.fine_tuning import FineTuning, fine_tune
from la_tf.classifier.kept import (
    EXPORT,
    UNFINISHED,
    Record,
    own_directory,
    read_record,
    write_classifier,
)
from la_tf.classifier.readout import classifier_of, fit_readout
from la_tf.classifier.task import Task, quality, quality_by_class
from la_tf.config import DataConfig, NumericsConfig
from la_tf.data.pipeline import eval_dataset
from la_tf.embedding.embedder import Embedder
from la_tf.embedding.embedding_model import EmbeddingError, newest_version
from la_tf.errors import RunError
from la_tf.export.run import WEIGHTS
from la_tf.export.saved_model import plain_copy
from la_tf.export.weights import WeightsError, checksum, network_from_weights
from la_tf.networks import architecture_of
from la_tf.results.evaluations import READOUTS
from la_tf.runs import runtime
from la_tf.runs.trained_run import TrainedRun


@dataclasses.dataclass(frozen=True)
class Start:
    """What a classifier starts from.

    Attributes:
      network: images [B, S, S, 3] -> embeddings.
      origin: which network that is, ready for JSON.
      data: how its images were read; the defaults for those of the classifier.
      flip: whether a mirrored image may stand for the image.
      seed: of all that is drawn.
    """

    network: tf.keras.Model
    origin: dict[str, Any]
    data: DataConfig
    flip: bool = True
    seed: int = 0


def start_from_run(run: TrainedRun, say: Callable[[str], None] = print) -> Start:
    """The network of a run, finished or not."""
    if run.epoch < run.config.schedule.epochs:
        say(
            f"{run.path} is not finished: the network is that of step {run.step}, after "
            f"{run.epoch:.4g} of {run.config.schedule.epochs} epochs."
        )
    data, seed = dataclasses.replace(run.config.data, limit=0), run.config.schedule.seed
    return Start(run.network, _origin(run.network), data, run.config.augment.flip, seed)


def start_from_export(directory: pathlib.Path) -> Start:
    """The network of an export, by its plain weights.

    Raises:
      RunError: there are none, or they cannot be read.
    """
    runtime.configure(NumericsConfig(), seed=0)
    try:
        network = network_from_weights(directory / WEIGHTS)
    except WeightsError as error:
        raise RunError(str(error)) from error
    return Start(network, _origin(network), DataConfig())


def _origin(network: tf.keras.Model) -> dict[str, Any]:
    size = network.input_shape[1]
    return {"network": architecture_of(network), "image_size": size, "weights": checksum(network)}


def train_classifier(
    start: Start,
    task: Task,
    directory: pathlib.Path,
    layer: str | None = None,
    fine_tuning: FineTuning | None = None,
    say: Callable[[str], None] = print,
) -> Record:
    """Trains a classifier and keeps it; what is there with the same settings is not repeated.

    Args:
      start: the network.
      task: what is to be told apart.
      directory: gets `classifier.json` and `export/1`, in place of an older classifier.
      layer: on which the readout stands, conv1 to conv5. Default: the one that tells the training
        images apart best, by folds; conv5 where the network is fine-tuned.
      fine_tuning: train the weights of the network too. Default: the readout alone.
      say: takes sentences for a person.

    Raises:
      RunError: the loss is not finite, memory is short, or the directory cannot be used.
      ExportError: the classifier cannot be written, or its export differs from it.
    """
    settings = start.origin | {
        "images": task.fingerprint,
        "layer": layer or (READOUTS[-1] if fine_tuning else "the best"),
        "fine_tuning": fine_tuning and dataclasses.asdict(fine_tuning),
        "flip": start.flip,
        "seed": start.seed,
    }
    with own_directory(directory):
        if done := _done(directory, task, settings):
            say(f"{directory} holds this classifier: not trained again.")
            return done
        layers = READOUTS if settings["layer"] == "the best" else (settings["layer"],)
        network = start.network
        if fine_tuning is not None:  # of a copy: the network of the run stays as it is
            network = plain_copy(network, architecture_of(network), network.input_shape[1])
        readout = fit_readout(network, task, layers, start.flip, start.seed, say)
        model = classifier_of(network, readout)
        results = {
            "data": task.train.source.name,
            "training_images": len(task.train.source),
            "layer": readout.layer,
            "cost": readout.cost,
            "measure": task.measure,
        }
        if fine_tuning is None:
            results["in_folds"] = readout.quality
        else:
            unfinished = _unfinished(directory, settings)
            fine_tune(model, task, fine_tuning, start.seed, unfinished, say)
        record = Record(
            class_names=list(task.class_names),
            multi_label=task.multi_label,
            settings=settings,
            results=results | _held_out(model, task),
            environment=runtime.environment(),
        )
        write_classifier(directory, model, record, task.train.source.read(0))
    return record


def _done(directory: pathlib.Path, task: Task, settings: dict[str, Any]) -> Record | None:
    """The classifier of a directory, if it has these settings and is there."""
    with contextlib.suppress(RunError, EmbeddingError):
        record = read_record(directory)
        newest_version(directory / EXPORT)
        if (record["settings"], record["class_names"]) == (settings, list(task.class_names)):
            return record
    return None


def _unfinished(directory: pathlib.Path, settings: dict[str, Any]) -> pathlib.Path:
    """The folder of a fine-tuning of these settings; what is there of others goes."""
    folder = directory / UNFINISHED
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    for other in folder.glob("*"):
        if other.name != digest:
            shutil.rmtree(other, ignore_errors=True)
    return folder / digest


def _held_out(model: tf.keras.Model, task: Task) -> dict[str, Any]:
    """What the held-out images say of a classifier; nothing without them."""
    if task.heldout is None:
        return {}
    source, targets = task.heldout.source, task.heldout.targets
    logits = Embedder(model)(eval_dataset(source, image_size=model.input_shape[1]))
    by_class = quality_by_class(logits, targets, task.multi_label)
    found = {
        "held_out": quality(logits, targets, task.multi_label),
        "held_out_images": len(source),
        "by_class": {
            name: None if np.isnan(value) else float(value)
            for name, value in zip(task.class_names, by_class, strict=True)
        },
    }
    if not task.multi_label:
        largest = int(task.train.targets.sum(axis=0).argmax())
        found["always_the_largest_class"] = float(targets[:, largest].mean())
    return found
