"""The embedding function f_theta: five networks by name (section 4.1), and those of others.

A network is a backbone, which TF Model Garden's detectors take as it is, and an embedding head.
Images up to 64 pixels get a small-image variant, which is ours, for the paper trains at 224 alone:

| network  | above 64 pixels                          | up to 64 pixels                           |
| -------- | ---------------------------------------- | ----------------------------------------- |
| alexnet  | 11x11 stem, stride 4; fc6, fc7 of 4096   | 5x5 stem, stride 1; fc6, fc7 of 1024      |
| vgg16    | fc6, fc7 of 4096                         | the same convolutions; fc6, fc7 of 512    |
| resnet*  | 7x7 stem, stride 2, max-pooling          | 3x3 stem, stride 1, no pooling            |
| smallnet | the same network at every size           |                                           |

`keras:NAME` and `garden:NAME` are those of tf.keras.applications and of TF Model Garden, the same
at every size, see `foreign.ForeignBackbone`; their head averages over the pixels.
"""

import dataclasses
import functools
import numbers
import re
from collections.abc import Callable, Collection

import tensorflow as tf

from la_tf.architectures import PREFIXES, parse
from la_tf.networks.alexnet import AlexNet
from la_tf.networks.foreign import ForeignBackbone
from la_tf.networks.head import embedding_head
from la_tf.networks.layers import NORM_MOMENTUM
from la_tf.networks.resnet import ResNet
from la_tf.networks.smallnet import SmallNet
from la_tf.networks.vgg import VGG16

SMALL_IMAGE_SIZE = 64  # the largest image that gets the variant for small images


@dataclasses.dataclass(frozen=True)
class _Variant:
    """How a network is built for one range of image sizes."""

    backbone: Callable[..., tf.keras.Model]
    min_size: int  # the smallest image that leaves at least one pixel to the head
    fc_units: tuple[int, ...] = ()  # none: global average pooling


# Of each network, the variant for images above SMALL_IMAGE_SIZE and the one for the others.
_VARIANTS = {
    "alexnet": (
        _Variant(AlexNet, 67, (4096, 4096)),
        _Variant(functools.partial(AlexNet, small_images=True), 8, (1024, 1024)),
    ),
    "vgg16": (_Variant(VGG16, 32, (4096, 4096)), _Variant(VGG16, 32, (512, 512))),
    "resnet18": (
        _Variant(functools.partial(ResNet, 18), 32),
        _Variant(functools.partial(ResNet, 18, small_images=True), 8),
    ),
    "resnet50": (
        _Variant(functools.partial(ResNet, 50), 32),
        _Variant(functools.partial(ResNet, 50, small_images=True), 8),
    ),
    "smallnet": (_Variant(SmallNet, 16), _Variant(SmallNet, 16)),
}

NETWORKS = tuple(_VARIANTS)


def _variant(name: str, image_size: int) -> _Variant:
    if name not in _VARIANTS and not name.startswith(PREFIXES):
        listed = ", ".join((*NETWORKS, *(f"{prefix}NAME" for prefix in PREFIXES)))
        raise ValueError(f"unknown network '{name}': choose one of {listed}.")
    if not isinstance(image_size, numbers.Integral):
        raise ValueError(
            f"image_size={image_size} must be a whole number: the side of square images, in pixels."
        )
    if name in _VARIANTS:
        usual, small = _VARIANTS[name]
        variant = small if image_size <= SMALL_IMAGE_SIZE else usual
    else:
        variant = _foreign(name, image_size)
    if image_size < variant.min_size:
        raise ValueError(
            f"images of {image_size} pixels are too small for {name}: "
            f"use an image size of at least {variant.min_size}."
        )
    return variant


def _foreign(name: str, image_size: int) -> _Variant:
    try:
        min_size = parse(name).min_size
    except ValueError as error:
        raise ValueError(f"network {name} {error}.") from None
    specs = tf.keras.layers.InputSpec(shape=[None, image_size, image_size, 3])
    return _Variant(functools.partial(ForeignBackbone, name, specs), min_size)


def build_backbone(
    name: str, image_size: int, sync_bn: bool = False, bn_momentum: float = NORM_MOMENTUM
) -> tf.keras.Model:
    """The convolutional part of a network.

    The image size only chooses between the variants: one of NETWORKS takes images of any size,
    so that a detector can feed it larger ones. Those of other libraries are built for images of S.

    Args:
      name: one of NETWORKS, or another library's as `architectures.parse` takes it.
      image_size: S, side of the square training images in pixels.
      sync_bn: batch statistics over all replicas instead of each its own.
      bn_momentum: how much of the moving statistics one step keeps.

    Returns:
      A model named 'backbone': normalised images [B, H, W, 3] -> dict of level -> [B, h, w, C],
      described by its `output_specs`.

    Raises:
      ValueError: the name is unknown, or S is too small for the network.
    """
    return _variant(name, image_size).backbone(
        use_sync_bn=sync_bn, norm_momentum=bn_momentum, name="backbone"
    )


def build_network(
    name: str,
    image_size: int,
    dim: int = 128,
    sync_bn: bool = False,
    bn_momentum: float = NORM_MOMENTUM,
) -> tf.keras.Model:
    """The embedding function f_theta of section 3.1.

    Args:
      name: as `build_backbone` takes it.
      image_size: S, side of the square images in pixels.
      dim: D, length of an embedding.
      sync_bn: batch statistics over all replicas instead of each its own.
      bn_momentum: how much of the moving statistics one step keeps.

    Returns:
      A model of that name, see `architecture_of`: images [B, S, S, 3] float32, normalised as by
      `data.augment.normalize` -> unit embeddings [B, D] float32. Its layer 'backbone' is
      `build_backbone`'s, the head's layers lie beside it.

    Raises:
      ValueError: the name is unknown, or S is too small for the network.
      RunError: the weights would not fit in memory.
    """
    variant = _variant(name, image_size)
    backbone = build_backbone(name, image_size, sync_bn, bn_momentum)
    images = tf.keras.Input(shape=(image_size, image_size, 3), name="images")
    endpoints = backbone(images)
    features = endpoints[max(endpoints, key=int)]  # [B, h, w, C], the coarsest level
    embeddings = embedding_head(features, dim, variant.fc_units, sync_bn, bn_momentum)
    # TensorFlow takes a model's name for a scope's, and allows few characters in it.
    return tf.keras.Model(images, embeddings, name=re.sub(r"[^\w.]", "_", name))


def architecture_of(network: tf.keras.Model) -> str:
    """The name by which `build_network` built a network."""
    return getattr(network.get_layer("backbone"), "architecture", network.name)


def top_features(network: tf.keras.Model) -> tf.keras.Model:
    """A network up to its L2 normalisation.

    Args:
      network: from `build_network`.

    Returns:
      A model with the same weights: normalised images [B, S, S, 3] -> features [B, D] float32,
      whose unit vectors are the embeddings.
    """
    return tf.keras.Model(network.input, network.get_layer("unit").input, name="top_features")


def readouts(
    network: tf.keras.Model, layers: Collection[str] | None = None
) -> dict[str, tf.Tensor]:
    """The layers on which linear readouts are trained (section 4.2).

    The outputs of layers inside the nested backbone hang on the backbone's own input. Here they are
    computed anew from the network's input with the same layers and weights, so that
    `tf.keras.Model(network.input, readouts(network))` is the feature extractor.

    Args:
      network: from `build_network`, or saved and loaded again.
      layers: some of conv1 to conv5, of which nothing above is computed; default all.

    Returns:
      Symbolic tensors [B, h, w, C] called conv1 to conv5, each after batch normalisation and ReLU.
      AlexNet and smallnet: each convolution, before pooling. VGG16: the last convolution of each
      block. ResNets: the stem, after its max-pooling where it has one, then the four stages. Those
      of other libraries: see `foreign.ForeignBackbone`; not all of theirs end in a ReLU.
    """
    backbone = network.get_layer("backbone")
    tensors = {
        readout: backbone.get_layer(layer).output
        for readout, layer in backbone.readout_layers.items()
        if layers is None or readout in layers
    }
    return tf.keras.Model(backbone.input, tensors, name="readouts")(network.input)
