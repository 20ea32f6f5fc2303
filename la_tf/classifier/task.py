"""The images that a classifier is trained and tried on, and how well scores fit their classes."""

import dataclasses
import os
import pathlib
from collections.abc import Callable

import numpy as np

from la_tf.config import DataConfig
from la_tf.data.base import DataError, Source
from la_tf.data.checks import keep_good_images
from la_tf.data.identity import identify
from la_tf.data.multilabel import PRESENT, read_labels_csv
from la_tf.data.sources import open_train_and_val
from la_tf.evaluation.svm import class_precisions

LEAST = 2  # images with a class, and without it: one to train on and one to try it on


@dataclasses.dataclass(frozen=True)
class Examples:
    """N images, and bool [N, C], which of C classes each has."""

    source: Source
    targets: np.ndarray


@dataclasses.dataclass(frozen=True)
class Task:
    """What is to be told apart.

    Attributes:
      class_names: C names.
      multi_label: whether an image may have any number of classes; else it has one.
      train: to learn from.
      heldout: to try the classifier on, or None.
    """

    class_names: tuple[str, ...]
    multi_label: bool
    train: Examples
    heldout: Examples | None

    @property
    def measure(self) -> str:
        """What `quality` is called."""
        return "mAP" if self.multi_label else "accuracy"

    @property
    def fingerprint(self) -> str:
        """Of all images, their order and their classes."""
        parts = (self.train,) if self.heldout is None else (self.train, self.heldout)
        return "-".join(identify(part.source, part.targets)["fingerprint"] for part in parts)


def open_task(
    config: DataConfig,
    seed: int,
    labels_csv: str | os.PathLike | None = None,
    say: Callable[[str], None] = print,
) -> Task:
    """Opens labelled images.

    Args:
      config: `data`, `val_data` and `holdout`, see `open_train_and_val`; `skip_bad_images` and
        `max_megapixels`.
      seed: chooses what `holdout` takes.
      labels_csv: of images with any number of classes, see `read_labels_csv`; its names are
        relative to `data`. Default: each image has one class, that of its folder.
      say: takes a sentence about images left out.

    Raises:
      DataError: images or classes are missing or unusable, or a class has too few images.
    """
    parts = [part for part in open_train_and_val(config, seed) if part is not None]
    parts = [keep_good_images(part, config, say) for part in parts]
    if labels_csv is not None:
        labels = read_labels_csv(labels_csv, pathlib.Path(config.data).expanduser())
        class_names = labels.class_names
        examples = [Examples(part, labels.of(part) == PRESENT) for part in parts]
    else:
        for part in parts:
            if part.labels is None:
                raise DataError(
                    f"{part.name} has no labels: put the images of each class into a folder of its "
                    "own, or list their classes in a CSV file and name that with --labels_csv."
                )
        class_names = parts[0].class_names
        known = np.eye(len(class_names), dtype=bool)
        examples = [Examples(part, known[part.labels]) for part in parts]
    task = Task(class_names, labels_csv is not None, *examples, *[None] * (2 - len(examples)))
    _require_enough(task)
    if task.heldout is not None and not task.heldout.targets.any():
        raise DataError(f"no held-out image of {task.heldout.source.name} has a class: name some.")
    return task


def _require_enough(task: Task) -> None:
    names, name = task.class_names, task.train.source.name
    if len(names) == 1 and not task.multi_label:
        raise DataError(
            f"{name} has one class, {names[0]}: add images of what it is to be told from."
        )
    has = task.train.targets
    for word, counts in (("with", has.sum(axis=0)), ("without", (~has).sum(axis=0))):
        if few := [i for i in range(len(names)) if counts[i] < LEAST]:
            more = f", and {len(few) - 1} more classes have as few" if len(few) > 1 else ""
            raise DataError(
                f"there are {counts[few[0]]} training images of {name} {word} the class "
                f"{names[few[0]]}{more}: {LEAST} are needed, so add some or leave the class out."
            )


def quality(scores: np.ndarray, targets: np.ndarray, multi_label: bool) -> float:
    """How well scores tell classes.

    Args:
      scores: [N, C]; the larger the likelier.
      targets: bool [N, C].
      multi_label: whether images have any number of classes.

    Returns:
      The share of images whose class has the largest score; with several classes an image, the mean
      of `quality_by_class` over the classes that any image has. In 0..1.
    """
    if multi_label:
        return float(np.nanmean(quality_by_class(scores, targets, multi_label)))
    return float(targets[np.arange(len(targets)), scores.argmax(axis=1)].mean())


def quality_by_class(scores: np.ndarray, targets: np.ndarray, multi_label: bool) -> np.ndarray:
    """The same of each class, [C]: the share of its images that are right, or average precision.

    That is the area under precision and recall. A class without images has nan.
    """
    if multi_label:
        return class_precisions(scores, np.where(targets, 1, -1), eleven_points=False)
    right = targets[np.arange(len(targets)), scores.argmax(axis=1)]
    counts = targets.sum(axis=0)
    shares = (targets & right[:, np.newaxis]).sum(axis=0) / np.maximum(counts, 1)
    return np.where(counts > 0, shares, np.nan)
