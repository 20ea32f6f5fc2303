"""ResNet-18 and ResNet-50: TF Model Garden's own, with readable names and a small-image stem."""

import itertools
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from official.vision.modeling.backbones import resnet

from la_tf.networks.layers import ANY_IMAGE, NORM_EPSILON, NORM_MOMENTUM, Rebuilt


@tf.keras.utils.register_keras_serializable(package="la_tf")
class ResNet(Rebuilt, resnet.ResNet):
    """TF Model Garden's post-activation ResNet.

    The paper names only the depth and the official code is the pre-activation variant. This one is
    a deviation, so that the same network and weights serve training and Faster R-CNN. Kernels start
    as Model Garden's do, by variance scaling. Levels '2' to '5' are the outputs of the four stages,
    conv2 to conv5.

    The variant for small images, usual on CIFAR and not in the paper, has a 3x3 stem with stride 1
    and no max-pooling. Its keys still count the stages, 2 to 5, but the strides are 1, 2, 4 and 8.

    Args:
      model_id: the depth, 18 or 50.
      input_specs: shape [B, H, W, 3] of the images; H and W may be unknown.
      small_images: build the variant for small images.
      norm_momentum: how much of the moving statistics one step keeps.
      norm_epsilon: added to the variance.
      kernel_regularizer: penalty on every kernel, for Model Garden's own training loop.
      **kwargs: `name` of the Keras model, and `use_sync_bn`: batch statistics over all replicas
        instead of each its own.
    """

    def __init__(
        self,
        model_id: int,
        input_specs: tf.keras.layers.InputSpec = ANY_IMAGE,
        small_images: bool = False,
        norm_momentum: float = NORM_MOMENTUM,
        norm_epsilon: float = NORM_EPSILON,
        kernel_regularizer: tf.keras.regularizers.Regularizer | None = None,
        **kwargs: Any,
    ):
        self._small_images = small_images
        super().__init__(
            model_id=model_id,
            input_specs=input_specs,
            norm_momentum=norm_momentum,
            norm_epsilon=norm_epsilon,
            kernel_regularizer=tf.keras.regularizers.get(kernel_regularizer),
            **kwargs,
        )

    @property
    def readout_layers(self) -> dict[str, str]:
        """The layers behind conv1 (the whole stem) to conv5 for the linear readouts."""
        stem = "conv1_relu" if self._small_images else "conv1_pool"
        return {"conv1": stem} | {f"conv{i}": f"conv{i}" for i in range(2, 6)}

    def _stem(self, inputs: tf.Tensor) -> tf.Tensor:
        """Model Garden's stem 'v0' under names of our own, or the one for small images."""
        x = tf.keras.layers.Conv2D(
            64,
            kernel_size=3 if self._small_images else 7,
            strides=1 if self._small_images else 2,
            padding="same",
            use_bias=False,
            kernel_initializer=self._kernel_initializer,
            kernel_regularizer=self._kernel_regularizer,
            name="conv1",
        )(inputs)
        x = tf.keras.layers.BatchNormalization(
            momentum=self._norm_momentum,
            epsilon=self._norm_epsilon,
            synchronized=self._use_sync_bn,
            name="conv1_bn",
        )(x)
        x = tf.keras.layers.ReLU(name="conv1_relu")(x)
        if self._small_images:
            return x
        return tf.keras.layers.MaxPool2D(3, strides=2, padding="same", name="conv1_pool")(x)

    def _block_group(
        self, *, block_fn: Callable[..., tf.keras.layers.Layer], name: str, **kwargs: Any
    ) -> tf.Tensor:
        """Model Garden's stage, called conv2 to conv5, with blocks conv2_block1 and so on.

        Model Garden leaves the blocks and all that is in them to Keras's running numbers, which
        depend on what else the process has built.
        """
        name = name.replace("block_group_l", "conv")
        numbers = itertools.count(1)

        def named_block(**arguments: Any) -> Callable[[tf.Tensor], tf.Tensor]:
            block = block_fn(name=f"{name}_block{next(numbers)}", **arguments)

            def apply(x: tf.Tensor) -> tf.Tensor:
                # build() makes the block's layers but not yet their weights, which take the names.
                block.build(x.shape)
                for attribute, value in vars(block).items():
                    if isinstance(value, tf.keras.layers.Layer):
                        value._name = _readable(attribute)
                return block(x)

            return apply

        return super()._block_group(block_fn=named_block, name=name, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as `from_config` takes them."""
        config = {"model_id": self._model_id, "small_images": self._small_images}
        return super().get_config() | config


def _readable(attribute: str) -> str:
    """'_conv1' -> 'conv1', '_norm1' -> 'conv1_bn', '_norm0' -> 'shortcut_bn'."""
    name = attribute.lstrip("_")
    if not name.startswith("norm"):
        return name
    return "shortcut_bn" if name == "norm0" else name.replace("norm", "conv") + "_bn"
