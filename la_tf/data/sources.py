"""Opens the images that a command line names: --data, --val_data, --holdout, --limit."""

import os

from la_tf.config import DataConfig
from la_tf.data.base import (
    DataError,
    Source,
    Subset,
    align_labels,
    sample_rows,
    split_holdout,
)
from la_tf.data.digits import digits_parts
from la_tf.data.folder import FolderSource
from la_tf.data.records import INDEX_FILE, RecordSource
from la_tf.data.tfds_records import HELD_OUT_SPLITS, TfdsDataset

TRAIN_FOLDER = "train"
HELD_OUT_FOLDERS = ("val", "validation", "test")


def open_source(data: str, part: str = "train") -> Source:
    """Opens the training or the held-out part of what `data` names.

    Args:
      data: `digits`; `tfds:NAME`; a folder of images or of TFRecords, or one with such folders
        named train and val, validation or test.
      part: "train" or "val"; a folder without such subfolders is taken whole for either.

    Raises:
      DataError: there are no such images; the message says what was found.
    """
    if data == "digits":
        return digits_parts()[0 if part == "train" else 1]
    if data.startswith("tfds:"):
        dataset = TfdsDataset(data.removeprefix("tfds:"))
        held_out = [name for name in HELD_OUT_SPLITS if name in dataset.splits]
        if part == "val" and held_out:
            return dataset.open(held_out[0])
        return dataset.open(TRAIN_FOLDER if TRAIN_FOLDER in dataset.splits else dataset.splits[0])
    folder = _existing_folder(data)
    return _open_folder(_parts(folder).get(part, folder))


def open_train_and_val(config: DataConfig, seed: int) -> tuple[Source, Source | None]:
    """The training images and, where there are any, the held-out images.

    Held out are `val_data`, else what `data` itself keeps apart (DIR/val, DIR/validation or
    DIR/test; the validation or test split of a TFDS name; a fifth of the digits), else `holdout`
    of the training images.

    Args:
      config: `data`, `val_data`, `holdout` and `limit` are read.
      seed: chooses the images that `holdout` takes, and those of `limit`.

    Returns:
      (train, val); val is None where nothing is held out. Labels of val are numbered as train's.

    Raises:
      DataError: images are missing or unusable, or val has classes that train lacks.
    """
    train, val = open_source(config.data), None
    if config.val_data or _has_held_out(config.data):
        val = align_labels(open_source(config.val_data or config.data, "val"), train)
    elif config.holdout:
        train, val = split_holdout(train, config.holdout, seed)
    if 0 < config.limit < train.num_examples:
        train = Subset(train, sample_rows(train.num_examples, config.limit, seed))
    return train, val


def _has_held_out(data: str) -> bool:
    if data == "digits":
        return True
    if data.startswith("tfds:"):
        splits = TfdsDataset(data.removeprefix("tfds:")).splits
        return TRAIN_FOLDER in splits and any(name in splits for name in HELD_OUT_SPLITS)
    return "val" in _parts(_existing_folder(data))


def _existing_folder(data: str) -> str:
    folder = os.path.expanduser(data)
    if os.path.isfile(folder):
        raise DataError(f"{data} is a file: name the folder that holds the images.")
    if not os.path.isdir(folder):
        raise DataError(
            f"{data} does not exist: give a folder of images, a folder of TFRecords, tfds:NAME "
            "or digits."
        )
    return folder


def _parts(folder: str) -> dict[str, str]:
    """The folders of the training and the held-out images; empty where there is no such layout.

    A folder named train is a part, and not a class of railway pictures, when a held-out folder
    lies beside it or no other folder does.
    """
    names = [entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != "."]
    held_out = [name for name in HELD_OUT_FOLDERS if name in names]
    if TRAIN_FOLDER not in names or (len(names) > 1 and not held_out):
        return {}
    parts = {"train": os.path.join(folder, TRAIN_FOLDER)}
    if held_out:
        parts["val"] = os.path.join(folder, held_out[0])
    return parts


def _open_folder(folder: str) -> Source:
    names = os.listdir(folder)
    if INDEX_FILE in names:
        return RecordSource(folder)
    if records := sorted(name for name in names if ".tfrecord" in name):
        raise DataError(
            f"{folder} holds TFRecords ({records[0]}) but no {INDEX_FILE}: write them with "
            "tools/make_tfrecords.py."
        )
    return FolderSource(folder)
