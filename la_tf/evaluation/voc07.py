"""Classification with several classes an image, by linear SVMs on frozen layers.

The protocol of Goyal et al. (ICCV 2019) for PASCAL VOC2007, see `svm`, on any images with classes.
"""

import dataclasses
import os
import pathlib
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from la_tf.data.base import DataError
from la_tf.data.checks import keep_good_images
from la_tf.data.multilabel import open_voc, read_labels_csv
from la_tf.evaluation import svm
from la_tf.evaluation.linear import centre_features, layer_features, pixel_features
from la_tf.evaluation.protocols import Task
from la_tf.results import precision
from la_tf.results.evaluations import RAW_PIXELS, Evaluation, find_evaluation, write_evaluation
from la_tf.runs.trained_run import TrainedRun, open_images

# Maps are average-pooled to fit, as there: they have 8,192 to 9,600 numbers a layer.
MAX_FEATURES = 10_000


def voc_task(
    run: TrainedRun,
    voc_dir: str | os.PathLike,
    train_split: str,
    test_split: str,
    name: str,
    say: Callable[[str], None] = print,
) -> Task:
    """A run to be evaluated on PASCAL VOC; arguments as for `open_voc` and `Task`.

    Raises:
      VOCError: the images or their annotations cannot be used.
      DataError: an image cannot be decoded.
      RunError: the name cannot be used.
    """
    *sources, labels = open_voc(voc_dir, train_split, test_split)
    train_set, heldout = (keep_good_images(source, run.config.data, say) for source in sources)
    return Task(run, train_set, heldout, name, say, labels)


def csv_task(
    run: TrainedRun,
    labels_csv: str | os.PathLike,
    data: str,
    holdout: int,
    name: str,
    say: Callable[[str], None] = print,
) -> Task:
    """A run to be evaluated on a folder of images whose classes a CSV file lists.

    Args:
      run: what is evaluated.
      labels_csv: see `read_labels_csv`; its names are relative to `data`.
      data: a folder of images, or one with the folders train and val or test.
      holdout: how many images are taken out to test on, where there are no such folders.
      name: of the data.
      say: takes sentences for a person.

    Raises:
      DataError: the images or the CSV file cannot be used.
      RunError: the name cannot be used.
    """
    labels = read_labels_csv(labels_csv, pathlib.Path(data).expanduser())
    train_set, heldout = open_images(run, data, holdout=holdout, say=say)
    if heldout is None:
        raise DataError(
            f"{data} has no images to test on: put them into its folder test, and the others into "
            "train, or hold some out with --holdout."
        )
    return Task(run, train_set, heldout, name, say, labels)


def voc07(task: Task, row: str, draws: int) -> Evaluation:
    """mAP of SVMs on conv1 to conv5, or on the pixels; under the names in `results.precision`.

    What was computed before with the same settings is not repeated.

    Args:
      task: with `multi_labels`.
      row: 'trained', 'untrained' or 'raw pixels'.
      draws: of the low-shot form; 0 leaves it out.

    Returns:
      The result, written to the run directory.

    Raises:
      DataError: a class has too few images.
      RunError: memory is short, or the result cannot be written.
    """
    started = time.monotonic()
    run, row, labels = task.run, task.row(row), task.multi_labels
    marks, test_marks = labels.of(task.train_set), labels.of(task.heldout)
    svm.require_enough(marks, test_marks, labels.class_names, task.name)
    shots = svm.usable_shots(marks) if draws else []
    settings = {
        "classes": list(labels.class_names),
        "costs": list(svm.COSTS),
        "shots": shots,
        "low_shot_cost": svm.LOW_SHOT_COST,
        "draws": draws,
        "seed": run.config.schedule.seed,
        "training_images": len(marks),
        "test_images": len(test_marks),
    }
    blank = task.evaluation(precision.VOC07, row, {}, settings, 0.0)
    if done := find_evaluation(run.path, blank):
        task.say(f"SVMs of {row} on {task.name}: trained before, not trained again.")
        return done
    if shots and len(shots) < len(svm.SHOTS):
        rarest = labels.class_names[int(np.argmin((marks == 1).sum(axis=0)))]
        task.say(f"{rarest} has few images: the low-shot form ends at {shots[-1]} a class.")
    features = _features(task, row)
    train, test = (
        centre_features(features, source, "take fewer images")
        for source in (task.train_set, task.heldout)
    )
    found = {}
    for layer in list(train):
        # Each layer's features go when its SVMs are trained.
        rows, test_rows = svm.prepared(train.pop(layer), test.pop(layer))
        scores = svm.svm_scores(rows, marks, test_rows)
        by_class = svm.class_precisions(scores, test_marks, eleven_points=True)
        area = svm.class_precisions(scores, test_marks, eleven_points=False)
        found[precision.mean_of(layer)] = float(by_class.mean())
        found[precision.area_of(layer)] = float(area.mean())
        for name, value in zip(labels.class_names, by_class, strict=True):
            found[precision.class_of(layer, name)] = float(value)
        task.say(f"{row}: {layer}: mAP {by_class.mean():.1%}")
        orders = [svm.draw_order(len(marks), settings["seed"], draw) for draw in range(draws)]
        for count in shots:
            drawn = [svm.low_shot_scores(rows, marks, test_rows, count, order) for order in orders]
            means = [svm.class_precisions(s, test_marks, eleven_points=True).mean() for s in drawn]
            found[precision.shots_of(layer, count)] = float(np.mean(means))
            if draws > 1:
                found[precision.deviation_of(layer, count)] = float(np.std(means, ddof=1))
    seconds = round(time.monotonic() - started, 1)
    evaluation = dataclasses.replace(blank, accuracy=found, seconds=seconds)
    write_evaluation(run.path, evaluation)
    return evaluation


def _features(task: Task, row: str) -> tf.keras.Model:
    """Images [B, S, S, 3] -> {layer: [B, F]} of what a row names."""
    if row == RAW_PIXELS:
        return pixel_features(task.run.config.data.image_size, MAX_FEATURES)
    return layer_features(task.network(row), MAX_FEATURES)
