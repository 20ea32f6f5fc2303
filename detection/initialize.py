"""The weights of a network, trained or fresh, into a detector; every tensor accounted for."""

import dataclasses
from collections.abc import Iterable

import tensorflow as tf

from detection.backbones import BackboneError
from detection.model import stage5_blocks
from detection.records import Records
from la_tf.data.augment import center_view
from la_tf.networks import build_network

# Layers of a run that a detector does not have, and layers of a detector that a run does not have.
LEFT_BEHIND = ("embedding",)
OWN = ("detection-scores", "detection-boxes")

_PICTURES = 128  # for the statistics of a fresh network; beyond, they hardly change
_BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True)
class Account:
    """What became of every tensor.

    Attributes:
      taken: names of the detector's tensors that now hold trained values.
      new: of the detector's tensors that keep their fresh values.
      left: of the run's tensors that a detector has no use for.
    """

    taken: list[str]
    new: list[str]
    left: list[str]


def fresh_network(name: str, image_size: int, records: Records) -> tf.keras.Model:
    """A network before its first step, with the statistics of pictures in its batch normalisation.

    A detector's batch normalisation is frozen. Without the statistics of pictures, the row of
    random weights would differ from that of a trained run by more than training, and a ResNet's
    activations would grow from block to block.

    Args:
      name: of the architecture.
      image_size: S, side of the square images that it is built for.
      records: the pictures to train the detector on; their centre views are used.
    """
    network = build_network(name, image_size)
    feature = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}

    def view(index: tf.Tensor) -> tf.Tensor:
        example = tf.io.parse_single_example(records.load(index), feature)
        return center_view(example["image/encoded"], image_size)

    views = tf.data.Dataset.range(min(_PICTURES, len(records))).map(view)
    # A batch of a few pictures would count as much as a whole one.
    whole = len(records) >= _BATCH_SIZE
    calibrate_batch_norm(network, views.batch(_BATCH_SIZE, drop_remainder=whole))
    return network


def calibrate_batch_norm(network: tf.keras.Model, batches: Iterable[tf.Tensor]) -> None:
    """Gives batch normalisation the mean of the statistics of some batches.

    Args:
      network: whose moving statistics are replaced.
      batches: images [B, S, S, 3], normalised, as the network is trained on.
    """
    norms = [m for m in network.submodules if isinstance(m, tf.keras.layers.BatchNormalization)]
    for count, images in enumerate(batches, start=1):
        for norm in norms:
            norm.momentum = 1 - 1 / count  # so that the moving average is the mean so far
        network(images, training=True)


def take_weights(detector: tf.keras.Model, trained: tf.keras.Model) -> Account:
    """Copies a network into a detector.

    Args:
      detector: from `detection.model.build_detector`.
      trained: from `la_tf.networks.build_network`, of the same architecture, or `fresh_network`.

    Raises:
      BackboneError: a tensor of the run has no place in the detector, or has another shape, or a
        tensor of the detector's backbone or head has no counterpart in the run; the message names
        it. Nothing has been copied then.
    """
    pairs = [
        (source, target)
        for trained_layer, layer in _layers(detector, trained)
        for source, target in _tensors(trained_layer, layer)
    ]
    used = {id(source) for source, _ in pairs}
    left = [tensor.name for tensor in trained.weights if id(tensor) not in used]
    for name in left:
        if not name.startswith(LEFT_BEHIND):
            raise _no_place(name)
    filled = {id(target) for _, target in pairs}
    new = [tensor.name for tensor in detector.weights if id(tensor) not in filled]
    for name in new:
        if not _is_own(name):
            raise BackboneError(f"the detector has the tensor {name}, and the run has none.")
    for source, target in pairs:
        target.assign(source)
    return Account([target.name for _, target in pairs], new, left)


def _layers(detector, trained) -> list[tuple[tf.keras.layers.Layer, tf.keras.layers.Layer]]:
    """Pairs of layers that hold the same weights: the run's, the detector's."""
    backbone = trained.get_layer("backbone")
    names = {layer.name for layer in detector.backbone.layers}
    pairs = [
        (layer, detector.backbone.get_layer(layer.name))
        for layer in backbone.layers
        if layer.name in names
    ]
    (head,) = detector.detection_head
    if blocks := stage5_blocks(backbone):
        return [*pairs, *zip(blocks, head.blocks, strict=True)]
    parts = {layer.name: layer for layer in head.submodules}
    for index, name in enumerate(("fc6", "fc7")):
        pairs.append((trained.get_layer(name), parts[f"detection-fc_{index}"]))
        pairs.append((trained.get_layer(f"{name}_bn"), parts[f"detection-fc-bn_{index}"]))
    return pairs


def _tensors(trained_layer, layer) -> list[tuple[tf.Variable, tf.Variable]]:
    """Pairs of tensors of two layers of one kind, whether or not one of them is frozen."""
    pairs = []
    leaves = zip(_leaves(trained_layer), _leaves(layer), strict=True)
    for trained_leaf, leaf in leaves:
        targets = {_kind(tensor): tensor for tensor in leaf.weights}
        for tensor in trained_leaf.weights:
            target = targets.get(_kind(tensor))
            if target is None:
                raise _no_place(tensor.name)
            if target.shape != tensor.shape:
                raise BackboneError(
                    f"the run's tensor {tensor.name} has the shape {tuple(tensor.shape)}, the "
                    f"detector's {target.name} {tuple(target.shape)}."
                )
            pairs.append((tensor, target))
    return pairs


def _leaves(layer: tf.keras.layers.Layer) -> list[tf.keras.layers.Layer]:
    """The layers inside a block that hold weights, in a fixed order; a plain layer is its own."""
    inside = [m for m in layer.submodules if isinstance(m, tf.keras.layers.Layer) and m.weights]
    return inside or [layer]


def _no_place(name: str) -> BackboneError:
    return BackboneError(f"the run has the tensor {name}, and the detector no place for it.")


def _kind(tensor: tf.Variable) -> str:
    """'kernel' of 'conv2_block1/conv1/kernel:0'."""
    return tensor.name.rpartition("/")[2].partition(":")[0]


def _is_own(name: str) -> bool:
    # The detector's dense layers have biases, fc6 and fc7, before batch normalisation, none.
    fc_bias = "/detection-fc_" in name and name.endswith("bias:0")
    return fc_bias or "rpn_head/" in name or any(f"{own}/" in name for own in OWN)
