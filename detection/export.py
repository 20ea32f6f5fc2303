"""A fine-tuned detector as a SavedModel that needs nothing of this project."""

import pathlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from detection.anchors import anchor_grid
from detection.backbones import LEVEL, STRIDE
from detection.config import DetectionTask
from detection.inputs import scale_picture
from detection.model import build_detector
from la_tf.data.orientation import PNG_HEAD, read_orientation, turn
from la_tf.errors import first_line
from la_tf.export.saved_model import (
    VERSION,
    ExportError,
    MismatchError,
    cannot_be_written,
    own_folder,
)
from la_tf.files import replace_folder

# An image's bytes to the arrays that `load_detector` describes.
Detector = Callable[[bytes], dict[str, np.ndarray]]

_OUTPUTS = {"boxes", "classes", "scores", "num_detections"}
_PROBE_TOLERANCE = 1e-3  # of a score


class DetectorModule(tf.Module):
    """The detector with its preprocessing; no targets, no optimizer."""

    def __init__(self, model: tf.keras.Model, config: DetectionTask):
        """Wraps a detector built from this configuration."""
        super().__init__(name="detector")
        self.tensors = model.variables
        # Behind a function: else every layer would be exported, and traced for minutes, by itself.
        self._call = lambda *args, **kwargs: model(*args, training=False, **kwargs)
        self._most = config.model.detection_generator.max_num_detections
        parser = config.validation_data.parser
        self._sides = (parser.short_side, parser.long_side, config.model.input_size[0])
        self._anchors = anchor_grid(self._sides[-1], config.model.anchor.anchor_size * STRIDE)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def detect(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Finds the objects of B encoded JPEG or PNG images of any sizes, the most certain first.

        One after another, so that B of them need no more memory than one.

        Returns:
          num_detections: [B], how many of the M = 100 rows below are objects; the rest are zeros.
          boxes: [B, M, 4] (xmin, ymin, xmax, ymax) in the image's own pixels, counted from 1 as in
            VOC, both ends inside.
          classes: [B, M] 1..20, see `voc.VOC_CLASSES`.
          scores: [B, M] in 0..1.
        """
        rows = self._most
        return tf.map_fn(
            self._detect_one,
            image_bytes,
            parallel_iterations=1,
            fn_output_signature={
                "boxes": tf.TensorSpec([rows, 4]),
                "classes": tf.TensorSpec([rows], tf.int32),
                "scores": tf.TensorSpec([rows]),
                "num_detections": tf.TensorSpec([], tf.int32),
            },
        )

    @tf.autograph.experimental.do_not_convert  # as in `detection.task`
    def _detect_one(self, encoded: tf.Tensor) -> dict[str, tf.Tensor]:
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        image = turn(image, read_orientation(encoded, PNG_HEAD))
        size = tf.cast(tf.shape(image)[:2], tf.float32)
        picture, info = scale_picture(image, *self._sides)
        outputs = self._call(
            picture[tf.newaxis],
            image_shape=info[tf.newaxis, 1],
            anchor_boxes={str(LEVEL): self._anchors[str(LEVEL)][tf.newaxis]},
        )
        boxes = outputs["detection_boxes"][0]
        # Where there are too few proposals, Model Garden fills up with empty ones.
        found = tf.reduce_all(boxes[:, 2:] > boxes[:, :2], axis=1)
        found &= tf.range(tf.shape(boxes)[0]) < outputs["num_detections"][0]
        ymin, xmin, ymax, xmax = tf.unstack(boxes / tf.tile(info[2], [2]), axis=1)
        pixels = tf.stack([xmin + 1, ymin + 1, xmax, ymax], axis=1)
        columns = {
            "boxes": tf.clip_by_value(pixels, 1.0, tf.tile(size[::-1], [2])),
            "classes": outputs["detection_classes"][0],
            "scores": outputs["detection_scores"][0],
        }
        count = tf.math.count_nonzero(found, dtype=tf.int32)
        return {"num_detections": count} | {
            name: self._pad(tf.boolean_mask(values, found)) for name, values in columns.items()
        }

    def _pad(self, rows: tf.Tensor) -> tf.Tensor:
        missing = self._most - tf.shape(rows)[0]
        rows = tf.pad(rows, [[0, missing], *[[0, 0]] * (rows.shape.rank - 1)])
        return tf.ensure_shape(rows, [self._most, *rows.shape[1:]])


def export_detector(
    model: tf.keras.Model, config: DetectionTask, directory: pathlib.Path, probe: bytes
) -> pathlib.Path:
    """Writes a SavedModel whose default signature takes images' bytes and returns their objects.

    Args:
      model: fine-tuned; under whatever strategy.
      config: which it was built from.
      directory: gets a subfolder `1`, the layout of TensorFlow Serving; an older export there is
        replaced once the new one is whole and has been tried.
      probe: an encoded image, on which the export must find what the model finds.

    Returns:
      The folder of the SavedModel.

    Raises:
      ExportError: it does not, or cannot be written.
    """
    # A fresh copy outside any strategy, so that what is saved is one plain set of weights.
    plain = build_detector(config.model)
    plain.set_weights(model.get_weights())
    module = DetectorModule(plain, config)
    expected = module.detect(tf.constant([probe]))["scores"].numpy()[0]
    try:
        with own_folder(directory) as own:
            partial = own / VERSION
            tf.saved_model.save(module, str(partial), signatures={"serving_default": module.detect})
            scores = load_detector(partial)(probe)["scores"]
            found = np.zeros_like(expected)
            found[: len(scores)] = scores
            if not np.allclose(found, expected, atol=_PROBE_TOLERANCE):
                raise MismatchError(
                    "the exported detector differs from the fine-tuned one on one image; it is "
                    f"left in {partial}."
                )
            replace_folder(partial, directory / VERSION)
    except (OSError, tf.errors.OpError) as error:
        raise ExportError(cannot_be_written(directory, error)) from error
    return directory / VERSION


def load_detector(saved_model: pathlib.Path) -> Detector:
    """Opens a SavedModel.

    Args:
      saved_model: its folder, or the one above it.

    Returns:
      A function of one image's bytes: num_detections N, boxes [N, 4], classes [N] and scores [N],
      as `DetectorModule.detect` describes them.

    Raises:
      ExportError: there is none, or it is no detector.
    """
    folder = saved_model if (saved_model / "saved_model.pb").exists() else saved_model / VERSION
    if not (folder / "saved_model.pb").exists():
        raise ExportError(
            f"{saved_model} holds no SavedModel: name an export of tools/finetune_voc.py."
        )
    try:
        loaded = tf.saved_model.load(str(folder))
    except Exception as error:  # a damaged file can break TensorFlow's readers in many ways
        raise ExportError(
            f"{folder} cannot be loaded ({first_line(error)}): restore it."
        ) from error
    signature = loaded.signatures.get("serving_default")
    if signature is None or set(signature.structured_outputs) != _OUTPUTS:
        raise ExportError(f"{folder} is no detector: name an export of tools/finetune_voc.py.")

    (specs,) = signature.structured_input_signature[1].values()
    has_batch_axis = specs.shape.rank == 1  # exports of earlier versions take one image

    def detect(image_bytes: bytes) -> dict[str, np.ndarray]:
        images = tf.constant([image_bytes] if has_batch_axis else image_bytes)
        # Through `loaded`, since its variables live only as long as it does.
        outputs = loaded.signatures["serving_default"](image_bytes=images)
        found = {name: value.numpy() for name, value in outputs.items()}
        if not has_batch_axis:
            return found
        count = found.pop("num_detections")[0]
        return {"num_detections": count} | {name: v[0, :count] for name, v in found.items()}

    return detect


def detect_above(
    detect: Detector, image_bytes: bytes, min_score: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The objects of an image with at least a score: boxes [N, 4], classes [N], scores [N].

    Raises:
      ValueError: the bytes are no image.
    """
    try:
        found = detect(image_bytes)
    except tf.errors.InvalidArgumentError as error:
        raise ValueError("it is no whole JPEG or PNG image") from error
    sure = found["scores"] >= min_score
    return found["boxes"][sure], found["classes"][sure], found["scores"][sure]
