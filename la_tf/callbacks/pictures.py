"""Pictures of the training images for TensorBoard: what the network sees, and thumbnails."""

import contextlib
import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from la_tf.config import AugmentConfig
from la_tf.data.augment import augment_view, center_view, denormalize, view_seed
from la_tf.data.base import Source, Subset, sample_rows
from la_tf.data.checks import refuse_bad_images
from la_tf.data.pipeline import EVAL_BATCH_SIZE, ordered_dataset
from la_tf.errors import RunError

SHEET_IMAGES = 6
SHEET_EPOCHS = 7  # E, random views of each
GAP = 2  # white pixels between the views of a sheet
_SHOWN_SIDE = 96  # pixels; smaller views are enlarged by a whole factor, to be seen at all


def tile(images: np.ndarray, gap: int = 0) -> np.ndarray:
    """Puts images of one size side by side.

    Args:
      images: uint8 [R, C, S, S, 3], R rows of C images.
      gap: white pixels to the right of and below each.

    Returns:
      uint8 [R * (S + gap), C * (S + gap), 3].
    """
    padding = [(0, 0), (0, 0), (0, gap), (0, gap), (0, 0)]
    cells = np.pad(images, padding, constant_values=255)
    rows, columns, side = cells.shape[:3]
    return cells.transpose(0, 2, 1, 3, 4).reshape(rows * side, columns * side, 3)


def _augmented_views(
    source: Source, rows: np.ndarray, image_size: int, seed: int, augment: AugmentConfig
) -> np.ndarray:
    """Of R images the centre view and the E random views, uint8 [R, 1 + E, S, S, 3]."""

    @tf.autograph.experimental.do_not_convert  # there is nothing to convert
    def views(index: tf.Tensor) -> tf.Tensor:
        encoded = source.load(index)
        random = tf.map_fn(
            lambda epoch: augment_view(encoded, view_seed(seed, epoch, index), image_size, augment),
            tf.range(SHEET_EPOCHS, dtype=tf.int64),
            fn_output_signature=tf.float32,
        )
        return denormalize(tf.concat([center_view(encoded, image_size)[tf.newaxis], random], 0))

    # A pipeline, as in training: it stays on the processor, and a GPU would round differently.
    dataset = tf.data.Dataset.from_tensor_slices(rows.astype(np.int32)).map(views)
    with _naming_bad_images(source, rows):
        return np.stack(list(dataset.as_numpy_iterator()))


def thumbnails(source: Source, rows: np.ndarray, side: int) -> np.ndarray:
    """The middle of some images, small.

    Args:
      source: N examples.
      rows: [R] which ones.
      side: pixels, at most 64; the whole short side of an image is shown.

    Returns:
      uint8 [R, side, side, 3].

    Raises:
      DataError: one of the images cannot be decoded.
    """
    dataset = ordered_dataset(
        Subset(source, rows),
        lambda encoded: denormalize(center_view(encoded, side)),
        EVAL_BATCH_SIZE,
    )
    with _naming_bad_images(source, rows):
        return np.concatenate([images for _, images in dataset.as_numpy_iterator()])


def write_augmented_views(
    source: Source,
    *,
    image_size: int,
    seed: int,
    augment: AugmentConfig,
    writer: tf.summary.SummaryWriter,
    path: pathlib.Path,
) -> None:
    """Shows what the network will see: a sheet for TensorBoard, and the same as a PNG.

    Each row is one image: its centre view, then its random views in the first epochs.

    Args:
      source: the training images.
      image_size: S, pixels.
      seed: of the run.
      augment: ranges of the random choices.
      writer: takes the summary, at step 0.
      path: the PNG.

    Raises:
      DataError: an image cannot be decoded.
      RunError: the file cannot be written.
    """
    rows = sample_rows(source.num_examples, SHEET_IMAGES, seed)
    views = _augmented_views(source, rows, image_size, seed, augment)
    factor = max(1, _SHOWN_SIDE // image_size)
    sheet = tile(views.repeat(factor, axis=2).repeat(factor, axis=3), GAP)
    description = (
        f"A row is a training image: its centre view, then its random views in epochs 1 to "
        f"{SHEET_EPOCHS}. From above: {', '.join(source.describe(int(i)) for i in rows)}."
    )
    with writer.as_default(step=0):
        tf.summary.image("augmented_views", sheet[np.newaxis], description=description)
    write_png(path, sheet)


def write_png(path: pathlib.Path, image: np.ndarray) -> None:
    """Writes uint8 [height, width, 3] to a file, and makes its folder.

    Raises:
      RunError: the file cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tf.io.encode_png(image).numpy())


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Turns errors while `path` is written into a RunError."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.message
        raise RunError(
            f"{path} cannot be written: {reason}. Checkpoints are untouched; fix that and start "
            "the same command again."
        ) from error


@contextlib.contextmanager
def _naming_bad_images(source: Source, rows: np.ndarray) -> Iterator[None]:
    try:
        yield
    except tf.errors.OpError:
        refuse_bad_images(source, rows)
        raise
