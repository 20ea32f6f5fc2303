"""Which regions train the head: TF Model Garden's RoI sampler, made repeatable."""

import tensorflow as tf
from official.vision.modeling.layers import box_sampler, roi_sampler


class RoISampler(roi_sampler.ROISampler):
    """Model Garden's matching of proposals and objects with a draw of the reference's kind.

    Proposals that only fill up a fixed number, which Model Garden leaves as empty boxes at the
    corner, would count as background; here they are never drawn.

    Args:
      seed: of the draws. How many were made is saved with the model, so that a resumed run goes on
        with the draws that an uninterrupted one would have made.
      num_sampled_rois: regions a picture.
      foreground_fraction: the largest share of regions with an object.
      **kwargs: see Model Garden's layer.
    """

    def __init__(self, seed: int, num_sampled_rois: int, foreground_fraction: float, **kwargs):
        super().__init__(
            num_sampled_rois=num_sampled_rois, foreground_fraction=foreground_fraction, **kwargs
        )
        self._sampler = BoxSampler(
            seed, num_samples=num_sampled_rois, foreground_fraction=foreground_fraction
        )

    def call(self, boxes: tf.Tensor, gt_boxes: tf.Tensor, gt_classes: tf.Tensor):
        """As the base class: boxes [B, N, 4], gt_boxes [B, G, 4], gt_classes [B, G]."""
        empty = tf.reduce_any(boxes[..., 2:] <= boxes[..., :2], axis=-1, keepdims=True)
        # An object of no area and class 0, far from all others: without any object, Model Garden
        # would call no proposal background, and one would be drawn again and again.
        gt_boxes = tf.pad(gt_boxes, [[0, 0], [0, 1], [0, 0]])
        gt_classes = tf.pad(gt_classes, [[0, 0], [0, 1]])
        rois, *matched = super().call(tf.where(empty, -1.0, boxes), gt_boxes, gt_classes)
        # With no proposal at all there is nothing else to return: background of no area.
        return tf.maximum(rois, 0.0), *matched


class BoxSampler(box_sampler.BoxSampler):
    """Draws boxes; where there are too few of a kind, some of it repeatedly, as the reference does.

    Model Garden's fills up with boxes that are neither foreground nor background.

    Args:
      seed: of the draws.
      **kwargs: `num_samples` and `foreground_fraction`, see Model Garden's layer.
    """

    def __init__(self, seed: int, **kwargs):
        super().__init__(**kwargs)
        self._generator = tf.random.Generator.from_seed(seed)

    def call(
        self, positive_matches: tf.Tensor, negative_matches: tf.Tensor, ignored_matches: tf.Tensor
    ) -> tf.Tensor:
        """Marks [B, N] of foreground and background to indices [B, num_samples], foreground first.

        The foreground gets its share at most, or everything where there is no background.
        """
        del ignored_matches
        order = self._generator.uniform(tf.shape(positive_matches))
        foreground = tf.argsort(tf.where(positive_matches, order, 2.0), axis=1)  # [B, N]
        background = tf.argsort(tf.where(negative_matches, order, 2.0), axis=1)
        num_foreground = tf.math.count_nonzero(positive_matches, 1, True, tf.int32)  # [B, 1]
        num_background = tf.math.count_nonzero(negative_matches, 1, True, tf.int32)

        config = self.get_config()
        num_samples = config["num_samples"]
        most = round(num_samples * config["foreground_fraction"])
        wanted = tf.where(num_background > 0, tf.minimum(num_foreground, most), num_samples)
        wanted = tf.where(num_foreground > 0, wanted, 0)  # [B, 1]

        slots = tf.range(num_samples)[tf.newaxis]  # [1, num_samples]
        first = tf.gather(foreground, slots % tf.maximum(num_foreground, 1), batch_dims=1)
        second = tf.gather(
            background, tf.abs(slots - wanted) % tf.maximum(num_background, 1), batch_dims=1
        )
        return tf.where(slots < wanted, first, second)
