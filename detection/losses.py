"""The four losses of Faster R-CNN, normalised as in tf-faster-rcnn.

Model Garden divides them by other numbers: the first by the number of regions instead of the drawn
anchors, both box losses by four times their positives, and its smooth L1 of the region proposals is
a ninth of the reference's.
"""

import tensorflow as tf

from detection.anchors import IGNORED, POSITIVE

RPN_SIGMA = 3.0  # where the smooth L1 of the region proposals turns linear: at 1 / sigma^2


def smooth_l1(errors: tf.Tensor, sigma: float = 1.0) -> tf.Tensor:
    """Elementwise: 0.5 sigma^2 e^2 below |e| = 1 / sigma^2, |e| - 0.5 / sigma^2 above."""
    size = tf.abs(errors)
    turn = 1.0 / sigma**2
    return tf.where(size < turn, 0.5 * tf.square(errors) / turn, size - 0.5 * turn)


def rpn_score_loss(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Whether anchors show an object: mean cross-entropy over the drawn anchors.

    Args:
      logits: [B, h, w, A].
      labels: [B, h, w, A]: 1 positive, 0 negative, -1 not drawn.
    """
    drawn = labels != IGNORED
    targets = tf.cast(labels == POSITIVE, logits.dtype)
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
    return tf.reduce_sum(tf.where(drawn, entropy, 0.0)) / _count(drawn)


def rpn_box_loss(outputs: tf.Tensor, targets: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Where the objects of positive anchors are: smooth L1, divided by all drawn anchors.

    Args:
      outputs: [B, h, w, A * 4].
      targets: [B, h, w, A * 4], used where the label is positive.
      labels: [B, h, w, A]: 1 positive, 0 negative, -1 not drawn.
    """
    positive = tf.repeat(labels == POSITIVE, 4, axis=-1)  # [B, h, w, A * 4]
    errors = tf.where(positive, outputs - targets, 0.0)
    return tf.reduce_sum(smooth_l1(errors, RPN_SIGMA)) / _count(labels != IGNORED)


def class_loss(logits: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """What a region shows: mean cross-entropy over the drawn regions.

    Args:
      logits: [B, R, C], class 0 is the background.
      classes: [B, R].
    """
    classes = tf.cast(classes, tf.int32)
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits))


def box_loss(outputs: tf.Tensor, targets: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """Where a region's object is: smooth L1 of its class's box, divided by all drawn regions.

    Args:
      outputs: [B, R, C * 4], a box for each class.
      targets: [B, R, 4].
      classes: [B, R]; 0, the background, has no box.
    """
    classes = tf.cast(classes, tf.int32)
    shape = tf.shape(targets)
    by_class = tf.reshape(outputs, [shape[0], shape[1], -1, 4])  # [B, R, C, 4]
    own = tf.gather(by_class, classes, batch_dims=2)  # [B, R, 4]
    errors = tf.where((classes > 0)[..., tf.newaxis], own - targets, 0.0)
    return tf.reduce_mean(tf.reduce_sum(smooth_l1(errors), axis=-1))


def _count(mask: tf.Tensor) -> tf.Tensor:
    return tf.maximum(tf.math.count_nonzero(mask, dtype=tf.float32), 1.0)
