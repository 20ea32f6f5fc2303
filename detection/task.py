"""TF Model Garden's Mask R-CNN task with our detector, data, losses and metric."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from official.core import task_factory
from official.modeling import optimization
from official.vision.tasks import maskrcnn

from detection import losses
from detection.backbones import LEVEL, NETWORKS
from detection.config import DataConfig, DetectionTask
from detection.initialize import fresh_network, take_weights
from detection.inputs import make_dataset
from detection.metric import VOCDetectionMetric
from detection.model import build_detector
from detection.records import Records
from la_tf.runs.trained_run import open_run


@task_factory.register_task_cls(DetectionTask)
class VOCDetectionTask(maskrcnn.MaskRCNNTask):
    """Fine-tunes a trained network in Faster R-CNN on PASCAL VOC (supplement B.4).

    Steps, optimizer, checkpoints and summaries are Model Garden's.
    """

    def build_model(self) -> tf.keras.Model:
        """The detector, frozen where it is not fine-tuned."""
        config = self.task_config
        return build_detector(config.model, config.losses.l2_weight_decay, config.seed)

    def initialize(self, model: tf.keras.Model) -> None:
        """Takes the weights of the trained run, or of a fresh network where there is none.

        Raises:
          BackboneError: a tensor is not accounted for.
          RunError: the run or the records cannot be read.
        """
        config = self.task_config
        if config.run_dir:
            network = open_run(config.run_dir).network
        else:
            name = config.model.backbone.get().network
            records = Records(config.train_data.input_path)
            network = fresh_network(name, config.image_size, records)
        take_weights(model, network)

    def create_optimizer(
        self, optimizer_config: optimization.OptimizationConfig, runtime_config: Any = None
    ) -> tf.keras.optimizers.Optimizer:
        """The optimizer; with fc6 and fc7 as the head, biases learn twice as fast as kernels.

        So does the reference's VGG16, after Caffe's, and its ResNets do not.
        """
        del runtime_config
        network = NETWORKS[self.task_config.model.backbone.get().network]
        factory = optimization.OptimizerFactory(optimizer_config)
        return factory.build_optimizer(
            factory.build_learning_rate(),
            gradient_transformers=[_double_biases] if network.fc_units else None,
        )

    # No `if` in them depends on a tensor; AutoGraph would take seconds to find that out.
    train_step = tf.autograph.experimental.do_not_convert(maskrcnn.MaskRCNNTask.train_step)
    validation_step = tf.autograph.experimental.do_not_convert(
        maskrcnn.MaskRCNNTask.validation_step
    )

    def build_inputs(
        self, params: DataConfig, input_context: tf.distribute.InputContext | None = None
    ) -> tf.data.Dataset:
        """See `make_dataset`."""
        return make_dataset(self.task_config, params, input_context)

    def _build_rpn_losses(
        self, outputs: Mapping[str, Any], labels: Mapping[str, Any]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        level = str(LEVEL)
        targets = labels["rpn_score_targets"][level]
        return (
            losses.rpn_score_loss(outputs["rpn_scores"][level], targets),
            losses.rpn_box_loss(
                outputs["rpn_boxes"][level], labels["rpn_box_targets"][level], targets
            ),
        )

    def _build_frcnn_losses(
        self, outputs: Mapping[str, Any], labels: Mapping[str, Any]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        del labels
        classes = outputs["class_targets"]
        return (
            losses.class_loss(outputs["class_outputs"], classes),
            losses.box_loss(outputs["box_outputs"], outputs["box_targets"], classes),
        )

    def build_metrics(self, training: bool = True) -> list[tf.keras.metrics.Metric]:
        """The losses while training; in evaluation the VOC metric, which runs on the host."""
        return [m for m in super().build_metrics(training) if m.name != "mask_loss"]

    def _build_coco_metrics(self) -> None:
        self.coco_metric = VOCDetectionMetric()


def _double_biases(
    gradients: list[tuple[tf.Tensor, tf.Variable]],
) -> list[tuple[tf.Tensor, tf.Variable]]:
    # Biases have no weight decay, so that twice the gradient is twice the learning rate.
    return [(2 * g if v.name.endswith("bias:0") else g, v) for g, v in gradients]
