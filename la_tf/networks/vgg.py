"""VGG16 with batch normalisation after every convolution (section 4.1)."""

import tensorflow as tf

from la_tf.networks.layers import ConvBackbone

# Configuration D of Simonyan and Zisserman: (filters, convolutions) of each block.
BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


@tf.keras.utils.register_keras_serializable(package="la_tf")
class VGG16(ConvBackbone):
    """The thirteen 3x3 convolutions of VGG16, conv1_1 to conv5_3, each block ending in pooling.

    The official code normalises the last convolution of a block alone; the paper says all. Levels:
    '0' is conv1_2, '1' conv2_2, '2' conv3_3, '3' conv4_3, '4' conv5_3 before the last pooling, '5'
    the last pooling, 7x7x512 at 224 pixels. Small images need no variant of the convolutions: 32
    pixels leave 1x1x512.
    """

    readout_layers = {  # noqa: RUF012
        f"conv{i}": f"conv{i}_{repeats}_relu" for i, (_, repeats) in enumerate(BLOCKS, 1)
    }

    def _endpoints(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        x, endpoints = images, {}
        for block, (filters, repeats) in enumerate(BLOCKS, 1):
            for i in range(1, repeats + 1):
                x = self._conv(x, filters, 3, f"conv{block}_{i}")
            endpoints[str(block - 1)] = x
            x = tf.keras.layers.MaxPool2D(2, name=f"pool{block}")(x)
        endpoints[str(len(BLOCKS))] = x
        return endpoints
