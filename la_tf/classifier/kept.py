"""A classifier on disk: a SavedModel, and what it was trained on and how well it does."""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypedDict

import numpy as np
import tensorflow as tf

from la_tf.classifier.readout import probabilities
from la_tf.data.augment import center_view
from la_tf.embedding.embedding_model import CLASSIFIER
from la_tf.errors import RunError
from la_tf.export.saved_model import (
    PROBE_TOLERANCE,
    VERSION,
    ExportError,
    MismatchError,
    cannot_be_written,
    center_views,
    own_folder,
)
from la_tf.files import lock, pattern_in, replace_folder, write_json
from la_tf.stored import StoredFileError, read_json

RECORD = "classifier.json"
EXPORT = "export"
UNFINISHED = "unfinished"  # a fine-tuning that was stopped
_LOCK = ".lock"
_OWN = {RECORD, EXPORT, UNFINISHED, _LOCK}


class Record(TypedDict):
    """What RECORD holds.

    `settings` is all that the classifier depends on, `results` how well it does.
    """

    class_names: list[str]
    multi_label: bool
    settings: dict[str, Any]
    results: dict[str, Any]
    environment: dict[str, Any]


class ClassifierModule(tf.Module):
    """A classifier with its preprocessing."""

    def __init__(self, model: tf.keras.Model, class_names: Sequence[str], multi_label: bool):
        """Wraps a model: images [B, S, S, 3] -> logits [B, C]."""
        super().__init__(name="classifier")
        self.tensors = model.variables
        # Behind a function: else every layer would be exported, and traced, by itself as well.
        self._logits = lambda views: model(views, training=False)
        self._image_size = model.input_shape[1]
        self._class_names = tuple(class_names)
        self._multi_label = multi_label

    def signatures(self) -> dict[str, Callable]:
        """The functions of an export by name.

        Returns:
          classify: `image_bytes` [B], encoded JPEG, PNG, GIF or BMP images of any size ->
            `classes` [B, C], the names, the same for each image, and `scores` [B, C], which sum
            to 1 or, with several classes an image, lie in 0..1 each.
        """

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
        def classify(image_bytes):
            logits = self._logits(center_views(image_bytes, self._image_size))
            names = tf.constant([self._class_names])
            return {
                "classes": tf.repeat(names, tf.shape(image_bytes)[0], axis=0),
                CLASSIFIER.output: probabilities(logits, self._multi_label),
            }

        return {CLASSIFIER.signature: classify}


@contextlib.contextmanager
def own_directory(directory: pathlib.Path) -> Iterator[None]:
    """Makes the directory of a classifier, for this process alone.

    Raises:
      RunError: it holds something else, cannot be made, or another process trains there.
    """
    if character := pattern_in(directory):
        raise RunError(
            f"{directory} has a {character} in its path, which TensorFlow takes for a pattern of "
            "names: name another --output_dir."
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if others := sorted(set(os.listdir(directory)) - _OWN):
            raise RunError(
                f"{directory} holds {others[0]}, which is of no classifier and would be removed: "
                "name an empty or a new --output_dir."
            )
        held = lock(directory / _LOCK)
    except BlockingIOError:
        raise RunError(f"another process trains a classifier in {directory}.") from None
    except OSError as error:
        raise RunError(f"{directory} cannot be used: {error.strerror}.") from error
    with held:
        yield


def write_classifier(
    directory: pathlib.Path, model: tf.keras.Model, record: Record, probe: bytes
) -> None:
    """Writes a classifier; an older one gives way in one step, once this one was tried.

    Args:
      directory: the whole of it is replaced.
      model: images [B, S, S, 3] -> logits [B, C].
      record: what it is.
      probe: an encoded image, whose scores by the export must be the model's.

    Raises:
      ExportError: they are not, or the directory cannot be written.
    """
    try:
        with own_folder(directory.parent) as partial:
            names, multi_label = record["class_names"], record["multi_label"]
            module = ClassifierModule(model, names, multi_label)
            saved_model = partial / EXPORT / VERSION
            tf.saved_model.save(module, str(saved_model), signatures=module.signatures())
            view = center_view(probe, model.input_shape[1])[tf.newaxis]
            expected = probabilities(model(view, training=False), multi_label)
            signature = tf.saved_model.load(str(saved_model)).signatures[CLASSIFIER.signature]
            found = signature(image_bytes=tf.constant([probe]))[CLASSIFIER.output]
            error = np.abs(found - expected).max()
            if not error <= PROBE_TOLERANCE:
                raise MismatchError(
                    f"the exported classifier differs from the trained one by {error:.2g} on one "
                    f"image; it is left in {saved_model}."
                )
            write_json(partial / RECORD, record)
            replace_folder(partial, directory)
    except (OSError, tf.errors.OpError) as error:
        raise ExportError(cannot_be_written(directory, error)) from error


def read_record(directory: pathlib.Path) -> Record:
    """What a classifier is.

    Raises:
      RunError: there is none, or its record cannot be read.
    """
    if not (directory / RECORD).exists():
        raise RunError(f"{directory} holds no classifier: train one with --data, or name another.")
    try:
        return read_json(directory / RECORD, Record)
    except StoredFileError as error:
        raise RunError(
            f"{directory / RECORD} cannot be read ({error}): train the classifier again."
        ) from error
