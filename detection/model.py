"""From the configuration to TF Model Garden's Faster R-CNN with our backbone and head."""

import tensorflow as tf
from official.vision.modeling import maskrcnn_model
from official.vision.modeling.backbones import factory

from detection.anchors import ANCHORS_PER_PLACE
from detection.backbones import LEVEL, NETWORKS, STRIDE, frozen_layers, whole_network
from detection.config import DetectorModel
from detection.heads import DetectionGenerator, FullyConnectedHead, Stage5Head
from detection.regions import ROIAligner, ROIGenerator, RPNHead
from detection.sampling import RoISampler
from la_tf.networks.layers import NORM_EPSILON


def build_detector(
    config: DetectorModel, weight_decay: float = 0.0, seed: int = 0
) -> maskrcnn_model.MaskRCNNModel:
    """Builds the detector with all its variables; under a strategy, call it in its scope.

    What is not fine-tuned is frozen: the layers that supplement B.4 or `freeze_to` names, and all
    batch normalisation, statistics, scale and offset, as the reference does with its ResNets. One
    picture a step has no useful statistics, and Model Garden updates them unless the layer is
    frozen. The fresh batch normalisation of the region proposals, which the reference does not
    have, is thereby the identity.

    Args:
      config: whose backbone is one of ours.
      weight_decay: lambda; its gradient is lambda times the kernel; biases have none.
      seed: of the draws of regions, and of the dropout.
    """
    backbone = config.backbone.get()
    network = backbone.network
    input_specs = tf.keras.layers.InputSpec(shape=[None, *config.input_size])
    # As tf.nn.l2_loss, half the sum of squares.
    regularizer = tf.keras.regularizers.l2(weight_decay / 2) if weight_decay else None
    sampler = config.roi_sampler.as_dict()
    del sampler["cascade_iou_thresholds"]
    model = maskrcnn_model.MaskRCNNModel(
        backbone=factory.build_backbone(
            input_specs, config.backbone, config.norm_activation, regularizer
        ),
        decoder=None,
        rpn_head=RPNHead(
            LEVEL,
            LEVEL,
            num_anchors_per_location=ANCHORS_PER_PLACE,
            num_convs=config.rpn_head.num_convs,
            num_filters=config.rpn_head.num_filters,
            kernel_regularizer=regularizer,
            name="rpn_head",
        ),
        detection_head=_head(config, network, input_specs, regularizer, seed),
        roi_generator=ROIGenerator(**config.roi_generator.as_dict()),
        roi_sampler=RoISampler(seed, **sampler),
        roi_aligner=ROIAligner(
            pool_size=NETWORKS[network].pool_size, **config.roi_aligner.as_dict()
        ),
        detection_generator=DetectionGenerator(**config.detection_generator.as_dict()),
        min_level=LEVEL,
        max_level=LEVEL,
        name="detector",
    )
    _make_variables(model, config.input_size)
    _freeze(model, frozen_layers(network, backbone.freeze_to))
    return model


def _head(
    config: DetectorModel,
    network: str,
    input_specs: tf.keras.layers.InputSpec,
    regularizer: tf.keras.regularizers.Regularizer | None,
    seed: int,
) -> tf.keras.layers.Layer:
    if not NETWORKS[network].fc_units:
        whole = whole_network(network, input_specs, regularizer)
        return Stage5Head(
            stage5_blocks(whole), config.num_classes, regularizer, name="detection_head"
        )
    options = config.detection_head
    return FullyConnectedHead(
        seed,
        num_classes=config.num_classes,
        num_convs=options.num_convs,
        num_fcs=options.num_fcs,
        fc_dims=options.fc_dims,
        norm_epsilon=NORM_EPSILON,
        kernel_regularizer=regularizer,
        name="detection_head",
    )


def stage5_blocks(backbone: tf.keras.Model) -> list[tf.keras.layers.Layer]:
    """The residual blocks of a ResNet's stage five, in order."""
    return [layer for layer in backbone.layers if layer.name.startswith("conv5_block")]


def _make_variables(model: tf.keras.Model, input_size: list[int]) -> None:
    rows, columns = (side // STRIDE for side in input_size[:2])
    model(
        tf.keras.Input(input_size),
        image_shape=tf.keras.Input([2]),
        anchor_boxes={str(LEVEL): tf.keras.Input([rows, columns, ANCHORS_PER_PLACE * 4])},
        training=False,
    )


def _freeze(model: tf.keras.Model, prefixes: tuple[str, ...]) -> None:
    for layer in model.backbone.layers:
        if layer.name.startswith(prefixes):
            layer.trainable = False
    for layer in model.submodules:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.trainable = False
            # Plain operations: for the fused kernel with given statistics TensorFlow has no
            # deterministic gradient on GPUs, and raises.
            layer.fused = False
