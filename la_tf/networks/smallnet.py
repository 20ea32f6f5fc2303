"""A network of our own for laptops and 32-pixel images."""

import tensorflow as tf

from la_tf.networks.layers import ConvBackbone

# (filters, whether 2x2 max-pooling follows) of conv1 to conv5.
LAYERS = ((32, True), (64, True), (128, False), (128, True), (256, False))


@tf.keras.utils.register_keras_serializable(package="la_tf")
class SmallNet(ConvBackbone):
    """Five 3x3 convolutions, 24 million multiply-adds at 32 pixels; not in the paper.

    At 32 pixels the convolutions are 32, 16, 8, 8 and 4 pixels wide. Levels: '0' is conv1, '1'
    conv2, '2' conv4, '3' conv5.
    """

    readout_layers = {f"conv{i}": f"conv{i}_relu" for i in range(1, 6)}  # noqa: RUF012

    def _endpoints(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        x, endpoints = images, {}
        for i, (filters, pooled) in enumerate(LAYERS, 1):
            x = self._conv(x, filters, 3, f"conv{i}")
            if pooled:
                endpoints[str(len(endpoints))] = x
                x = tf.keras.layers.MaxPool2D(2, name=f"pool{i}")(x)
        endpoints[str(len(endpoints))] = x
        return endpoints
