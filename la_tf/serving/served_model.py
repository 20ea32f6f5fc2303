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
from la_tf.embedding.embedding_model import EmbeddingError, newest_version
from la_tf.errors import first_line
from la_tf.serving.protocol import INPUT, OUTPUT, SIGNATURE


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """A model as the server uses it.

    Attributes:
      version: a number, as text.
      signature: the SignatureDef served, in its JSON form.
      embed: encoded pictures to embeddings [B, D] float32; raises PictureError where one of them
        cannot be decoded.
    """

    version: str
    signature: dict[str, Any]
    embed: Callable[[list[bytes]], np.ndarray]


def load_model(directory: str) -> ServedModel:
    """Loads the newest version of an export, and tries it.

    Args:
      directory: a SavedModel, or a folder of numbered SavedModels.

    Raises:
      EmbeddingError: there is no SavedModel, or it does not embed pictures.
    """
    folder = newest_version(pathlib.Path(directory).expanduser())
    try:
        loaded = tf.saved_model.load(str(folder))
        described = SavedModel.FromString((folder / "saved_model.pb").read_bytes())
        signature = MessageToDict(
            described.meta_graphs[0].signature_def[SIGNATURE],
            preserving_proto_field_name=True,
            including_default_value_fields=True,
        )

        def embed(pictures: list[bytes]) -> np.ndarray:
            try:
                # Through `loaded`, since its variables live only as long as it does.
                outputs = loaded.signatures[SIGNATURE](**{INPUT: tf.constant(pictures)})
            except tf.errors.InvalidArgumentError as error:
                raise PictureError("cannot be decoded: it is damaged or cut short") from error
            return outputs[OUTPUT].numpy()

        embed([_white_picture()])
    except Exception as error:  # a damaged file can break TensorFlow's readers in many ways
        raise EmbeddingError(
            f"the SavedModel {folder} embeds no pictures ({first_line(error)}): name an export of "
            "tools/train.py, or export it again."
        ) from error
    return ServedModel(folder.name if folder.name.isdecimal() else "1", signature, embed)


def _white_picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "white").save(file, "PNG")
    return file.getvalue()
