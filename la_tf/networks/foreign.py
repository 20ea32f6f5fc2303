"""Networks of tf.keras.applications and of TF Model Garden, in the form that ours have."""

import collections
import math
import re
from typing import Any

import tensorflow as tf
from official.vision.configs import backbones as garden_configs
from official.vision.configs import common as garden_common
from official.vision.modeling.backbones import factory as garden

from la_tf.architectures import Architecture, parse
from la_tf.networks.layers import NORM_MOMENTUM, Rebuilt

READOUTS = 5
_NO_MAPS = (tf.keras.layers.InputLayer, tf.keras.layers.ZeroPadding2D)
# Of Keras, those that can be had without their preprocessing.
_WITH_PREPROCESSING = ("ConvNeXt", "EfficientNetV2", "MobileNetV3", "RegNet", "ResNetRS")


@tf.keras.utils.register_keras_serializable(package="la_tf")
class ForeignBackbone(Rebuilt, tf.keras.Model):
    """The layers of another library's network, with our endpoints and readouts.

    The network starts untrained. Of the maps through which everything flows, those outside the
    branches of a block, the last one at stride 2^l is level l. Readouts are on the five coarsest of
    them, before max-pooling; conv1 of a network with four is the first map of the finest. Where a
    network goes on behind global pooling, as TF Model Garden's MobileNetV3 does, that is one level
    more, without a readout.

    Batch norm gets our momentum. Pixels are not rescaled, since our images come normalised, and no
    path is dropped at random, since no checkpoint would hold the generator's state.

    Args:
      architecture: see `architectures.parse`.
      input_specs: shape [B, S, S, 3] of the images.
      use_sync_bn: batch statistics over all replicas instead of each its own.
      norm_momentum: how much of the moving statistics one step keeps.
      **kwargs: `name` of the Keras model.

    Raises:
      ValueError: there is no such network, or images of this size leave it fewer than five maps.
    """

    def __init__(
        self,
        architecture: str,
        input_specs: tf.keras.layers.InputSpec,
        use_sync_bn: bool = False,
        norm_momentum: float = NORM_MOMENTUM,
        **kwargs: Any,
    ):
        self.architecture = architecture
        self._input_specs = input_specs
        self._use_sync_bn = use_sync_bn
        self._norm_momentum = norm_momentum
        model = _library_model(parse(architecture), input_specs)
        _adjust(model, use_sync_bn, norm_momentum)
        levels, self.readout_layers = _levels_and_readouts(model, architecture)
        endpoints = {level: layer.output for level, layer in levels.items()}
        super().__init__(inputs=model.inputs, outputs=endpoints, **kwargs)

    @property
    def output_specs(self) -> dict[str, tf.TensorShape]:
        """The shape of the tensor at each level."""
        return {level: tensor.shape for level, tensor in self.output.items()}

    @property
    def weight_names(self) -> list[str]:
        """A name for each of the weights, the same in every process.

        Keras numbers layers without a name over all that a process has built; here they count from
        the first of this network, and those within a block from the first of the block.
        """
        bases = {
            layer.name: base
            for layer in self.submodules
            if isinstance(layer, tf.keras.layers.Layer)
            and (base := re.sub(r"_\d+$", "", layer.name)).replace("_", "")
            == type(layer).__name__.lower()
        }
        renamed: dict[str, str] = {}  # by its path
        counts: collections.Counter[tuple[str, str]] = collections.Counter()
        names = []
        for weight in self.weights:
            path, parts = "", weight.name.removesuffix(":0").split("/")
            for i, part in enumerate(parts):
                scope, path = path, f"{path}/{part}"
                if part in bases:
                    if path not in renamed:
                        number = counts[scope, bases[part]]
                        counts[scope, bases[part]] += 1
                        renamed[path] = f"{bases[part]}_{number}" if number else bases[part]
                    parts[i] = renamed[path]
            names.append("/".join(parts))
        return names

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as `from_config` takes them."""
        return {
            "architecture": self.architecture,
            "input_specs": list(self._input_specs.shape),
            "use_sync_bn": self._use_sync_bn,
            "norm_momentum": self._norm_momentum,
            "name": self.name,
        }


def _library_model(wanted: Architecture, input_specs: tf.keras.layers.InputSpec) -> tf.keras.Model:
    """The network as its own library builds it, freshly initialised."""
    parameters = dict(wanted.parameters)
    if wanted.library == "keras":
        build = getattr(tf.keras.applications, wanted.name)
        if wanted.name.startswith(_WITH_PREPROCESSING):
            parameters["include_preprocessing"] = False
        shape = tuple(input_specs.shape[1:])
        model = build(include_top=False, weights=None, input_shape=shape, **parameters)
        if wanted.name.startswith("EfficientNetB"):
            model = tf.keras.models.clone_model(model, clone_function=_without_preprocessing)
        return model
    norm = {k: parameters.pop(k) for k in ("activation", "norm_epsilon") if k in parameters}
    config = garden_configs.Backbone(type=wanted.name)
    config.get().override(parameters)
    return garden.build_backbone(input_specs, config, garden_common.NormActivation(**norm))


def _without_preprocessing(layer: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
    """A layer anew, or in the place of one that rescales pixels a border of nothing."""
    if isinstance(layer, (tf.keras.layers.Rescaling, tf.keras.layers.Normalization)):
        return tf.keras.layers.ZeroPadding2D(0, name=layer.name)
    return type(layer).from_config(layer.get_config())


def _adjust(model: tf.keras.Model, sync_bn: bool, momentum: float) -> None:
    """See `ForeignBackbone`: batch norm, and what is random."""
    for layer in model.submodules:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.momentum = momentum
            if sync_bn:
                layer.synchronized, layer.fused = True, False
        elif isinstance(layer, tf.keras.layers.Dropout):
            layer.rate = 0.0


def _levels_and_readouts(
    model: tf.keras.Model, architecture: str
) -> tuple[dict[str, tf.keras.layers.Layer], dict[str, str]]:
    """Level -> layer behind it, and readout -> name of the layer behind it."""
    level, side = 0, model.inputs[0].shape[1]
    first, last, pooled = {}, {}, None
    for layer in _trunk(model):
        if pooled or isinstance(layer, tf.keras.layers.GlobalAveragePooling2D):
            pooled = layer
            continue
        level += round(math.log2(side / layer.output.shape[1]))
        side = layer.output.shape[1]
        first.setdefault(level, layer)
        last[level] = layer
    pooling = tf.keras.layers.MaxPooling2D  # VGG's end; the paper reads maps before pooling
    chosen = [layer for layer in last.values() if not isinstance(layer, pooling)][-READOUTS:]
    if len(chosen) == READOUTS - 1:
        chosen.insert(0, first[min(first)])
    if len({layer.name for layer in chosen}) < READOUTS:
        raise ValueError(f"{architecture} has {len(last)} maps of different sizes; five are needed")
    readouts = {f"conv{number}": layer.name for number, layer in enumerate(chosen, 1)}
    if pooled:
        last[level + 1] = pooled
    return {str(level): layer for level, layer in last.items()}, readouts


def _trunk(model: tf.keras.Model) -> list[tf.keras.layers.Layer]:
    """The layers through whose output [B, h, w, C] every path from the images to the end leads.

    `model.layers` are in the order in which they are computed, so a layer is one of them if no
    connection leads from before it to behind it.
    """
    place = {id(layer): i for i, layer in enumerate(model.layers)}
    trunk, furthest = [], 0
    for i, layer in enumerate(model.layers):
        if furthest <= i and not isinstance(layer, _NO_MAPS) and len(layer.output.shape) == 4:
            trunk.append(layer)
        reached = (place.get(id(node.layer), i) for node in layer.outbound_nodes)
        furthest = max(furthest, *reached, i)
    return trunk
