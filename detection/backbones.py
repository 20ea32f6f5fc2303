"""Our networks as backbones of TF Model Garden's detectors: one feature map, at stride 16.

Of each network the detector takes the tensor of level 4. AlexNet and VGG16 go on with their own fc6
and fc7 on every region (supplement B.4), the ResNets with their own stage five.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf
from official.modeling import hyperparams
from official.vision.configs import backbones, common
from official.vision.modeling.backbones import factory

from la_tf.networks import SMALL_IMAGE_SIZE
from la_tf.networks.alexnet import AlexNet
from la_tf.networks.layers import NORM_EPSILON
from la_tf.networks.resnet import ResNet
from la_tf.networks.vgg import VGG16

LEVEL = 4
STRIDE = 2**LEVEL
FREEZE_TO = ("none", "conv1", "conv2", "conv3", "conv4", "conv5")
POOL_STRIDE = 2  # of AlexNet's and VGG16's last pooling, which lies between level 4 and fc6


class BackboneError(ValueError):
    """A network that cannot be a detector's backbone; the message says why."""


@dataclasses.dataclass(frozen=True)
class DetectorNetwork:
    """What a detector does with one of our networks.

    Attributes:
      build: makes the whole convolutional network.
      frozen: how many of its parts conv1 to conv5 are not fine-tuned (supplement B.4).
      fc_units: width of fc6 and fc7; 0 where stage five is the head.
      pool_size: side of the last pooling, before fc6; 0 where there is none.
    """

    build: Callable[..., tf.keras.Model]
    frozen: int = 0
    fc_units: int = 0
    pool_size: int = 0


# "The first convolution layer and the first three blocks" of a ResNet are all there is up to
# level 4.
_RESNET_STAGES = 4
NETWORKS = {
    # Padded, so that a picture of H pixels has ceil(H / 16) rows, as the anchors have.
    "alexnet": DetectorNetwork(
        lambda **kw: AlexNet(padding="same", **kw), fc_units=4096, pool_size=3
    ),
    "vgg16": DetectorNetwork(VGG16, frozen=2, fc_units=4096, pool_size=2),
    "resnet18": DetectorNetwork(lambda **kw: ResNet(18, **kw), frozen=_RESNET_STAGES),
    "resnet50": DetectorNetwork(lambda **kw: ResNet(50, **kw), frozen=_RESNET_STAGES),
}


def require_backbone(network: str, image_size: int) -> DetectorNetwork:
    """The network's entry in NETWORKS.

    Args:
      network: name of the architecture.
      image_size: side of the square images it was trained on, in pixels.

    Raises:
      BackboneError: the network, or its variant for images of this size, is none of the paper's.
    """
    if network not in NETWORKS:
        raise BackboneError(
            f"{network} cannot be a detector's backbone: train one of {', '.join(NETWORKS)}."
        )
    if image_size <= SMALL_IMAGE_SIZE:
        raise BackboneError(
            f"{network} trained on images of {image_size} pixels has other layers than the "
            f"detector's: train with --image_size above {SMALL_IMAGE_SIZE}."
        )
    return NETWORKS[network]


def frozen_layers(network: str, freeze_to: str | None) -> tuple[str, ...]:
    """How the names of the layers begin that are not fine-tuned.

    Args:
      network: one of NETWORKS.
      freeze_to: one of FREEZE_TO, the last part that is not fine-tuned; None for the paper's.

    Raises:
      BackboneError: the detector's head begins before that part ends.
    """
    chosen = NETWORKS[network]
    count = chosen.frozen if freeze_to is None else FREEZE_TO.index(freeze_to)
    if not chosen.fc_units and count > _RESNET_STAGES:
        raise BackboneError(
            f"conv5 of {network} is the detector's head, which is always trained: "
            f"--freeze_to=conv{_RESNET_STAGES} freezes all before it."
        )
    return tuple(f"conv{part}" for part in range(1, count + 1))


@dataclasses.dataclass
class LaBackbone(hyperparams.Config):
    """Which of our networks, and how much of it is not fine-tuned, see `frozen_layers`."""

    network: str = "alexnet"
    freeze_to: str | None = None


@dataclasses.dataclass
class Backbone(backbones.Backbone):
    """Model Garden's choice of backbones, with ours among them."""

    type: str | None = "la_backbone"
    la_backbone: LaBackbone = dataclasses.field(default_factory=LaBackbone)


class Stride16Backbone(tf.keras.Model):
    """The part of a network up to level 4, with no other level to be seen.

    Model Garden's RoI aligner reads every level in the dict, whatever `min_level` and `max_level`
    say, and reshapes all of them to the channels of the lowest.

    Args:
      network: one of ours, whole.
      **kwargs: `name` of the Keras model.
    """

    def __init__(self, network: tf.keras.Model, **kwargs):
        level = str(LEVEL)
        super().__init__(inputs=network.input, outputs={level: network.output[level]}, **kwargs)

    @property
    def output_specs(self) -> dict[str, tf.TensorShape]:
        """The shape of the tensor at the one level."""
        return {level: tensor.shape for level, tensor in self.output.items()}


def whole_network(
    network: str,
    input_specs: tf.keras.layers.InputSpec,
    l2_regularizer: tf.keras.regularizers.Regularizer | None = None,
) -> tf.keras.Model:
    """A network with all its levels, before it is cut at level 4."""
    return NETWORKS[network].build(
        input_specs=input_specs, kernel_regularizer=l2_regularizer, norm_epsilon=NORM_EPSILON
    )


@factory.register_backbone_builder("la_backbone")
def build_la_backbone(
    input_specs: tf.keras.layers.InputSpec,
    backbone_config: Backbone,
    norm_activation_config: common.NormActivation,
    l2_regularizer: tf.keras.regularizers.Regularizer | None = None,
) -> tf.keras.Model:
    """What Model Garden's backbone factory calls.

    Batch normalisation is ours whatever the configuration says, or the trained statistics would
    mean something else.
    """
    del norm_activation_config
    network = whole_network(backbone_config.get().network, input_specs, l2_regularizer)
    return Stride16Backbone(network, name="backbone")
