"""Which regions of a picture are proposed, and what the head sees of each."""

import tensorflow as tf
from official.vision.modeling.heads import dense_prediction_heads
from official.vision.modeling.layers import roi_aligner, roi_generator

from detection.anchors import ANCHORS_PER_PLACE
from detection.backbones import LEVEL, POOL_STRIDE, STRIDE


class RPNHead(dense_prediction_heads.RPNHead):
    """Model Garden's, with output kernels that start as the reference's: deviation 0.01."""

    def build(self, input_shape):
        """Makes the layers; Model Garden's deviation of their kernels is 1e-5."""
        super().build(input_shape)
        for layer in (self._classifier, self._box_regressor):
            layer.kernel_initializer = tf.keras.initializers.RandomNormal(stddev=0.01)


class ROIGenerator(roi_generator.MultilevelROIGenerator):
    """Model Garden's proposals without those of anchors whose centre lies outside the picture.

    These anchors exist only because the canvas is padded, and are never trained. Many reach into
    the picture: clipped to it, they would take the places of trained ones.
    """

    def call(
        self,
        raw_boxes: dict[str, tf.Tensor],
        raw_scores: dict[str, tf.Tensor],
        anchor_boxes: dict[str, tf.Tensor],
        image_shape: tf.Tensor,
        training: bool | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """As the base class; image_shape [B, 2] is the scaled picture's, without the padding."""
        inside_picture = {}
        for level, flat in anchor_boxes.items():
            _, rows, columns, _ = flat.shape
            anchors = tf.reshape(flat, [-1, rows, columns, ANCHORS_PER_PLACE, 4])
            centres = (anchors[..., :2] + anchors[..., 2:]) / 2  # [B, h, w, A, 2]
            size = tf.cast(image_shape, anchors.dtype)[:, tf.newaxis, tf.newaxis, tf.newaxis]
            inside = tf.reduce_all(centres < size, axis=-1, keepdims=True)
            # An anchor of no area makes a box of no area, which is left out before top-k and NMS.
            anchors = tf.where(inside, anchors, 0.0)
            inside_picture[level] = tf.reshape(anchors, [-1, rows, columns, ANCHORS_PER_PLACE * 4])
        return super().call(raw_boxes, raw_scores, inside_picture, image_shape, training)


class ROIAligner(roi_aligner.MultilevelROIAligner):
    """Model Garden's bilinear crops, sampled and pooled as the network behind them was trained.

    Max-pooling lies between the map and fc6 of AlexNet and VGG16. So a crop gets as many samples as
    that pooling needs, at its own stride, and is pooled to what fc6 takes: at 224 pixels 14 to 7 by
    2x2 for VGG16, and 11 to 5 by 3x3 for AlexNet. A region of just the size of VGG16's training
    images gives fc6 what it gets in the network itself.

    Args:
      crop_size: side of what the head takes, in feature pixels.
      pool_size: side of the network's last pooling, of stride 2; 0 where there is none.
      **kwargs: see Model Garden's layer.
    """

    def __init__(self, crop_size: int, pool_size: int, **kwargs):
        samples = (crop_size - 1) * POOL_STRIDE + pool_size if pool_size else crop_size
        super().__init__(crop_size=samples, **kwargs)
        self._pool_size = pool_size

    def call(
        self, features: dict[str, tf.Tensor], boxes: tf.Tensor, training: bool | None = None
    ) -> tf.Tensor:
        """Maps by level and boxes [B, R, 4] in pixels to crops [B, R, crop, crop, C]."""
        # A feature pixel covers the picture from 16 i to 16 (i + 1), and Model Garden takes its
        # value to lie at 16 i: half a stride off. The first row and column once more, or samples
        # before their middle would be extrapolated.
        edges = [[0, 0], [1, 0], [1, 0], [0, 0]]
        level = str(LEVEL)
        features = {level: tf.pad(features[level], edges, "SYMMETRIC")}
        crops = super().call(features, boxes + STRIDE / 2, training)  # [B, R, s, s, C]
        if not self._pool_size:
            return crops
        _, regions, side, _, channels = crops.shape
        crops = tf.reshape(crops, [-1, side, side, channels])  # [B * R, s, s, C]
        pooled = tf.nn.max_pool2d(crops, self._pool_size, POOL_STRIDE, "VALID")
        return tf.reshape(pooled, [-1, regions, *pooled.shape[1:]])
