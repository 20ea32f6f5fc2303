"""Linear SVMs on frozen features, one class against the rest (Goyal et al., ICCV 2019).

As in their program (facebookresearch/fair_self_supervision_benchmark, tools/svm):

- rows of unit length; scikit-learn's LinearSVC with the squared hinge, positives counting twice;
- C of each class is what three folds of the training images find best;
- in the low-shot form, k positives and k negatives for each other class, drawn anew in each draw.

Where this differs:

- Difficult images are left out of the training too. There, training on all images takes them for
  negatives; the low-shot form and the test leave them out as here.
- Average precision is VOC2007's, by eleven points. Theirs is the area, which is computed beside it.
- The low-shot C is fixed. There, the best on the test images is reported.
- The primal problem is solved, which has the same solution and no random order.
"""

import os
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

import numpy as np
from sklearn.model_selection import GridSearchCV
from sklearn.svm import LinearSVC

from la_tf.data.base import DataError, philox_order
from la_tf.evaluation.average_precision import average_precision

FOLDS = 3
COSTS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
SHOTS = (1, 2, 4, 8, 16, 32, 64, 96)
# As in Prototypical Contrastive Learning (Li et al., ICLR 2021): one image leaves nothing to choose
# it by.
LOW_SHOT_COST = 0.5


def require_enough(
    marks: np.ndarray, test_marks: np.ndarray, class_names: Sequence[str], where: str
) -> None:
    """Refuses a class that cannot be trained or tested.

    Args:
      marks: [N, C] of 1 present, -1 absent, 0 neither, to train on.
      test_marks: [M, C] alike.
      class_names: C names.
      where: the data, for the message.

    Raises:
      DataError: there are too few images with it, or without it.
    """
    wanted = (("with", marks == 1, FOLDS), ("without", marks == -1, FOLDS))
    for word, has, least in wanted:
        _require(has, least, f"training images of {where} {word}", class_names)
    _require(test_marks == 1, 1, f"test images of {where} with", class_names)


def _require(has: np.ndarray, least: int, images: str, class_names: Sequence[str]) -> None:
    counts = has.sum(axis=0)
    if (counts < least).any():
        worst = int(np.argmin(counts))
        raise DataError(
            f"there are {counts[worst]} {images} {class_names[worst]}, and {least} are needed: add "
            "some, or leave the class out."
        )


def prepared(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of unit length, with no more columns than there are training rows.

    The weights of an SVM lie in the space that the training rows span, and its scores are inner
    products. So rows rotated into that space, which has N columns at most, give the same scores and
    take less time.

    Args:
      train: [N, F].
      test: [M, F].

    Returns:
      float64 [N, min(N, F)] and [M, min(N, F)].
    """
    train, test = _unit(train), _unit(test)
    if len(train) >= train.shape[1]:
        return train, test
    basis, coordinates = np.linalg.qr(train.T)  # [F, N], [N, N]
    return coordinates.T, test @ basis


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    return rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-5)


def svm_scores(train: np.ndarray, marks: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Scores of an SVM for each class, with C by folds of the training rows.

    Args:
      train: [N, F], see `prepared`.
      marks: [N, C] of 1 present, -1 absent, 0 to be left out.
      test: [M, F].

    Returns:
      float64 [M, C]; the larger the likelier.
    """

    def scores(label: int) -> np.ndarray:
        rows = np.flatnonzero(marks[:, label])
        search = GridSearchCV(_svm(), {"C": COSTS}, scoring="average_precision", cv=FOLDS)
        search.fit(train[rows], marks[rows, label])
        return search.decision_function(test)

    return np.stack(_in_threads(scores, range(marks.shape[1])), axis=1)


def low_shot_scores(
    train: np.ndarray, marks: np.ndarray, test: np.ndarray, shots: int, order: np.ndarray
) -> np.ndarray:
    """The same after training on few rows, see `low_shot_rows`, with `LOW_SHOT_COST`."""

    def scores(label: int) -> np.ndarray:
        rows = low_shot_rows(marks[:, label], shots, marks.shape[1], order)
        return _svm(LOW_SHOT_COST).fit(train[rows], marks[rows, label]).decision_function(test)

    return np.stack(_in_threads(scores, range(marks.shape[1])), axis=1)


def low_shot_rows(marks: np.ndarray, shots: int, num_classes: int, order: np.ndarray) -> np.ndarray:
    """Rows to train one class on: `shots` with it, and for each other class as many without it.

    Args:
      marks: [N] of 1 present, -1 absent, 0 neither.
      shots: k.
      num_classes: C; of the rows without it, k (C - 1) are taken, or all.
      order: a permutation of 0..N-1; the first rows in it are taken, so more shots add to fewer.

    Returns:
      The numbers of the rows, each once.
    """
    ordered = marks[order]
    negatives = shots * max(num_classes - 1, 1)
    return np.concatenate([order[ordered == 1][:shots], order[ordered == -1][:negatives]])


def draw_order(num_examples: int, seed: int, draw: int) -> np.ndarray:
    """The permutation that makes a draw, a function of its arguments alone: int64 [N]."""
    return philox_order(num_examples, seed, stream=draw, purpose=3)


def usable_shots(marks: np.ndarray) -> list[int]:
    """Those of `SHOTS` for which each class has enough images in marks [N, C]."""
    return [shots for shots in SHOTS if shots <= (marks == 1).sum(axis=0).min()]


def class_precisions(scores: np.ndarray, marks: np.ndarray, eleven_points: bool) -> np.ndarray:
    """Average precision of each class over the images that count.

    Args:
      scores: [M, C].
      marks: [M, C] of 1 present, -1 absent, 0 left out.
      eleven_points: see `average_precision`.

    Returns:
      [C] in 0..1; nan without an image that has the class.
    """
    found = []
    for column, truth in zip(scores.T, marks.T, strict=True):
        counts = truth != 0
        positive = truth[counts] == 1
        found.append(
            average_precision(column[counts], positive, int(positive.sum()), eleven_points)
        )
    return np.array(found)


def _svm(cost: float = 1.0) -> LinearSVC:
    return LinearSVC(C=cost, class_weight={1: 2, -1: 1}, dual=False, max_iter=2000)


def _in_threads(function: Callable[[int], Any], labels: Sequence[int]) -> list:
    # The solver holds no lock.
    with futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(function, labels))
