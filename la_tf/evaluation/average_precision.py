"""Average precision, of classification and detection alike."""

import numpy as np


def average_precision(
    scores: np.ndarray, is_true_positive: np.ndarray, num_positives: int, eleven_points: bool
) -> float:
    """Average precision of one class.

    With eleven points it is that of VOC2007 (VOCevaldet.m): the mean over recalls 0, 0.1, ..., 1 of
    the best precision at that recall or a higher one. Otherwise it is that of VOC2010 and later
    (VOCap.m): the area under the curve of that best precision.

    Recalls are compared as fractions, so 3 objects of 10 do reach 0.3. The reference programs count
    the eleven points up in floating point, where 0.3 is a little more than 3 / 10.

    Args:
      scores: [M]; of equal scores the first goes first.
      is_true_positive: bool [M].
      num_positives: how many objects there are to find.
      eleven_points: which of the two definitions.

    Returns:
      0..1; nan without objects.
    """
    if not num_positives:
        return float("nan")
    right = np.asarray(is_true_positive, bool)[np.argsort(-np.asarray(scores), kind="stable")]
    hits = np.cumsum(right)  # [M]
    precision = hits / np.arange(1, len(right) + 1)
    # The best precision at this recall or a higher one.
    best = np.maximum.accumulate(precision[::-1])[::-1]
    if not eleven_points:
        return float(best[right].sum() / num_positives)
    reached = [best[10 * hits >= point * num_positives] for point in range(11)]
    return sum(float(values[0]) for values in reached if len(values)) / 11
