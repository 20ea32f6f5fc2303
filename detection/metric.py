"""Mean average precision as PASCAL VOC 2007 defines it, for TF Model Garden's evaluation loop.

The definition is that of the development kit's VOCevaldet.m:

- Boxes are whole pixels with both ends inside, so a side is xmax - xmin + 1 pixels long.
- The detections of a class, over all images, are taken by falling score. Each is compared with the
  objects of its class in its image, difficult ones too, and belongs to the one with the largest
  intersection over union (IoU), the first of equals.
- With an IoU of at least 0.5 it is a true positive, once for each object; the second detection of
  an object is a false positive, even where another object overlaps enough. A detection that belongs
  to a difficult object counts as neither.
- Recall is relative to the objects that are not difficult.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from la_tf.data.voc import VOC_CLASSES, VOCError, id_of
from la_tf.evaluation.average_precision import average_precision

MIN_OVERLAP = 0.5
RESAMPLES = 1000


def overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of one box with others.

    Args:
      box: [4] xmin, ymin, xmax, ymax, pixels counted from 1, both ends inside.
      others: [N, 4], each of positive area.

    Returns:
      [N] in 0..1.
    """
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]) + 1
    common = np.prod(np.maximum(sides, 0), axis=1)
    return common / (_area(box) + _area(others) - common)


def match_detections(
    images: np.ndarray,
    scores: np.ndarray,
    boxes: np.ndarray,
    objects: Mapping[int, tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
    """Decides whether each detection of one class is right; leaves out those that VOC ignores.

    Args:
      images: [D] the number of each detection's image.
      scores: [D]; of equal scores the first detection goes first.
      boxes: [D, 4] xmin, ymin, xmax, ymax, pixels counted from 1, both ends inside.
      objects: number of an image -> boxes [G, 4] of its objects of this class, and difficult [G].
        Images without such an object may be left out.

    Returns:
      Which detections count, integers [M] by falling score, and bool [M] whether each is a true
      positive.
    """
    found = {image: np.zeros(len(difficult), bool) for image, (_, difficult) in objects.items()}
    kept, right = [], []
    for detection in np.argsort(-scores, kind="stable"):
        image = int(images[detection])
        true_positive = False
        if image in objects and len(found[image]):
            truth, difficult = objects[image]
            overlap = overlaps(boxes[detection], truth)
            best = int(np.argmax(overlap))
            if overlap[best] >= MIN_OVERLAP:
                if difficult[best]:
                    continue
                true_positive = not found[image][best]
                found[image][best] = True
        kept.append(detection)
        right.append(true_positive)
    return np.array(kept, int), np.array(right, bool)


def to_voc_pixels(boxes: np.ndarray, scale: np.ndarray, height: int, width: int) -> np.ndarray:
    """Converts TF Model Garden's boxes to VOC's, clipped to the picture.

    Continuous coordinates start at 0: the range from 0 to `width` is VOC's pixels 1 to `width`.
    The results have three decimals, which undoes the rounding of a box that was whole pixels once.

    Args:
      boxes: [N, 4] ymin, xmin, ymax, xmax, continuous, in the scaled picture.
      scale: [2] scaled by original size, in y and x.
      height: of the original picture.
      width: of the original picture.

    Returns:
      float64 [N, 4] xmin, ymin, xmax, ymax, pixels counted from 1, both ends inside.
    """
    continuous = np.asarray(boxes, np.float64) / np.tile(np.asarray(scale, np.float64), 2)
    pixels = continuous[:, [1, 0, 3, 2]] + [1, 1, 0, 0]
    return np.round(np.clip(pixels, 1, [width, height, width, height]), 3)


@dataclasses.dataclass(frozen=True)
class _Detected:
    """What one image holds and what was found there; boxes as VOC's."""

    object_classes: np.ndarray
    object_boxes: np.ndarray
    difficult: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


class VOCDetectionMetric:
    """Collects detections over a data set and gives VOC's mean average precision.

    It has the interface of official.vision.evaluation.coco_evaluator.COCOEvaluator and takes its
    place in a task. It keeps what it collected until `reset_states`, for `write_detections`.
    """

    name = "voc_metric"

    def __init__(self):
        self._images: dict[int, _Detected] = {}

    def reset_states(self) -> None:
        """Forgets all images."""
        self._images = {}

    def update_state(self, groundtruths: Mapping[str, Any], predictions: Mapping[str, Any]) -> None:
        """Adds a batch of B images. One that comes again, to fill a last batch, counts once.

        Every value is a tensor or an array, or a tuple of these with one of each replica.

        Args:
          groundtruths: source_id [B], height [B], width [B], num_detections [B], the number of
            objects, and padded to K objects boxes [B, K, 4] (ymin, xmin, ymax, xmax, continuous, in
            the original picture), classes [B, K] and is_crowds [B, K], VOC's `difficult`.
          predictions: image_info [B, 4, 2] with the scale in row 2, num_detections [B], and padded
            detection_boxes [B, D, 4] in the scaled picture, detection_classes [B, D] and
            detection_scores [B, D].

        Raises:
          VOCError: an image has more than K objects.
        """
        truth = {key: _array(value) for key, value in groundtruths.items()}
        found = {key: _array(value) for key, value in predictions.items()}
        for i, number in enumerate(truth["source_id"].astype(int).tolist()):
            height, width = int(truth["height"][i]), int(truth["width"][i])
            num_objects, most = int(truth["num_detections"][i]), truth["classes"].shape[1]
            if num_objects > most:
                raise VOCError(
                    f"image {id_of(number)} has {num_objects} objects and only {most} were kept: "
                    "raise max_num_instances of the parser."
                )
            objects = truth["classes"][i] > 0
            objects[num_objects:] = False
            detections = found["detection_classes"][i] > 0
            detections[int(found["num_detections"][i]) :] = False
            detections &= has_area(found["detection_boxes"][i])
            scale = found["image_info"][i, 2]
            self._images[number] = _Detected(
                truth["classes"][i][objects].astype(int),
                to_voc_pixels(truth["boxes"][i][objects], np.ones(2), height, width),
                truth["is_crowds"][i][objects].astype(bool),
                found["detection_classes"][i][detections].astype(int),
                to_voc_pixels(found["detection_boxes"][i][detections], scale, height, width),
                found["detection_scores"][i][detections].astype(np.float32),
            )

    def result(self) -> dict[str, float]:
        """The mean average precisions and that of each class, in 0..1.

        Returns:
          mAP, the mean over classes by eleven points, VOC2007's; mAP_area, the same by the area, as
          from VOC2010 on; AP/<class> for each of the 20 classes, by eleven points. A class without
          an object that counts is nan, and no part of the means.
        """
        by_points, by_area = {}, []
        for label, name in enumerate(VOC_CLASSES, start=1):
            _, scores, right, positives = self._matched(label)
            wanted = sum(positives.values())
            by_points[f"AP/{name}"] = average_precision(scores, right, wanted, True)
            by_area.append(average_precision(scores, right, wanted, False))
        means = {"mAP": _mean(by_points.values()), "mAP_area": _mean(by_area)}
        return means | by_points

    def resampled(self) -> np.ndarray:
        """mAP by eleven points with the test pictures drawn anew, as many, with replacement.

        Their spread is what the choice of test pictures leaves open (the bootstrap). The draws are
        the same for all detectors on the same pictures, so that differences can be taken draw by
        draw; what another training would give is not in them.

        Returns:
          [RESAMPLES] in 0..1; nan where no object that counts was drawn.
        """
        numbers = sorted(self._images)
        shares = np.full(len(numbers), 1 / len(numbers))
        counts = np.random.default_rng(0).multinomial(len(numbers), shares, RESAMPLES)
        by_class = []
        for label in range(1, len(VOC_CLASSES) + 1):
            images, scores, right, positives = self._matched(label)
            images = np.searchsorted(numbers, images)  # [M]
            positives = np.array([positives.get(number, 0) for number in numbers])
            by_class.append(
                [
                    average_precision(
                        *(np.repeat(values, drawn[images]) for values in (scores, right)),
                        int(drawn @ positives),
                        eleven_points=True,
                    )
                    for drawn in counts
                ]
            )
        return np.array([_mean(draw) for draw in np.transpose(by_class)])

    def write_detections(self, folder: str | os.PathLike, split: str) -> list[pathlib.Path]:
        """Writes what was detected in the format of VOC's competition 4, for other evaluators.

        A file a class, comp4_det_<split>_<class>.txt, with a line a detection: image id, score,
        xmin, ymin, xmax, ymax. The numbers lose nothing, so these files have the same mAP.

        Args:
          folder: made where it is absent; files of the same name are replaced.
          split: the name of the split, 'test' for example.

        Returns:
          The files' paths.
        """
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for label, name in enumerate(VOC_CLASSES, start=1):
            lines = []
            for image, score, box in zip(*self._detections(label), strict=True):
                shown = np.format_float_positional(score, trim="0")
                lines.append(f"{id_of(int(image))} {shown} {' '.join(f'{x:.3f}' for x in box)}\n")
            paths.append(folder / f"comp4_det_{split}_{name}.txt")
            paths[-1].write_text("".join(lines))
        return paths

    def _detections(self, label: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images [D], scores [D] and boxes [D, 4] of a class, in the order in which they came."""
        images, scores, boxes = [np.zeros(0, int)], [np.zeros(0, np.float32)], [np.zeros((0, 4))]
        for number, image in self._images.items():
            mine = image.classes == label
            images.append(np.full(np.count_nonzero(mine), number))
            scores.append(image.scores[mine])
            boxes.append(image.boxes[mine])
        return np.concatenate(images), np.concatenate(scores), np.concatenate(boxes)

    def _matched(self, label: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[int, int]]:
        """Of a class: image, score and truth [M] of what counts by falling score, and objects.

        Returns:
          Images [M], scores [M], bool [M] whether right; image -> how many objects count in it.
        """
        objects, positives = {}, {}
        for number, image in self._images.items():
            mine = image.object_classes == label
            if mine.any():
                objects[number] = (image.object_boxes[mine], image.difficult[mine])
                positives[number] = int(np.count_nonzero(~image.difficult[mine]))
        images, scores, boxes = self._detections(label)
        kept, right = match_detections(images, scores, boxes, objects)
        return images[kept], scores[kept], right, positives


def has_area(boxes: np.ndarray) -> np.ndarray:
    """Which boxes [N, 4] as (ymin, xmin, ymax, xmax) are more than a line or a point: [N].

    Where there are too few proposals, Model Garden fills up with empty ones, which the head
    classifies too.
    """
    return np.all(boxes[:, 2:] > boxes[:, :2], axis=1)


def _area(boxes: np.ndarray) -> np.ndarray:
    return np.prod(boxes[..., 2:] - boxes[..., :2] + 1, axis=-1)


def _array(value: Any) -> np.ndarray:
    if isinstance(value, tuple):
        return np.concatenate([np.asarray(part) for part in value])
    return np.asarray(value)


def _mean(values: Any) -> float:
    values = np.array([value for value in values if not np.isnan(value)])
    return float(values.mean()) if len(values) else float("nan")
