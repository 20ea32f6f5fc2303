"""A trained network as a SavedModel that needs nothing of this project."""

import os
import pathlib
import shutil

import tensorflow as tf

from la_tf.data.augment import center_view
from la_tf.networks import build_network

VERSION = "1"  # TensorFlow Serving loads the highest-numbered subfolder


class EmbeddingModule(tf.Module):
    """The embedding network with its preprocessing; no bank, no optimizer."""

    def __init__(self, network: tf.keras.Model, image_size: int):
        """Wraps a network that takes [B, image_size, image_size, 3]."""
        super().__init__(name="embedding")
        self.network = network
        self.image_size = image_size

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def embed_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Encoded JPEG or PNG images [B] of any size to unit embeddings [B, D]."""
        views = tf.map_fn(
            lambda encoded: center_view(encoded, self.image_size),
            image_bytes,
            fn_output_signature=tf.TensorSpec([self.image_size, self.image_size, 3], tf.float32),
        )
        return {"embedding": self.network(views, training=False)}


def export_saved_model(
    network: tf.keras.Model, name: str, image_size: int, directory: pathlib.Path
) -> pathlib.Path:
    """Writes a SavedModel whose default signature takes image bytes and returns embeddings.

    Args:
      network: trained; under whatever strategy.
      name: its architecture, as `build_network` knows it.
      image_size: side of its views.
      directory: gets a subfolder `1`, the layout of TensorFlow Serving; an older export there is
        replaced once the new one is whole.

    Returns:
      The folder of the SavedModel.
    """
    # A fresh copy outside any strategy, so that what is saved is one plain set of weights.
    plain = build_network(name, image_size, network.output_shape[-1])
    plain.set_weights(network.get_weights())
    module = EmbeddingModule(plain, image_size)
    target = directory / VERSION
    partial = directory / f".{VERSION}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    directory.mkdir(parents=True, exist_ok=True)
    tf.saved_model.save(module, str(partial), signatures={"serving_default": module.embed_bytes})
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
    return target


def embed_with_saved_model(saved_model: pathlib.Path, image_bytes: list[bytes]):
    """Loads a SavedModel and embeds encoded images with it: a numpy array [B, D]."""
    signature = tf.saved_model.load(str(saved_model)).signatures["serving_default"]
    return signature(image_bytes=tf.constant(image_bytes))["embedding"].numpy()
