"""Linear readouts on frozen layers (section 4.2, supplement B.1).

One dense layer on each of conv1 to conv5, all trained at once on the same batches by softmax
cross-entropy; the network runs in inference mode and has no gradient. The error of an image is
that of the mean of the softmaxes over ten crops.
"""

import dataclasses
import math
from collections.abc import Collection

import numpy as np
import tensorflow as tf

from la_tf.config import OptimizerConfig
from la_tf.data.base import Source
from la_tf.data.crops import ten_crop_views
from la_tf.data.pipeline import EVAL_BATCH_SIZE, ordered_dataset
from la_tf.memory import require_memory
from la_tf.networks import readouts as readout_layers

MAX_FEATURES = 100_000  # larger maps are average-pooled first, as in the official code


@dataclasses.dataclass(frozen=True)
class ReadoutConfig:
    """How readouts are trained; every default is the paper's (section 4.2).

    Attributes:
      optimizer: rate, momentum, weight decay, and the epochs before which the rate falls tenfold.
      epochs: passes over the training images.
      batch_size: images a step, over all replicas.
      crop: 'margin' or 'area', see `data.crops`; or 'center', one fixed crop of each image, whose
        features are computed once and kept in memory.
      flip: mirror half of the random crops, and validate on mirrored crops too.
      seed: of the order and the crops.
    """

    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(learning_rate=0.01, drop_epochs=(30, 60))
    )
    epochs: int = 90
    batch_size: int = 128
    crop: str = "margin"
    flip: bool = True
    seed: int = 0


def layer_features(
    network: tf.keras.Model,
    max_features: int = MAX_FEATURES,
    layers: Collection[str] | None = None,
) -> tf.keras.Model:
    """Images [B, S, S, 3] -> {'conv1': [B, F1], ... 'conv5': [B, F5]}, flat.

    A map of more than `max_features` values is average-pooled over the smallest squares that bring
    it below. With `layers`, some of these names, nothing above them is computed.
    """
    tensors = {
        name: _flat(tensor, max_features)
        for name, tensor in readout_layers(network, layers).items()
    }
    return tf.keras.Model(network.input, tensors, name="layer_features")


def pixel_features(image_size: int, max_features: int = MAX_FEATURES) -> tf.keras.Model:
    """Images [B, S, S, 3] -> {'pixels': [B, F]}, pooled alike: a baseline without a network."""
    images = tf.keras.Input((image_size, image_size, 3))
    return tf.keras.Model(images, {"pixels": _flat(images, max_features)}, name="pixel_features")


def _flat(tensor: tf.Tensor, max_features: int) -> tf.Tensor:
    height, width, channels = tensor.shape[1:]
    pool, one_pixel = 1, max(height, width)  # whose channels may be more than that
    while (
        pool < one_pixel
        and math.ceil(height / pool) * math.ceil(width / pool) * channels > max_features
    ):
        pool += 1
    if pool > 1:
        tensor = tf.keras.layers.AveragePooling2D(pool, padding="same")(tensor)
    return tf.keras.layers.Flatten()(tensor)


def centre_features(features: tf.keras.Model, source: Source, remedy: str) -> dict[str, np.ndarray]:
    """Features of one centre crop of each image, in memory.

    Args:
      features: images [B, S, S, 3] -> {name: [B, F]}.
      source: N images.
      remedy: what to do where memory is short.

    Returns:
      {name: float32 [N, F]}.

    Raises:
      RunError: they do not fit in memory.
    """
    count, image_size = source.num_examples, features.input_shape[1]
    widths = {name: tensor.shape[1] for name, tensor in features.output.items()}
    require_memory(4 * count * sum(widths.values()), f"the features of {count} images", remedy)
    found = {name: np.empty([count, width], np.float32) for name, width in widths.items()}
    forward = tf.function(
        lambda x: features(x, training=False), autograph=False, reduce_retracing=True
    )
    # The centre crop of validation, which has a margin where `center_view` has none.
    views = ordered_dataset(
        source, lambda encoded: ten_crop_views(encoded, image_size, flip=False)[0], EVAL_BATCH_SIZE
    )
    for indices, images in views:
        for name, values in forward(images).items():
            found[name][indices.numpy()] = values.numpy()
    return found


class Readouts(tf.Module):
    """One dense layer to the classes, from zero weights, on each of several frozen features.

    Attributes:
      features: images [B, S, S, 3] -> {name: [B, F]}.
      dense: name -> the readout. Their problem is convex, so that they can start at zero.
    """

    def __init__(self, features: tf.keras.Model, num_classes: int):
        """Makes the readouts; under a strategy, call it in its scope."""
        super().__init__(name="readouts")
        self.features = features
        self.dense = {}
        for name, tensor in features.output.items():
            self.dense[name] = tf.keras.layers.Dense(
                num_classes, kernel_initializer="zeros", dtype="float32", name=f"readout_{name}"
            )
            self.dense[name].build(tensor.shape)

    @property
    def weights(self) -> list[tf.Variable]:
        """The kernels and biases of the readouts, which alone are trained."""
        return [weight for layer in self.dense.values() for weight in layer.trainable_weights]

    def arrays(self) -> dict[str, np.ndarray]:
        """Kernels [F, classes] and biases [classes] under `conv1/kernel`, `conv1/bias` and so on.

        Logits are flat features, see `layer_features`, times the kernel, and the bias.
        """
        return {
            f"{name}/{part}": weight.numpy()
            for name, layer in self.dense.items()
            for part, weight in (("kernel", layer.kernel), ("bias", layer.bias))
        }

    def losses(self, features: dict[str, tf.Tensor], labels: tf.Tensor) -> dict[str, tf.Tensor]:
        """{name: [B, F]} and labels [B] -> {name: [B]} cross-entropies."""
        return {
            name: tf.nn.sparse_softmax_cross_entropy_with_logits(labels, layer(features[name]))
            for name, layer in self.dense.items()
        }

    def penalty(self) -> tf.Tensor:
        """Half the sum of the kernels' squares, whose gradient is the kernel."""
        return tf.add_n([tf.nn.l2_loss(layer.kernel) for layer in self.dense.values()])

    def probabilities(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Images [B, S, S, 3] -> {name: [B, classes]}."""
        features = self.features(images, training=False)
        return {name: tf.nn.softmax(layer(features[name])) for name, layer in self.dense.items()}


def train_step(
    readouts: Readouts,
    optimizer: tf.keras.optimizers.Optimizer,
    weight_decay: float,
    global_batch_size: int,
    features: dict[str, tf.Tensor],
    labels: tf.Tensor,
) -> dict[str, tf.Tensor]:
    """One step of one replica; its gradients are summed with those of the other replicas.

    Args:
      readouts: to be trained.
      optimizer: of `readouts.weights`.
      weight_decay: lambda; its gradient is lambda times the kernel.
      global_batch_size: images of all replicas.
      features: {name: [B, F]}.
      labels: [B].

    Returns:
      {name: this replica's part of the mean loss}.
    """
    replicas = tf.distribute.get_replica_context().num_replicas_in_sync
    with tf.GradientTape() as tape:
        losses = {
            name: tf.reduce_sum(values) / global_batch_size
            for name, values in readouts.losses(features, labels).items()
        }
        objective = tf.add_n(list(losses.values())) + weight_decay * readouts.penalty() / replicas
    gradients = tape.gradient(objective, readouts.weights)
    optimizer.apply_gradients(zip(gradients, readouts.weights, strict=True))
    return losses


def ten_crop_accuracy(
    readouts: Readouts, heldout: Source, image_size: int, flip: bool = True, batch_size: int = 12
) -> dict[str, float]:
    """Share of held-out images whose class has the largest mean softmax over their crops.

    There are ten crops of S = `image_size` pixels, or without `flip` the five that are not
    mirrored. A batch is counted in images.

    Returns:
      {name of the readout: accuracy}.
    """

    @tf.function(autograph=False, reduce_retracing=True)
    def predict(crops: tf.Tensor) -> dict[str, tf.Tensor]:
        shape = tf.shape(crops)
        scores = readouts.probabilities(tf.reshape(crops, tf.concat([[-1], shape[2:]], axis=0)))
        return {
            name: tf.argmax(tf.reduce_mean(tf.reshape(p, [shape[0], shape[1], -1]), axis=1), axis=1)
            for name, p in scores.items()
        }

    right = dict.fromkeys(readouts.dense, 0)
    views = ordered_dataset(
        heldout, lambda encoded: ten_crop_views(encoded, image_size, flip), batch_size
    )
    for indices, crops in views:
        labels = heldout.labels[indices.numpy()]
        for name, predicted in predict(crops).items():
            right[name] += int(np.sum(predicted.numpy() == labels))
    return {name: count / heldout.num_examples for name, count in right.items()}
