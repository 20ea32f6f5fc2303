"""The paper's protocols applied to a run: kNN and linear readouts (section 4.2)."""

import dataclasses
import functools
import shutil
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from la_tf.data.base import DataError, Source
from la_tf.data.identity import identify
from la_tf.data.multilabel import MultiLabels
from la_tf.data.pipeline import eval_dataset
from la_tf.embedding.embedder import Embedder, pixels
from la_tf.evaluation.knn import KS, clipped, knn_accuracy
from la_tf.evaluation.linear import ReadoutConfig, layer_features, pixel_features
from la_tf.evaluation.readout_training import ReadoutTraining
from la_tf.phases import UNTRAINED
from la_tf.results.evaluations import (
    BANK,
    CROPS,
    FOLDER,
    RAW_PIXELS,
    Evaluation,
    find_evaluation,
    require_own_name,
    write_evaluation,
)
from la_tf.results.knn_metric import KNN_METRICS
from la_tf.runs import runtime
from la_tf.runs.trained_run import TrainedRun


@dataclasses.dataclass(frozen=True)
class Task:
    """What a run is evaluated on: labels of `train_set` are given, those of `heldout` predicted.

    `name` is that of the data in tables and file names; `say` takes sentences for a person. Where
    an image may have several classes, `multi_labels` knows them, and the images need no label.
    """

    run: TrainedRun
    train_set: Source
    heldout: Source
    name: str
    say: Callable[[str], None] = print
    multi_labels: MultiLabels | None = None

    def __post_init__(self):
        """Checks that the images have labels and a name of their own.

        Raises:
          DataError: nothing is held out, or labels are missing.
          RunError: the name cannot be used.
        """
        if self.heldout is None:
            raise DataError(
                f"{self.train_set.name} has no held-out images: name some with --val_data."
            )
        for source in (self.train_set, self.heldout):
            if source.labels is None and self.multi_labels is None:
                raise DataError(
                    f"{source.name} has no labels, and an accuracy needs them: put the images of "
                    "each class into a folder of its own."
                )
        require_own_name(self.run.path, self.name, self.fingerprint)

    def row(self, row: str) -> str:
        """The name of a row in results: 'trained' becomes what the run was trained by last."""
        return self.run.objective if row == "trained" else row

    def network(self, row: str) -> tf.keras.Model:
        """The network of a row: the run's, or an untrained one."""
        run = self.run
        return run.network if row == run.objective else run.untrained_network()

    def evaluation(self, protocol: str, row: str, accuracy: dict, settings: dict, seconds: float):
        """An `Evaluation` of this task."""
        trained = row not in (RAW_PIXELS, UNTRAINED)
        return Evaluation(
            protocol=protocol,
            data=self.name,
            fingerprint=self.fingerprint,
            row=row,
            transfer=not self.in_bank,
            network=self.run.config.network.network,
            step=self.run.step if trained else 0,
            epoch=self.run.epoch if trained else 0.0,
            accuracy=accuracy,
            settings=settings,
            seconds=round(seconds, 1),
            environment=runtime.environment(),
        )

    @functools.cached_property
    def in_bank(self) -> bool:
        """Whether the bank holds the training images."""
        return self.run.holds(self.train_set)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the training and the held-out images."""
        known = self.multi_labels
        return "-".join(
            identify(source, known and known.of(source))["fingerprint"]
            for source in (self.train_set, self.heldout)
        )


def knn(task: Task, row: str, gallery: str = "auto") -> Evaluation:
    """kNN accuracy at K = 200 and K = 1, votes weighted by exp(s / tau).

    Args:
      task: run and images.
      row: 'trained', 'untrained' or 'raw pixels'.
      gallery: 'bank' (the ImageNet protocol), 'crops' (embeddings of centre crops of the training
        images, the Places protocol), or 'auto': the bank where it holds the embeddings of these
        images and of the trained network.

    Returns:
      The result, written to the run directory.

    Raises:
      DataError: the bank was asked for and holds other images, or another network's embeddings.
      RunError: the result cannot be written.
    """
    started = time.monotonic()
    run, row = task.run, task.row(row)
    in_bank = row == run.objective and task.in_bank
    if gallery == "bank" and not in_bank:
        raise DataError(
            f"the memory bank has no {row} rows for {task.train_set.name}: use --gallery=crops."
        )
    embed = pixels if row == RAW_PIXELS else Embedder(task.network(row))
    queries = embed(_views(task, task.heldout))
    from_bank = in_bank and gallery != "crops"
    keys = run.bank if from_bank else embed(_views(task, task.train_set))
    if note := clipped(len(keys)):
        task.say(note)
    labels = task.train_set.labels
    tau = run.config.objective.tau
    accuracy = knn_accuracy(queries, task.heldout.labels, keys, labels, KS, tau)
    settings = {
        "gallery": BANK if from_bank else CROPS,
        "k": [min(k, len(keys)) for k in KS],
        "tau": tau,
    }
    columns = {metric.column: accuracy[metric.k] for metric in KNN_METRICS}
    evaluation = task.evaluation("knn", row, columns, settings, time.monotonic() - started)
    write_evaluation(run.path, evaluation)
    return evaluation


def _views(task: Task, source: Source) -> tf.data.Dataset:
    return eval_dataset(source, image_size=task.run.config.data.image_size)


def linear(task: Task, row: str, config: ReadoutConfig) -> Evaluation:
    """Accuracy of linear readouts on conv1 to conv5, or on the pixels; `row` as for `knn`.

    Under a strategy, call it in its scope. An interrupted training is continued; a finished one
    with the same settings is not repeated.

    Returns:
      The result, written to the run directory, with the readouts beside it.

    Raises:
      DataError: fewer training images than a batch.
      RunError: the loss is not finite, memory is short, or files cannot be written.
    """
    run, row = task.run, task.row(row)
    settings = _settings(config, len(task.train_set))
    blank = task.evaluation("linear", row, {}, settings, 0.0)
    done = find_evaluation(run.path, blank)
    unfinished = run.path / FOLDER / f"{blank.key}.unfinished"
    if done is not None:
        # Left by a kill right after the result was written.
        shutil.rmtree(unfinished, ignore_errors=True)
        task.say(f"readouts of {row} on {task.name}: trained before, not trained again.")
        return done
    if row == RAW_PIXELS:
        features = pixel_features(run.config.data.image_size)
    else:
        features = layer_features(task.network(row))
    training = ReadoutTraining(
        features, task.train_set, config, unfinished, say=lambda line: task.say(f"{row}: {line}")
    )
    training.run()
    accuracy = training.finish(task.heldout)
    evaluation = dataclasses.replace(blank, accuracy=accuracy, seconds=round(training.seconds, 1))
    readouts = training.readouts.arrays() | {"class_names": np.array(task.train_set.class_names)}
    write_evaluation(run.path, evaluation, readouts)
    training.forget()
    return evaluation


def _settings(config: ReadoutConfig, num_examples: int) -> dict:
    optimizer = config.optimizer
    return {
        "epochs": config.epochs,
        "learning_rate": optimizer.learning_rate,
        "drop_epochs": list(optimizer.drop_epochs),
        "momentum": optimizer.momentum,
        "weight_decay": optimizer.weight_decay,
        "batch_size": config.batch_size,
        "crop": config.crop,
        "crops_validated": 10 if config.flip else 5,
        "seed": config.seed,
        "training_images": num_examples,
    }


def default_crop(task: Task) -> str:
    """The random crop of supplement B.1, which depends on the network and the images."""
    if task.run.config.network.network == "alexnet" or not task.in_bank:
        return "margin"
    return "area"
