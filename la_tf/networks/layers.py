"""What the convolutional backbones share: numbers, the conv-BN-ReLU unit, the backbone class."""

from typing import Any

import tensorflow as tf

NORM_MOMENTUM = 0.997  # official
NORM_EPSILON = 1e-5  # official
KERNEL_INITIALIZER = "he_normal"  # a ReLU follows every one of our kernels but the embedding's
ANY_IMAGE = tf.keras.layers.InputSpec(shape=[None, None, None, 3])


class Rebuilt:
    """A backbone that Keras stores as its constructor's arguments, and builds again from them."""

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as `from_config` takes them."""
        return {
            "input_specs": list(self._input_specs.shape),
            "use_sync_bn": self._use_sync_bn,
            "norm_momentum": self._norm_momentum,
            "norm_epsilon": self._norm_epsilon,
            "kernel_regularizer": tf.keras.regularizers.serialize(self._kernel_regularizer),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> tf.keras.Model:
        """A backbone of the same architecture, freshly initialised."""
        input_specs = tf.keras.layers.InputSpec(shape=config["input_specs"])
        return cls(**{**config, "input_specs": input_specs})


class ConvBackbone(Rebuilt, tf.keras.Model):
    """A plain stack of convolutions as a TF Model Garden backbone.

    Called on images [B, H, W, 3], it returns a dict of endpoints: key `str(l)` is the last tensor
    computed at stride 2^l. A subclass writes `_endpoints`, and names in `readout_layers` the layer
    behind each of conv1 to conv5 for the linear readouts (section 4.2): after batch normalisation
    and ReLU, before pooling.

    Kernels start He-normal, and no convolution has a bias, since batch normalisation follows each.

    Args:
      input_specs: shape [B, H, W, 3] of the images; H and W may be unknown.
      use_sync_bn: batch statistics over all replicas instead of each its own.
      norm_momentum: how much of the moving statistics one step keeps.
      norm_epsilon: added to the variance.
      kernel_regularizer: penalty on every kernel, for Model Garden's own training loop.
      **kwargs: `name` and `trainable` of the Keras model.
    """

    readout_layers: dict[str, str]

    def __init__(
        self,
        input_specs: tf.keras.layers.InputSpec = ANY_IMAGE,
        use_sync_bn: bool = False,
        norm_momentum: float = NORM_MOMENTUM,
        norm_epsilon: float = NORM_EPSILON,
        kernel_regularizer: tf.keras.regularizers.Regularizer | None = None,
        **kwargs: Any,
    ):
        self._input_specs = input_specs
        self._use_sync_bn = use_sync_bn
        self._norm_momentum = norm_momentum
        self._norm_epsilon = norm_epsilon
        self._kernel_regularizer = tf.keras.regularizers.get(kernel_regularizer)
        images = tf.keras.Input(shape=input_specs.shape[1:], name="images")
        super().__init__(inputs=images, outputs=self._endpoints(images), **kwargs)

    def _endpoints(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Images [B, H, W, 3] -> one tensor a level."""
        raise NotImplementedError

    def _conv(
        self,
        x: tf.Tensor,
        filters: int,
        kernel_size: int,
        name: str,
        strides: int = 1,
        padding: str = "same",
    ) -> tf.Tensor:
        """Convolution without bias, batch normalisation, ReLU: `name`, `name_bn`, `name_relu`."""
        x = tf.keras.layers.Conv2D(
            filters,
            kernel_size,
            strides=strides,
            padding=padding,
            use_bias=False,
            kernel_initializer=KERNEL_INITIALIZER,
            kernel_regularizer=self._kernel_regularizer,
            name=name,
        )(x)
        x = tf.keras.layers.BatchNormalization(
            momentum=self._norm_momentum,
            epsilon=self._norm_epsilon,
            synchronized=self._use_sync_bn,
            name=f"{name}_bn",
        )(x)
        return tf.keras.layers.ReLU(name=f"{name}_relu")(x)

    @property
    def output_specs(self) -> dict[str, tf.TensorShape]:
        """The shape of the tensor at each level."""
        return {level: tensor.shape for level, tensor in self.output.items()}
