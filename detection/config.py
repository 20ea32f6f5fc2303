"""The detector in TF Model Garden's configuration system.

The defaults are those of tf-faster-rcnn, which the paper used (supplement B.4). What a fine-tuning
may vary is in `detection.settings`, which sets it here.
"""

import dataclasses

from official.vision.configs import decoders, maskrcnn

from detection.anchors import ASPECT_RATIOS, BASE_SIZE, SCALES
from detection.backbones import LEVEL, STRIDE, Backbone
from la_tf.data.voc import VOC_CLASSES


@dataclasses.dataclass
class Parser(maskrcnn.Parser):
    """How pictures are scaled: sides in pixels, see `detection.settings.Settings`."""

    short_side: int = 0
    long_side: int = 0


@dataclasses.dataclass
class DataConfig(maskrcnn.DataConfig):
    """TFRecords, and the step at which a resumed run goes on."""

    parser: Parser = dataclasses.field(default_factory=Parser)
    dtype: str = "float32"
    global_batch_size: int = 1
    first_step: int = 0


@dataclasses.dataclass
class DetectorModel(maskrcnn.MaskRCNN):
    """Faster R-CNN on one feature map."""

    num_classes: int = 1 + len(VOC_CLASSES)
    min_level: int = LEVEL
    max_level: int = LEVEL
    include_mask: bool = False
    mask_head: maskrcnn.MaskHead | None = None
    mask_sampler: maskrcnn.MaskSampler | None = None
    mask_roi_aligner: maskrcnn.MaskROIAligner | None = None
    anchor: maskrcnn.Anchor = dataclasses.field(
        default_factory=lambda: maskrcnn.Anchor(
            num_scales=len(SCALES),
            aspect_ratios=list(ASPECT_RATIOS),
            anchor_size=BASE_SIZE / STRIDE,
        )
    )
    backbone: Backbone = dataclasses.field(default_factory=Backbone)
    decoder: decoders.Decoder = dataclasses.field(
        default_factory=lambda: decoders.Decoder(type="identity")
    )
    rpn_head: maskrcnn.RPNHead = dataclasses.field(
        default_factory=lambda: maskrcnn.RPNHead(num_convs=1, num_filters=512)
    )
    detection_head: maskrcnn.DetectionHead = dataclasses.field(
        default_factory=lambda: maskrcnn.DetectionHead(num_convs=0, num_fcs=2, fc_dims=4096)
    )
    roi_generator: maskrcnn.ROIGenerator = dataclasses.field(
        default_factory=lambda: maskrcnn.ROIGenerator(
            pre_nms_top_k=12000,
            num_proposals=2000,
            nms_iou_threshold=0.7,
            test_pre_nms_top_k=6000,
            test_num_proposals=300,
            test_nms_iou_threshold=0.7,
            # Leaves out lines on the picture's edge, which NMS cannot suppress, and the empty
            # boxes that `regions.ROIGenerator` makes of anchors in the padding.
            pre_nms_min_size_threshold=1.0,
            test_pre_nms_min_size_threshold=1.0,
        )
    )
    roi_sampler: maskrcnn.ROISampler = dataclasses.field(
        default_factory=lambda: maskrcnn.ROISampler(mix_gt_boxes=False, foreground_fraction=0.25)
    )
    detection_generator: maskrcnn.DetectionGenerator = dataclasses.field(
        default_factory=lambda: maskrcnn.DetectionGenerator(
            pre_nms_score_threshold=0.0,
            nms_iou_threshold=0.3,
            max_num_detections=100,
            nms_version="batched",
        )
    )


@dataclasses.dataclass
class DetectionTask(maskrcnn.MaskRCNNTask):
    """What `detection.task` trains.

    Attributes:
      run_dir: the trained run to start from; empty for fresh weights.
      image_size: side of the images that the network was trained on, or would have been.
      seed: of the order of the pictures and of all draws.
    """

    model: DetectorModel = dataclasses.field(default_factory=DetectorModel)
    train_data: DataConfig = dataclasses.field(
        default_factory=lambda: DataConfig(
            is_training=True, drop_remainder=True, parser=Parser(aug_rand_hflip=True)
        )
    )
    validation_data: DataConfig = dataclasses.field(
        default_factory=lambda: DataConfig(is_training=False, drop_remainder=False)
    )
    run_dir: str = ""
    image_size: int = 224
    seed: int = 0
