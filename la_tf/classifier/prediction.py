"""The classes that a classifier gives to the images of a folder, as a table."""

import csv
import os
import pathlib
from collections.abc import Callable

import numpy as np

from la_tf.classifier.kept import EXPORT, Record, read_record
from la_tf.config import DataConfig
from la_tf.data.base import DataError
from la_tf.data.checks import name_some
from la_tf.data.folder import FolderSource
from la_tf.data.multilabel import SEPARATOR
from la_tf.data.pipeline import EVAL_BATCH_SIZE
from la_tf.embedding.embedding_model import CLASSIFIER, embed_readable, export_model, progress_bar
from la_tf.files import replacing

PRESENT_FROM = 0.5  # the score from which an image of several classes counts as having one


def predict_folder(
    directory: pathlib.Path,
    folder: str,
    table: pathlib.Path,
    max_megapixels: float = DataConfig.max_megapixels,
    say: Callable[[str], None] = print,
) -> int:
    """Writes the likeliest class of each image of a folder to a CSV file.

    Its columns are `file`, relative to the folder, `class` and `score`. Where images have several
    classes they are `file`, `classes`, those with a score of at least 0.5 separated by ';', and
    `score of CLASS` for each: a file that `read_labels_csv` reads.

    Args:
      directory: of a classifier, see `train_classifier`.
      folder: of images, in any order, with all below it.
      table: the file to write.
      max_megapixels: of an image, in millions of pixels; larger ones are left out.
      say: takes a sentence on what is left out.

    Returns:
      How many images are in the table.

    Raises:
      RunError or EmbeddingError: there is no classifier, or it cannot be loaded.
      DataError: no image can be read.
    """
    record = read_record(directory)
    model = export_model(str(directory / EXPORT), CLASSIFIER)
    source = FolderSource(os.path.expanduser(folder))
    if source.not_read:
        say(source.not_read)
    count, rows, left_out = len(source), [], []
    with progress_bar(count) as bar:
        for start in range(0, count, EVAL_BATCH_SIZE):
            part = range(start, min(start + EVAL_BATCH_SIZE, count))
            good, scores, bad = embed_readable(model, source, part, max_megapixels)
            for i, row in zip(good, () if scores is None else scores, strict=True):
                name = os.path.relpath(source.describe(i), source.name)
                rows.append([name, *_answer(row, record)])
            left_out += bad
            bar.update(len(part))
    if not rows:
        raise DataError(f"{folder} has no image that can be read: {name_some(left_out)}.")
    if left_out:
        say(f"{len(left_out)} of the {count} images of {folder} left out: {name_some(left_out)}.")
    columns = ["class", "score"]
    if record["multi_label"]:
        columns = ["classes", *(f"score of {name}" for name in record["class_names"])]
    with replacing(table) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("file", *columns), *rows])
    return len(rows)


def _answer(scores: np.ndarray, record: Record) -> list[str]:
    """What the table says of an image, from the scores [C] of all classes."""
    names, texts = record["class_names"], [f"{score:.6f}" for score in scores]
    if record["multi_label"]:
        chosen = [name for name, s in zip(names, scores, strict=True) if s >= PRESENT_FROM]
        return [SEPARATOR.join(chosen), *texts]
    best = int(scores.argmax())
    return [names[best], texts[best]]
