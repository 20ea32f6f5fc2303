"""Models that embed whole sets of images: the network of a run, or an export."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from la_tf.config import DataConfig, NumericsConfig
from la_tf.data.augment import CENTER_VIEW_VERSION
from la_tf.data.base import DataError, Source, Subset
from la_tf.data.checks import BadImage, find_bad_images, find_large_images, keep_good_images
from la_tf.data.pipeline import EVAL_BATCH_SIZE, eval_dataset
from la_tf.data.sources import open_train_and_val
from la_tf.errors import UserError, first_line
from la_tf.runs import runtime
from la_tf.runs.trained_run import TrainedRun

_DIGITS = 16  # of a digest in an identity


class EmbeddingError(UserError, RuntimeError):
    """Embeddings that cannot be computed or written; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class EmbeddingModel:
    """A model that embeds images.

    Attributes:
      identity: what its embeddings depend on, weights and preprocessing, ready for JSON.
      batches: a source of N images -> its embeddings in order, [<= 128, D] float32 at a time.
    """

    identity: dict[str, Any]
    batches: Callable[[Source], Iterator[np.ndarray]]


def run_model(run: TrainedRun) -> EmbeddingModel:
    """The network of a run directory, in float32 on centre views."""
    side = run.config.data.image_size

    # One graph for all batches, also for the smaller last one.
    @tf.function(
        input_signature=[tf.TensorSpec([None, side, side, 3], tf.float32)], autograph=False
    )
    def embed(views: tf.Tensor) -> tf.Tensor:
        return run.network(views, training=False)

    def batches(source: Source) -> Iterator[np.ndarray]:
        for _, views in eval_dataset(source, image_size=side):
            yield embed(views).numpy()

    identity = {
        "kind": "run",
        "network": run.config.network.network,
        "image_size": side,
        "center_view": CENTER_VIEW_VERSION,
        "step": run.step,
        "weights": _digest(run.network.weights),
    }
    return EmbeddingModel(identity, batches)


@dataclasses.dataclass(frozen=True)
class ExportKind:
    """What an export makes of `image_bytes`, encoded images [B].

    Attributes:
      name: what clients of a server call it, if nobody says otherwise.
      signature: of the SavedModel.
      output: the name of what it gives, float32 [B, ...].
      tool: who writes it.
    """

    name: str
    signature: str
    output: str
    tool: str


EMBEDDING = ExportKind("embedding", "serving_default", "embedding", "tools/train.py")
CLASSIFIER = ExportKind("classifier", "classify", "scores", "tools/classify.py")


def export_model(directory: str, kind: ExportKind = EMBEDDING) -> EmbeddingModel:
    """An exported network with its preprocessing.

    Determinism is switched on for the whole process, as `open_run` does.

    Args:
      directory: a SavedModel, or a folder of numbered SavedModels, of which the newest is taken.
      kind: what it makes of images; the scores of a classifier take the place of embeddings.

    Raises:
      EmbeddingError: there is no such SavedModel.
    """
    runtime.configure(NumericsConfig(), seed=0)
    folder = newest_version(pathlib.Path(directory).expanduser())
    try:
        # The same weights may have been exported with another size or other preprocessing.
        graph = hashlib.sha256((folder / "saved_model.pb").read_bytes())
        loaded = tf.saved_model.load(str(folder))
        signature = loaded.signatures[kind.signature]
        fits = "image_bytes" in signature.structured_input_signature[1]
        fits = fits and kind.output in signature.structured_outputs
    except Exception as error:  # TensorFlow fails in many ways on damaged files
        raise EmbeddingError(
            f"the SavedModel {folder} cannot be loaded ({first_line(error)}): export it again."
        ) from error
    if not fits:
        raise EmbeddingError(
            f"the SavedModel {folder} has no signature {kind.signature} from image_bytes to "
            f"{kind.output}: name an export of {kind.tool}."
        )

    def batches(source: Source) -> Iterator[np.ndarray]:
        encoded = tf.data.Dataset.range(source.num_examples)
        encoded = encoded.map(source.load, tf.data.AUTOTUNE, deterministic=True).batch(
            EVAL_BATCH_SIZE
        )
        for images in encoded.prefetch(tf.data.AUTOTUNE):
            # Through `loaded`, which keeps the variables alive.
            yield loaded.signatures[kind.signature](image_bytes=images)[kind.output].numpy()

    identity = {
        "kind": "SavedModel",
        "graph": graph.hexdigest()[:_DIGITS],
        "weights": _digest(signature.variables),
    }
    return EmbeddingModel(identity, batches)


def embed_readable(
    model: EmbeddingModel, source: Source, rows: Sequence[int], max_megapixels: float
) -> tuple[list[int], np.ndarray | None, list[BadImage]]:
    """Embeds what can be of some images; they are all in memory at the end.

    Args:
      model: see `run_model` and `export_model`.
      source: N images that nobody has checked.
      rows: which of them.
      max_megapixels: of an image, in millions of pixels; larger ones are not decoded.

    Returns:
      The rows of those that were embedded, their embeddings [., D] or None, and the other images.

    Raises:
      EmbeddingError: the model failed at something else than an image.
    """
    bad = list(find_large_images(source, rows, max_megapixels))
    rows = _without(rows, bad)
    while rows:
        try:
            return rows, np.concatenate(list(model.batches(Subset(source, rows)))), bad
        except tf.errors.OpError as error:
            # Looked for only now: decoding every picture beforehand would cost more.
            found = find_bad_images(source, rows)
            if not found:
                raise EmbeddingError(
                    f"embedding stopped between {source.describe(rows[0])} and "
                    f"{source.describe(rows[-1])}: {first_line(error)}."
                ) from error
            rows = _without(rows, found)
            bad += found
    return [], None, bad


def _without(rows: Sequence[int], bad: Sequence[BadImage]) -> list[int]:
    left_out = {image.index for image in bad}
    return [row for row in rows if row not in left_out]


def progress_bar(total: int, done: int = 0) -> tqdm:
    """A bar that counts images; hidden where there is no terminal."""
    look = {"unit": " images", "unit_scale": True, "dynamic_ncols": True}
    return tqdm(total=total, initial=done, disable=None, **look)


def open_part(
    config: DataConfig, seed: int, part: str, say: Callable[[str], None] = print
) -> Source:
    """The checked images of one part of a data set, 'train' or 'val'.

    `seed` chooses the images that `config.holdout` takes; `say` takes a sentence on those left out.

    Raises:
      DataError: images are missing or unusable, or nothing is held out.
    """
    train, val = open_train_and_val(config, seed)
    source = train if part == "train" else val
    if source is None:
        raise DataError(f"{config.data} has no held-out images: there is only --part=train.")
    return keep_good_images(source, config, say)


def newest_version(folder: pathlib.Path) -> pathlib.Path:
    """A SavedModel itself, or the highest-numbered one in a folder, as TensorFlow Serving takes it.

    Raises:
      EmbeddingError: there is none.
    """
    candidates = [folder]
    if folder.is_dir():
        numbered = [f for f in folder.iterdir() if f.name.isdecimal()]
        candidates += sorted(numbered, key=lambda f: int(f.name), reverse=True)
    for candidate in candidates:
        if tf.saved_model.contains_saved_model(str(candidate)):
            return candidate
    raise EmbeddingError(f"{folder} holds no SavedModel: name the folder export of a run.")


def _digest(variables: list[tf.Variable]) -> str:
    digest = hashlib.sha256()
    for variable in variables:
        value = variable.numpy()
        digest.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    return digest.hexdigest()[:_DIGITS]
