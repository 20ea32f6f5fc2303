"""An export, loaded to be served."""

import dataclasses
import io
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.json_format import MessageToDict
from PIL import Image
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from la_tf.data.image_headers import PictureError
from la_tf.embedding.embedding_model import (
    CLASSIFIER,
    EMBEDDING,
    EmbeddingError,
    ExportKind,
    newest_version,
)
from la_tf.errors import first_line
from la_tf.serving.protocol import INPUT


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """A model as the server uses it.

    Attributes:
      kind: what it makes of pictures.
      version: a number, as text.
      signature: the SignatureDef served, in its JSON form.
      embed: encoded pictures to embeddings [B, D] float32, or scores [B, C]; raises PictureError
        where one of them cannot be decoded.
      class_names: of a classifier, C names.
    """

    kind: ExportKind
    version: str
    signature: dict[str, Any]
    embed: Callable[[list[bytes]], np.ndarray]
    class_names: tuple[str, ...] | None


def load_model(directory: str) -> ServedModel:
    """Loads the newest version of an export, and tries it.

    Args:
      directory: a SavedModel, or a folder of numbered SavedModels.

    Raises:
      EmbeddingError: there is no SavedModel, or it neither embeds nor classifies pictures.
    """
    folder = newest_version(pathlib.Path(directory).expanduser())
    try:
        loaded = tf.saved_model.load(str(folder))
        kind = CLASSIFIER if CLASSIFIER.signature in loaded.signatures else EMBEDDING
        described = SavedModel.FromString((folder / "saved_model.pb").read_bytes())
        signature = MessageToDict(
            described.meta_graphs[0].signature_def[kind.signature],
            preserving_proto_field_name=True,
            including_default_value_fields=True,
        )

        def outputs(pictures: list[bytes]) -> dict[str, tf.Tensor]:
            try:
                # Through `loaded`, since its variables live only as long as it does.
                return loaded.signatures[kind.signature](**{INPUT: tf.constant(pictures)})
            except tf.errors.InvalidArgumentError as error:
                raise PictureError("cannot be decoded: it is damaged or cut short") from error

        tried, names = outputs([_white_picture()]), None
        tried[kind.output].numpy()
        if kind is CLASSIFIER:
            names = tuple(name.decode() for name in tried["classes"][0].numpy())
    except Exception as error:  # a damaged file can break TensorFlow's readers in many ways
        raise EmbeddingError(
            f"the SavedModel {folder} neither embeds nor classifies pictures "
            f"({first_line(error)}): name an export of tools/train.py or tools/classify.py, or "
            "export it again."
        ) from error
    version = folder.name if folder.name.isdecimal() else "1"

    def embed(pictures: list[bytes]) -> np.ndarray:
        return outputs(pictures)[kind.output].numpy()

    return ServedModel(kind, version, signature, embed, names)


def _white_picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "white").save(file, "PNG")
    return file.getvalue()
