"""Results of evaluations, one JSON file each in the run directory."""

import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np

from la_tf.errors import RunError
from la_tf.files import write_json
from la_tf.phases import DEEPCLUSTER, IR, LA, SUPERVISED, UNTRAINED
from la_tf.results.knn_metric import KNN, KNN1
from la_tf.results.precision import mean_of
from la_tf.stored import StoredFileError, misfit, read_json, write_arrays

FOLDER = "evaluation"
READOUTS = ("conv1", "conv2", "conv3", "conv4", "conv5")
PIXELS = "pixels"  # the column of a readout on raw pixels
COLUMNS = (*READOUTS, KNN.column, KNN1.column, PIXELS)  # in the order of Table 1
MEAN_PRECISIONS = tuple(mean_of(layer) for layer in (*READOUTS, PIXELS))
RAW_PIXELS = "raw pixels"
BANK, CROPS = "memory bank", "centre crops"  # what kNN searches
# What can be evaluated of a run, in the order of tables.
ROWS = (RAW_PIXELS, UNTRAINED, IR, DEEPCLUSTER, LA, SUPERVISED)


class _Settings(TypedDict, total=False):
    """Those of an evaluation that tables show."""

    gallery: str
    k: list[int]
    epochs: int
    learning_rate: float
    crop: str
    classes: list[str]
    shots: list[int]
    draws: int


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What one protocol measures on one data set.

    Attributes:
      protocol: 'knn', 'linear' or 'voc07'.
      data: a name for the images, `sun18` for example.
      fingerprint: of the training and the held-out images.
      row: what was evaluated, one of ROWS.
      transfer: whether the network was trained on other images.
      network: the architecture.
      step: steps of training behind the network; 0 for what is not trained.
      epoch: the same in epochs.
      accuracy: one of COLUMNS -> share of the held-out images that are classified correctly; of
        voc07, the names in `precision` -> 0..1.
      settings: what else the accuracy depends on, ready for JSON.
      seconds: how long it took, over all restarts.
      environment: versions and devices, see `runtime.environment`.
    """

    protocol: str
    data: str
    fingerprint: str
    row: str
    transfer: bool
    network: str
    step: int
    epoch: float
    accuracy: dict[str, float]
    settings: dict[str, Any]
    seconds: float
    environment: dict[str, Any]

    @property
    def key(self) -> str:
        """The file's name without .json, with a digest of what the accuracy depends on."""
        inputs = json.dumps([self.fingerprint, self.step, self.settings], sort_keys=True)
        digest = hashlib.sha256(inputs.encode()).hexdigest()[:8]
        return f"{self.data}-{self.protocol}-{self.row.replace(' ', '-')}-{digest}"


def write_evaluation(
    run_path: pathlib.Path, evaluation: Evaluation, arrays: Mapping[str, np.ndarray] | None = None
) -> pathlib.Path:
    """Writes one result; it replaces an earlier one of the same images, step and settings.

    Args:
      run_path: the run directory.
      evaluation: the result.
      arrays: what was trained for it, written to an .npz file of the same name.

    Raises:
      RunError: a file cannot be written.
    """
    folder = run_path / FOLDER
    file = folder / f"{evaluation.key}.json"
    try:
        folder.mkdir(exist_ok=True)
        if arrays is not None:
            write_arrays(folder / f"{evaluation.key}.npz", arrays)
        write_json(file, dataclasses.asdict(evaluation))
    except OSError as error:
        raise RunError(f"{file} cannot be written: {error.strerror}.") from error
    return file


def find_evaluation(run_path: pathlib.Path, like: Evaluation) -> Evaluation | None:
    """The stored result of the same images, network state and settings, if there is one.

    Raises:
      RunError: its file cannot be read.
    """
    file = run_path / FOLDER / f"{like.key}.json"
    return _read(file) if file.exists() else None


def require_own_name(run_path: pathlib.Path, data: str, fingerprint: str) -> None:
    """Refuses a name for a data set that other images have, since a table is of one data set.

    Raises:
      RunError: it is taken, or cannot be part of a file name.
    """
    if not re.fullmatch(r"\w[\w.+-]*", data):
        raise RunError(
            f"'{data}' cannot name a data set: give a name of letters, digits, '-', '_', '+' and "
            "'.' with --name."
        )
    for evaluation in read_evaluations(run_path):
        if evaluation.data == data and evaluation.fingerprint != fingerprint:
            raise RunError(
                f"{run_path / FOLDER} has results of other images under the name {data}: give "
                "these another name with --name."
            )


def read_evaluations(run_path: pathlib.Path) -> list[Evaluation]:
    """All results of a run, by data set and then in the order of `ROWS`.

    Raises:
      RunError: a file cannot be read.
    """
    found = [_read(file) for file in sorted((run_path / FOLDER).glob("*.json"))]
    return sorted(found, key=lambda e: (e.data, ROWS.index(e.row)))


def _read(file: pathlib.Path) -> Evaluation:
    try:
        stored = read_json(file, Evaluation)
        if unknown := set(stored) - {field.name for field in dataclasses.fields(Evaluation)}:
            raise StoredFileError(f"{min(unknown)} is unknown")
        if stored["row"] not in ROWS:
            raise StoredFileError(f"its row is {stored['row']}")
        if problem := misfit(stored["settings"], _Settings, "settings"):
            raise StoredFileError(problem)
        "".join(stored["settings"].get("classes", ())).encode()
        return Evaluation(**stored)
    except (StoredFileError, UnicodeEncodeError) as error:
        raise RunError(f"{file} cannot be read ({error}): remove it and evaluate again.") from error
