"""The detection heads, fc6 and fc7 or stage five on every region, and the final NMS."""

import math

import tensorflow as tf
from official.vision.modeling.heads import instance_heads
from official.vision.modeling.layers import detection_generator

DROPOUT = 0.5  # the reference's, after fc6 and fc7


class FullyConnectedHead(instance_heads.DetectionHead):
    """Model Garden's head of dense layers, with dropout after each while training.

    Args:
      seed: of the dropout. How often it was drawn is saved with the model, as with
        `sampling.BoxSampler`.
      **kwargs: see Model Garden's head.
    """

    def __init__(self, seed: int, **kwargs):
        super().__init__(**kwargs)
        self._generator = tf.random.Generator.from_seed(seed)

    def call(
        self, roi_features: tf.Tensor, training: bool | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Crops [B, R, h, w, C] to class logits [B, R, classes] and boxes [B, R, classes * 4]."""
        _, regions, *crop = roi_features.shape
        x = tf.reshape(roi_features, [-1, regions, math.prod(crop)])  # [B, R, h * w * C]
        for dense, norm in zip(self._fcs, self._fc_norms, strict=True):
            x = self._activation(norm(dense(x)))  # [B, R, C']
            if training:
                seed = self._generator.make_seeds()[:, 0]
                x = tf.nn.experimental.stateless_dropout(x, DROPOUT, seed)
        return self._classifier(x), self._box_regressor(x)


class Stage5Head(tf.keras.layers.Layer):
    """Stage five at stride 1, global average, and two dense layers, as in the reference.

    Args:
      blocks: the residual blocks of stage five in the network that is cut, or their like. The head
        builds its own from their configuration; the first has stride 1.
      num_classes: with the background.
      kernel_regularizer: penalty on kernels.
      **kwargs: of the Keras layer.
    """

    def __init__(
        self,
        blocks: list[tf.keras.layers.Layer],
        num_classes: int,
        kernel_regularizer: tf.keras.regularizers.Regularizer | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.blocks = [type(b).from_config(b.get_config() | {"strides": 1}) for b in blocks]

        def dense(units: int, stddev: float, name: str) -> tf.keras.layers.Layer:
            start = tf.keras.initializers.RandomNormal(stddev=stddev)
            options = {"kernel_initializer": start, "kernel_regularizer": kernel_regularizer}
            return tf.keras.layers.Dense(units, **options, name=name)

        self._scores = dense(num_classes, 0.01, "detection-scores")
        self._boxes = dense(num_classes * 4, 0.001, "detection-boxes")

    def call(self, roi_features: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Crops [B, R, h, w, C] to class logits [B, R, classes] and boxes [B, R, classes * 4]."""
        _, regions, height, width, channels = roi_features.shape
        x = tf.reshape(roi_features, [-1, height, width, channels])  # [B * R, h, w, C]
        for block in self.blocks:
            x = block(x)
        x = tf.reduce_mean(x, axis=[1, 2])  # [B * R, C']
        x = tf.reshape(x, [-1, regions, x.shape[-1]])  # [B, R, C']
        return self._scores(x), self._boxes(x)


class DetectionGenerator(detection_generator.DetectionGenerator):
    """Model Garden's final NMS, without regions that are empty boxes.

    Model Garden fills up with them where there are too few proposals. All get the same scores, and
    NMS cannot suppress what has no area: they would crowd out the others.
    """

    def __call__(
        self, raw_boxes: tf.Tensor, raw_scores: tf.Tensor, anchor_boxes: tf.Tensor, *args, **kwargs
    ) -> dict[str, tf.Tensor]:
        """As the base class; raw_scores [B, R, classes] of the regions anchor_boxes [B, R, 4]."""
        empty = tf.reduce_any(anchor_boxes[..., 2:] <= anchor_boxes[..., :2], axis=-1)  # [B, R]
        # Certain background: the softmax of every class is exactly 0, which is no detection.
        background = tf.one_hot(tf.zeros_like(empty, tf.int32), raw_scores.shape[-1], 1e9)
        raw_scores = tf.where(empty[..., tf.newaxis], background, raw_scores)
        return super().__call__(raw_boxes, raw_scores, anchor_boxes, *args, **kwargs)
