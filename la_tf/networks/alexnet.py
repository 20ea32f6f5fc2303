"""AlexNet with batch normalisation, as in the official code."""

from typing import Any

import tensorflow as tf

from la_tf.networks.layers import ConvBackbone


@tf.keras.utils.register_keras_serializable(package="la_tf")
class AlexNet(ConvBackbone):
    """The five convolutions of AlexNet-BN (section 4.1), without local response normalisation.

    At 224 pixels the convolutions are 54, 26, 12, 12 and 12 pixels wide, and the last pooling
    leaves 5x5x256 for fc6. Levels: '2' is conv1, '3' conv2, '4' conv5 before the last pooling, '5'
    the last pooling.

    The variant for small images is ours, for the paper has none: conv1 is 5x5 with stride 1, and
    everything is padded, so that 32 pixels become 32, 16, 8, 8, 8 and 4x4x256. Levels: '0' is
    conv1, '1' conv2, '2' conv5, '3' the last pooling.

    Args:
      small_images: build the variant for small images.
      padding: 'valid' as in the paper's network, or 'same', with which the tensor at level l has
        ceil(H / 2^l) rows, as the anchors of a detector ask; the weights fit both.
      **kwargs: see `ConvBackbone`.
    """

    readout_layers = {f"conv{i}": f"conv{i}_relu" for i in range(1, 6)}  # noqa: RUF012

    def __init__(self, small_images: bool = False, padding: str = "valid", **kwargs: Any):
        self._small_images = small_images
        self._padding = padding
        super().__init__(**kwargs)

    def _endpoints(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        padding = "same" if self._small_images else self._padding
        kernel_size, strides, first_level = (5, 1, 0) if self._small_images else (11, 4, 2)

        def pool(x: tf.Tensor, name: str) -> tf.Tensor:
            return tf.keras.layers.MaxPool2D(3, strides=2, padding=padding, name=name)(x)

        conv1 = self._conv(images, 64, kernel_size, "conv1", strides=strides, padding=padding)
        conv2 = self._conv(pool(conv1, "pool1"), 192, 5, "conv2")
        conv3 = self._conv(pool(conv2, "pool2"), 384, 3, "conv3")
        conv4 = self._conv(conv3, 384, 3, "conv4")
        conv5 = self._conv(conv4, 256, 3, "conv5")
        by_level = [conv1, conv2, conv5, pool(conv5, "pool5")]
        return {str(level): tensor for level, tensor in enumerate(by_level, first_level)}

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as `from_config` takes them."""
        config = {"small_images": self._small_images, "padding": self._padding}
        return super().get_config() | config
