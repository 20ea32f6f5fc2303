"""Anchors of the region proposal network and their targets (Faster R-CNN, 3.1)."""

import tensorflow as tf
from official.vision.ops import anchor_generator, box_ops

from detection.backbones import LEVEL, STRIDE

BASE_SIZE = 128  # side of the smallest square anchor, in pixels of the scaled picture
SCALES = (1, 2, 4)
ASPECT_RATIOS = (0.5, 1.0, 2.0)
ANCHORS_PER_PLACE = len(SCALES) * len(ASPECT_RATIOS)

IGNORED, NEGATIVE, POSITIVE = -1, 0, 1


def anchor_grid(canvas: int, base_size: int = BASE_SIZE) -> dict[str, tf.Tensor]:
    """All anchors of a square canvas: areas of 128^2, 256^2 and 512^2 at three aspect ratios.

    Model Garden's own parser can only make scales of 2^(i/3), which are 128, 161 and 203.

    Args:
      canvas: side of the canvas in pixels, a multiple of 16.
      base_size: side of the smallest square anchor in pixels.

    Returns:
      Level -> [canvas / 16, canvas / 16, 9 * 4], each anchor as (y1, x1, y2, x2) in pixels.
    """
    level = str(LEVEL)
    generator = anchor_generator.AnchorGenerator(
        {level: base_size}, list(SCALES), list(ASPECT_RATIOS), {level: STRIDE}
    )
    return generator((canvas, canvas))


def label_anchors(
    anchors: tf.Tensor,
    boxes: tf.Tensor,
    picture_size: tf.Tensor,
    seed: tf.Tensor,
    num_samples: int = 256,
    positive_fraction: float = 0.5,
    positive_iou: float = 0.7,
    negative_iou: float = 0.3,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Chooses the anchors that train the region proposal network, and their targets.

    Only anchors that lie inside the picture take part, as in the reference. The canvas is padded
    beyond the picture, and of the negatives drawn from all of it most would show only padding.
    An anchor is positive with an IoU of at least `positive_iou` with an object, or with the highest
    IoU of all with one; negative below `negative_iou` with every object. Of the positives, then of
    the negatives, as many as wanted are drawn.

    Args:
      anchors: [A, 4] as (y1, x1, y2, x2) in pixels of the scaled picture.
      boxes: [G, 4] objects in the same form; G may be 0.
      picture_size: [2] height and width of the scaled picture in pixels, without the padding.
      seed: [2] integers that decide the draw.
      num_samples: anchors a picture.
      positive_fraction: the largest share of positives among them.
      positive_iou: see above.
      negative_iou: see above.

    Returns:
      (labels [A] int32: 1 positive, 0 negative, -1 not drawn;
       box targets [A, 4] float32: of the positives, zero elsewhere)
    """
    # Only those inside are matched: the best anchor of an object must be one that takes part.
    inside = tf.where(
        tf.reduce_all(anchors[:, :2] >= 0, axis=1)
        & tf.reduce_all(anchors[:, 2:] <= picture_size, axis=1)
    )[:, 0]  # [I]
    candidates = tf.gather(anchors, inside)  # [I, 4]
    iou = box_ops.bbox_overlap(candidates[tf.newaxis], boxes[tf.newaxis])[0]  # [I, G]
    best_of_anchor = tf.reduce_max(iou, axis=1)  # [I]; -inf where there is no object
    best_of_box = tf.reduce_max(iou, axis=0)  # [G]
    # All that tie are best: rounding must not choose among them.
    is_best = tf.reduce_any((iou >= best_of_box - 1e-6) & (best_of_box > 0), axis=1)
    positive = is_best | (best_of_anchor >= positive_iou)
    negative = ~positive & (best_of_anchor < negative_iou)

    order = tf.random.stateless_uniform(tf.shape(inside), seed)
    positive = _first(positive, order, int(num_samples * positive_fraction))
    num_positive = tf.math.count_nonzero(positive, dtype=tf.int32)
    negative = _first(negative, order, num_samples - num_positive)

    def targets() -> tf.Tensor:
        matched = tf.gather(boxes, tf.argmax(iou, axis=1))  # [I, 4]
        encoded = box_ops.encode_boxes(matched, candidates)
        return tf.where(positive[:, tf.newaxis], encoded, 0.0)

    box_targets = tf.cond(
        tf.shape(boxes)[0] > 0, targets, lambda: tf.zeros_like(candidates)
    )  # [I, 4]
    labels = tf.where(positive, POSITIVE, tf.where(negative, NEGATIVE, IGNORED))
    # Back to all anchors; those outside the picture are ignored.
    where, total = inside[:, tf.newaxis], tf.shape(anchors, out_type=tf.int64)[0]
    shifted = tf.scatter_nd(where, labels - IGNORED, [total])
    return shifted + IGNORED, tf.scatter_nd(where, box_targets, [total, 4])


def _first(chosen: tf.Tensor, order: tf.Tensor, count: int | tf.Tensor) -> tf.Tensor:
    """Of the elements marked in `chosen`, the `count` that are lowest in `order`, marked."""
    ranking = tf.argsort(tf.where(chosen, order, 2.0))  # the chosen first
    rank = tf.math.invert_permutation(ranking)
    return chosen & (rank < count)
