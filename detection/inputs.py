"""Pictures and their targets, as a function of the step alone.

What step t trains on, mirrored or not, and which anchors it draws, follow from (seed, t). A resumed
run begins its data at its step, and nothing about them needs to be saved.
"""

import numpy as np
import tensorflow as tf
from official.vision.dataloaders import tf_example_decoder, utils
from official.vision.ops import box_ops, preprocess_ops

from detection.anchors import anchor_grid, label_anchors
from detection.backbones import LEVEL, STRIDE
from detection.config import DataConfig, DetectionTask
from detection.records import Records


def make_dataset(
    task: DetectionTask, params: DataConfig, context: tf.distribute.InputContext | None = None
) -> tf.data.Dataset:
    """Batches of (images [B, S, S, 3], labels) for `official.vision.tasks.maskrcnn`.

    Training goes on for ever from `params.first_step`, each epoch in an order of its own;
    evaluation goes through the pictures once, in their order.

    Args:
      task: sizes, anchors and seed.
      params: which records, how many a step.
      context: of several replicas or workers, which share a step's pictures.
    """
    records = Records(params.input_path)
    batch_size = params.global_batch_size
    if params.is_training:
        positions = tf.data.Dataset.range(params.first_step * batch_size, np.iinfo(np.int64).max)
    else:
        positions = tf.data.Dataset.range(len(records))
    if context is not None:
        positions = positions.shard(context.num_input_pipelines, context.input_pipeline_id)
        batch_size = context.get_per_replica_batch_size(batch_size)
    parser = PictureParser(task, params)

    # No `if` here depends on a tensor; AutoGraph would take seconds to find that out.
    @tf.autograph.experimental.do_not_convert
    def example(position: tf.Tensor):
        if not params.is_training:
            return parser.evaluation(records.load(position))
        index = shuffled(position, len(records), task.seed)
        return parser.training(records.load(index), tf.stack([task.seed, position]))

    dataset = positions.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(batch_size, drop_remainder=params.drop_remainder)
    # Every worker has taken its own part already.
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.prefetch(4).with_options(options)


def shuffled(position: tf.Tensor, count: int, seed: int) -> tf.Tensor:
    """Which of `count` pictures comes at a position: each once an epoch, in an order of its own."""
    epoch, place = position // count, position % count
    order = tf.stack([tf.constant(seed, tf.int64), epoch])
    return tf.random.experimental.index_shuffle(place, tf.cast(order, tf.int32), count - 1)


def scale_picture(
    image: tf.Tensor, short_side: int, long_side: int, canvas: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Normalises and scales a picture by the reference's rule, and pads it below and to the right.

    The short side becomes `short_side`, unless the long one would exceed `long_side`; then that
    becomes `long_side`. No side gets less than one pixel. Model Garden's own parser fits pictures
    into a square, and its function for this rule can leave a thin picture no pixel.

    Args:
      image: [H, W, 3] uint8.
      short_side: in pixels.
      long_side: in pixels.
      canvas: side of the padded picture.

    Returns:
      (picture [canvas, canvas, 3] float32,
       its info [4, 2]: original size, scaled size, scale, offset, each as (y, x))
    """
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    scaled = tf.round(size * (short_side / tf.reduce_min(size)))
    if_too_long = tf.round(size * (long_side / tf.reduce_max(size)))
    scaled = tf.where(tf.reduce_max(scaled) > long_side, if_too_long, scaled)
    scaled = tf.maximum(scaled, 1.0)
    image = preprocess_ops.normalize_image(image)
    image = tf.image.resize(image, tf.cast(scaled, tf.int32))
    image = tf.image.pad_to_bounding_box(image, 0, 0, canvas, canvas)
    info = tf.stack([size, scaled, scaled / size, tf.zeros([2])])
    return tf.ensure_shape(image, [canvas, canvas, 3]), info


class PictureParser:
    """From a serialised example to what Model Garden's Mask R-CNN task takes."""

    def __init__(self, task: DetectionTask, params: DataConfig):
        """Takes sizes and anchors from the task, everything else from `params.parser`."""
        self._options = params.parser
        self._canvas = task.model.input_size[0]
        self._anchors = anchor_grid(self._canvas, task.model.anchor.anchor_size * STRIDE)
        self._decode = tf_example_decoder.TfExampleDecoder().decode

    def training(self, example: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, dict]:
        """A picture with its targets.

        Args:
          example: a serialised tf.train.Example.
          seed: [2] integers that decide the mirroring and the draw of anchors.
        """
        decoded = self._decode(example)
        image, boxes = decoded["image"], decoded["groundtruth_boxes"]
        wanted = ~decoded["groundtruth_is_crowd"]  # "difficult" objects train nothing
        boxes = tf.boolean_mask(boxes, wanted)
        classes = tf.boolean_mask(decoded["groundtruth_classes"], wanted)
        if self._options.aug_rand_hflip:
            mirror, seed = tf.unstack(tf.random.split(seed))
            image, boxes = tf.cond(
                tf.random.stateless_uniform([], mirror) < 0.5,
                lambda: (image[:, ::-1], preprocess_ops.horizontal_flip_boxes(boxes)),
                lambda: (image, boxes),
            )
        boxes = box_ops.denormalize_boxes(boxes, tf.shape(image)[:2])
        image, info = self._scale(image)
        boxes *= tf.tile(info[2], [2])  # [G, 4] in pixels of the scaled picture
        anchors = self._anchors[str(LEVEL)]
        scores, box_targets = label_anchors(
            tf.reshape(anchors, [-1, 4]),
            boxes,
            info[1],
            seed,
            num_samples=self._options.rpn_batch_size_per_im,
            positive_fraction=self._options.rpn_fg_fraction,
            positive_iou=self._options.rpn_match_threshold,
            negative_iou=self._options.rpn_unmatched_threshold,
        )
        rows, columns, _ = anchors.shape
        return image, {
            "image_info": info,
            "anchor_boxes": self._anchors,
            "rpn_score_targets": {str(LEVEL): tf.reshape(scores, [rows, columns, -1])},
            "rpn_box_targets": {str(LEVEL): tf.reshape(box_targets, anchors.shape)},
            "gt_boxes": self._pad(boxes),
            "gt_classes": self._pad(classes),
        }

    def evaluation(self, example: tf.Tensor) -> tuple[tf.Tensor, dict]:
        """A picture with its objects, difficult ones too, in pixels of the original picture."""
        decoded = self._decode(example)
        size = tf.shape(decoded["image"])[:2]
        image, info = self._scale(decoded["image"])
        groundtruths = {
            "source_id": utils.process_source_id(decoded["source_id"]),
            "height": decoded["height"],
            "width": decoded["width"],
            "num_detections": tf.shape(decoded["groundtruth_classes"])[0],
            "boxes": box_ops.denormalize_boxes(decoded["groundtruth_boxes"], size),
            "classes": decoded["groundtruth_classes"],
            "areas": decoded["groundtruth_area"],
            "is_crowds": tf.cast(decoded["groundtruth_is_crowd"], tf.int32),
        }
        most = self._options.max_num_instances
        padded = utils.pad_groundtruths_to_fixed_size(groundtruths, most)
        return image, {"image_info": info, "anchor_boxes": self._anchors, "groundtruths": padded}

    def _scale(self, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        options = self._options
        return scale_picture(image, options.short_side, options.long_side, self._canvas)

    def _pad(self, values: tf.Tensor) -> tf.Tensor:
        return preprocess_ops.clip_or_pad_to_fixed_size(values, self._options.max_num_instances, -1)
