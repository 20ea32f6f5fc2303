"""The whole export of a run: SavedModel, plain weights, ONNX and the page that describes them."""

import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from la_tf.data.augment import center_view, decode, denormalize
from la_tf.data.base import DataError
from la_tf.data.image_headers import PictureError, count_pixels
from la_tf.data.sources import open_train_and_val
from la_tf.export.model_card import MARK, MODEL_CARD, model_card
from la_tf.export.onnx import INSTALL, OPSET, export_onnx, onnx_difference, require_tf2onnx
from la_tf.export.saved_model import (
    VERSION,
    ExportError,
    cannot_be_written,
    export_saved_model,
    own_folder,
    read_signatures,
)
from la_tf.export.weights import save_weights
from la_tf.files import lock, replace_folder
from la_tf.runs.trained_run import TrainedRun

WEIGHTS = "weights.npz"
ONNX = "network.onnx"
# The files next to the SavedModel. The page comes first: where it is ours, so are the others.
FILES = (MODEL_CARD, WEIGHTS, ONNX)
LOCK = ".export.lock"


def export_run(
    run: TrainedRun,
    directory: pathlib.Path,
    pictures: Sequence[bytes],
    onnx: bool = False,
    say: Callable[[str], None] = print,
) -> pathlib.Path:
    """Writes a trained network for use: `1/`, `weights.npz`, `network.onnx` and `README.md`.

    All of it is written and tried in a folder of its own; only then an older export gives way. It
    holds the network alone: no bank, no optimizer, nothing of the size of the training set. Of two
    exports into one folder at the same time, the one that ends last stays, whole.

    Args:
      run: its network may be under whatever strategy and precision.
      directory: new, empty, or with an older export.
      pictures: encoded images, at least one; the first is embedded through the SavedModel, all are
        through ONNX.
      onnx: convert the network too. Without it an older `network.onnx`, which is of other weights,
        is removed.
      say: takes a sentence about ONNX.

    Returns:
      The folder of the SavedModel.

    Raises:
      ExportError: the folder holds something else, the export does not do what the network does, or
        it cannot be written.
    """
    if onnx:
        require_tf2onnx()
    network, side = run.network, run.config.data.image_size
    try:
        _require_own(directory)
        with own_folder(directory) as partial:
            saved_model = export_saved_model(
                network, run.config.network.network, side, partial, pictures[0]
            )
            save_weights(network, partial / WEIGHTS)
            note = ""
            if onnx:
                note = _write_onnx(saved_model, partial / ONNX, side, pictures)
                say(note)
            (partial / MODEL_CARD).write_text(model_card(run, partial, note), encoding="utf-8")
            with lock(directory / LOCK, wait=True):  # another export may be moving its files
                _move(partial, directory)
    except OSError as error:
        raise ExportError(cannot_be_written(directory, error)) from error
    return directory / VERSION


def sample_pictures(run: TrainedRun, count: int = 8) -> tuple[list[bytes], str]:
    """Images of a run to try an export on, or one that is generated where they are gone.

    Args:
      run: its held-out images are taken, or else its training images.
      count: how many, spread over all.

    Returns:
      Encoded images that can be decoded, at least one, and in words what they are.
    """
    try:
        train_set, heldout = open_train_and_val(run.config.data, run.config.schedule.seed)
        source = heldout or train_set
        chosen = np.linspace(0, source.num_examples - 1, min(count, source.num_examples))
        pictures = [source.read(int(i)) for i in chosen]
        for picture in pictures:
            count_pixels(picture, run.config.data.max_megapixels)
            decode(tf.constant(picture))
        return pictures, f"{len(pictures)} images of the run"
    except (DataError, PictureError, OSError, tf.errors.OpError):
        return [_generated_picture()], "a generated image, since those of the run cannot be read"


def _generated_picture() -> bytes:
    """A PNG of smooth colours, 320 x 240."""
    coarse = np.random.default_rng(0).uniform(0, 255, (6, 8, 3))
    smooth = tf.cast(tf.image.resize(coarse, (240, 320), "bicubic"), tf.float32)
    return tf.io.encode_png(tf.cast(tf.clip_by_value(smooth, 0, 255), tf.uint8)).numpy()


def _require_own(directory: pathlib.Path) -> None:
    """Refuses to write over what is no export of an embedding network.

    Raises:
      ExportError: something else is there.
    """
    if directory.exists() and not directory.is_dir():
        raise ExportError(f"{directory} is a file: name a folder as --export_dir.")
    replaced = ", and it would be replaced: name an empty or a new --export_dir."
    card, saved_model = directory / MODEL_CARD, directory / VERSION
    found = [name for name in FILES if (directory / name).exists()]
    if found and not (card.is_file() and MARK in card.read_text("utf-8", errors="replace")):
        raise ExportError(f"{directory} holds a {found[0]} that no export wrote{replaced}")
    if os.path.lexists(saved_model):
        try:
            default = read_signatures(saved_model).get("serving_default", {})
        except ExportError as error:
            raise ExportError(f"{saved_model} is no SavedModel{replaced}") from error
        if "embedding" not in default.get("outputs", {}):
            what = "the export of another model, a detector perhaps"
            raise ExportError(f"{saved_model} is {what}{replaced}")


def _write_onnx(
    saved_model: pathlib.Path, path: pathlib.Path, side: int, pictures: Sequence[bytes]
) -> str:
    """Converts, compares if ONNX Runtime is installed, and returns a sentence on the result."""
    export_onnx(saved_model, path)
    views = [denormalize(center_view(tf.constant(picture), side)) for picture in pictures]
    difference = onnx_difference(saved_model, path, np.stack(views).astype(np.float32))
    made = f"`{ONNX}` is the signature `images` in ONNX, opset {OPSET}"
    if difference is None:
        return f"{made}. It was not compared with TensorFlow: onnxruntime is missing, {INSTALL}"
    return (
        f"{made}. In ONNX Runtime it gives the embeddings of TensorFlow to {difference:.1g} a "
        f"coordinate on {len(pictures)} images."
    )


def _move(partial: pathlib.Path, directory: pathlib.Path) -> None:
    """Puts a whole export in the place of an older one; the page first, see `FILES`."""
    os.replace(partial / MODEL_CARD, directory / MODEL_CARD)
    replace_folder(partial / VERSION, directory / VERSION)
    for name in (WEIGHTS, ONNX):
        if (partial / name).exists():
            os.replace(partial / name, directory / name)
        else:
            (directory / name).unlink(missing_ok=True)
