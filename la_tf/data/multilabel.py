"""Images with any number of classes each: those of PASCAL VOC, and those that a CSV file lists."""

import csv
import dataclasses
import io
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from la_tf.data.base import DataError, Source, Subset
from la_tf.data.folder import FolderSource
from la_tf.data.voc import VOC_CLASSES, VOCError, VOCImage, read_split, require_disjoint
from la_tf.files import open_regular

# What an image is for a class, as in VOC's lists of single classes (cat_trainval.txt). Difficult:
# all of its objects of that class are, so that it is neither a positive nor a negative one.
PRESENT, DIFFICULT, ABSENT = 1, 0, -1

COLUMNS = ("file", "classes")  # of a CSV file
SEPARATOR = ";"  # of classes


@dataclasses.dataclass(frozen=True)
class MultiLabels:
    """Which classes are in which image.

    Attributes:
      class_names: one name a class.
      marks: path of an image -> int8 [classes] of PRESENT, DIFFICULT and ABSENT.
      origin: where this is written, for messages.
    """

    class_names: tuple[str, ...]
    marks: Mapping[str, np.ndarray]
    origin: str

    def of(self, source: Source) -> np.ndarray:
        """The marks of the images of a source: int8 [N, classes].

        Raises:
          DataError: nothing is known of one.
        """
        paths = [os.path.normpath(source.describe(i)) for i in range(source.num_examples)]
        if unknown := [path for path in paths if path not in self.marks]:
            raise DataError(
                f"{self.origin} does not name {len(unknown)} of the {len(paths)} images of "
                f"{source.name}, {unknown[0]} for example: give each a line, with no class where "
                "it has none."
            )
        return np.stack([self.marks[path] for path in paths])


def open_voc(
    voc_dir: str | os.PathLike, train_split: str, test_split: str
) -> tuple[Source, Source, MultiLabels]:
    """Two splits of PASCAL VOC, to classify: (train, test, classes of both).

    Args:
      voc_dir: the folder of one year, such as VOCdevkit/VOC2007.
      train_split: the name of a list in ImageSets/Main.
      test_split: another, without a common image.

    Raises:
      VOCError: the folder, a split, or one of its images cannot be used.
    """
    voc_dir = pathlib.Path(voc_dir).expanduser()
    require_disjoint(voc_dir, train_split, test_split)
    pictures, marks, sources = None, {}, []
    for split in (train_split, test_split):
        images, problems = read_split(voc_dir, split, skip_bad=True)
        if problems:
            problem = problems[0].removesuffix(".")
            raise VOCError(f"{problem}: repair it, or take it out of the split {split}.")
        pictures = pictures or FolderSource(str(voc_dir / "JPEGImages"))
        row = {pictures.describe(i): i for i in range(pictures.num_examples)}
        sources.append(Subset(pictures, [row[str(image.path)] for image in images]))
        marks |= {os.path.normpath(image.path): voc_marks(image) for image in images}
    return *sources, MultiLabels(VOC_CLASSES, marks, str(voc_dir))


def voc_marks(image: VOCImage) -> np.ndarray:
    """What an image is for each of the 20 classes, by its objects: int8 [20]."""
    marks = np.full(len(VOC_CLASSES), ABSENT, np.int8)
    for label, difficult in zip(image.classes, image.difficult, strict=True):
        marks[label - 1] = max(marks[label - 1], DIFFICULT if difficult else PRESENT)
    return marks


def read_labels_csv(file: str | os.PathLike, folder: str | os.PathLike) -> MultiLabels:
    """Classes from a CSV file with the columns `file` and `classes`, such as `a/1.jpg,cat;dog`.

    Args:
      file: a line an image; `classes` may be empty.
      folder: what the names of the files are relative to.

    Raises:
      DataError: it cannot be read, or a line cannot be used.
    """
    names: dict[str, set[str]] = {}
    try:
        with open_regular(file) as opened:
            rows = csv.DictReader(io.TextIOWrapper(opened, "utf-8-sig", newline=""), strict=True)
            if missing := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
                raise DataError(
                    f"{file} has no column {missing[0]}: begin it with the line "
                    f"{','.join(COLUMNS)}, and separate classes by '{SEPARATOR}'."
                )
            for row in rows:
                path, classes = _line(row, f"line {rows.line_num} of {file}", folder)
                if path in names:
                    raise DataError(
                        f"line {rows.line_num} of {file} names {row['file']} again: give an image "
                        "one line, with all of its classes."
                    )
                names[path] = classes
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise DataError(
            f"{file} cannot be read ({getattr(error, 'strerror', None) or error}): name a CSV file "
            f"with the columns {' and '.join(COLUMNS)}."
        ) from error
    class_names = tuple(sorted(set().union(*names.values())))
    if not class_names:
        raise DataError(f"{file} names no class: give the images some.")
    marks = {
        path: np.array([PRESENT if c in classes else ABSENT for c in class_names], np.int8)
        for path, classes in names.items()
    }
    return MultiLabels(class_names, marks, str(file))


def _line(
    row: Mapping[str, str | None], place: str, folder: str | os.PathLike
) -> tuple[str, set[str]]:
    """The path and the classes of one line."""
    if None in row or None in row.values():
        raise DataError(f"{place} has not as many values as the first line has columns: mend it.")
    path = os.path.normpath(os.path.join(folder, row["file"].strip()))
    if not os.path.isfile(path):
        raise DataError(
            f"{place} names {row['file']!r}, and there is no file {path}: correct the line, or "
            "remove it."
        )
    return path, {name.strip() for name in row["classes"].split(SEPARATOR)} - {""}
