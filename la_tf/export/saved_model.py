"""A trained network as a SavedModel that needs nothing of this project."""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from la_tf.data.augment import center_view, normalize
from la_tf.errors import UserError, first_line
from la_tf.files import pattern_in, replace_folder, temporary_folder
from la_tf.networks import build_network

PROBE_TOLERANCE = 0.02  # of a unit vector's coordinates; bfloat16 rounds to 0.004
VERSION = "1"  # TensorFlow Serving loads the highest-numbered subfolder

# A signature's name -> "inputs" and "outputs" -> tensor's name -> its type and shape in words.
Signatures = dict[str, dict[str, dict[str, str]]]


class ExportError(UserError, RuntimeError):
    """An export that does not do what the network does."""


class MismatchError(ExportError):
    """An export that differs from its network; the message says where it is left."""


class EmbeddingModule(tf.Module):
    """The embedding network with its preprocessing; no bank, no optimizer.

    Three signatures share one set of weights.
    """

    def __init__(self, network: tf.keras.Model, image_size: int):
        """Wraps a network that takes [B, image_size, image_size, 3]."""
        super().__init__(name="embedding")
        self.tensors = network.variables
        layers = _with_layers(network)
        # Behind functions: else every layer would be exported, and traced, by itself as well.
        self._embed = lambda views: network(views, training=False)
        self._embed_layers = lambda views: layers(views, training=False)
        self._image_size = image_size

    def signatures(self) -> dict[str, Callable]:
        """The functions of an export by name, each with a graph of its own.

        Returns:
          serving_default: `image_bytes` [B], encoded JPEG, PNG, GIF or BMP images of any size, grey
            ones too -> `embedding` [B, D], unit rows.
          images: `images` [B, S, S, 3] float32, RGB from 0 to 255, not normalised -> the same. It
            neither decodes nor resizes.
          features: `image_bytes` [B] -> `embedding`, and `conv1` to `conv5` [B, C]: the layers of
            `networks.readouts`, averaged over their pixels.
        """
        side = self._image_size
        encoded = tf.TensorSpec([None], tf.string, name="image_bytes")
        pictures = tf.TensorSpec([None, side, side, 3], tf.float32, name="images")

        @tf.function(input_signature=[encoded], autograph=False)
        def embed_bytes(image_bytes):
            return {"embedding": self._embed(center_views(image_bytes, side))}

        @tf.function(input_signature=[pictures], autograph=False)
        def embed_images(images):
            return {"embedding": self._embed(normalize(images))}

        @tf.function(input_signature=[encoded], autograph=False)
        def embed_layers(image_bytes):
            return self._embed_layers(center_views(image_bytes, side))

        return {"serving_default": embed_bytes, "images": embed_images, "features": embed_layers}


def center_views(image_bytes: tf.Tensor, image_size: int) -> tf.Tensor:
    """Encoded images [B] to their centre views [B, S, S, 3], see `center_view`; for a graph."""
    return tf.map_fn(
        lambda encoded: center_view(encoded, image_size),
        image_bytes,
        fn_output_signature=tf.TensorSpec([image_size, image_size, 3], tf.float32),
    )


def _with_layers(network: tf.keras.Model) -> tf.keras.Model:
    """Views -> embedding and conv1 to conv5, averaged over their pixels, in one pass.

    `networks.readouts` next to the network's own output would run the backbone twice.
    """
    backbone = network.get_layer("backbone")
    ends = {n: backbone.get_layer(layer).output for n, layer in backbone.readout_layers.items()}
    ends["top"] = backbone.output[max(backbone.output, key=int)]
    tensors = tf.keras.Model(backbone.input, ends)(network.input)
    embedding = tensors.pop("top")
    for layer in network.layers[network.layers.index(backbone) + 1 :]:  # the head is a chain
        embedding = layer(embedding)
    means = {name: tf.reduce_mean(tensor, axis=[1, 2]) for name, tensor in tensors.items()}
    return tf.keras.Model(network.input, {"embedding": embedding, **means})


def export_saved_model(
    network: tf.keras.Model, name: str, image_size: int, directory: pathlib.Path, probe: bytes
) -> pathlib.Path:
    """Writes a SavedModel with the signatures of `EmbeddingModule`, in float32.

    Args:
      network: trained; under whatever strategy and precision.
      name: its architecture, as `build_network` knows it.
      image_size: side of its views.
      directory: gets a subfolder `1`, the layout of TensorFlow Serving; an older export there is
        replaced once the new one is whole and has been tried.
      probe: an encoded image, embedded through every signature before the export counts.

    Returns:
      The folder of the SavedModel.

    Raises:
      ExportError: the export does not give the network's embedding of the probe, or cannot be
        written.
    """
    plain, module, signatures = _traced(name, image_size, network.output_shape[-1])
    plain.set_weights(network.get_weights())
    try:
        with own_folder(directory) as partial:
            tf.saved_model.save(module, str(partial / VERSION), signatures=signatures)
            _try_out(partial / VERSION, network, image_size, probe)
            replace_folder(partial / VERSION, directory / VERSION)
    except (OSError, tf.errors.OpError) as error:
        raise ExportError(cannot_be_written(directory, error)) from error
    return directory / VERSION


@contextlib.contextmanager
def own_folder(directory: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary folder inside another one, which is made if need be; removed at the end.

    After a `MismatchError` it stays until the next export, for a look at what was refused.

    Raises:
      ExportError: TensorFlow could not find there what it has written.
      OSError: it cannot be made.
    """
    if character := pattern_in(directory):
        raise ExportError(
            f"{directory} has a {character} in its path, which TensorFlow takes for a pattern of "
            "names: name another folder."
        )
    with temporary_folder(directory, ".export-", keep_after=MismatchError) as folder:
        yield folder


def cannot_be_written(directory: pathlib.Path, error: Exception) -> str:
    """The sentence for an export that the disk refused."""
    reason = getattr(error, "strerror", None) or first_line(error)
    return (
        f"the export cannot be written to {directory}: {reason}. The run itself is saved: fix "
        "that and start the same command again."
    )


def plain_copy(network: tf.keras.Model, name: str, image_size: int) -> tf.keras.Model:
    """One plain set of weights, outside any strategy, that computes in float32."""
    plain = _plain_network(name, image_size, network.output_shape[-1])
    plain.set_weights(network.get_weights())
    return plain


def _plain_network(name: str, image_size: int, dim: int) -> tf.keras.Model:
    policy = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy("float32")
    try:
        return build_network(name, image_size, dim)
    finally:
        tf.keras.mixed_precision.set_global_policy(policy)


# A run exports twice: before its first step, to see that it can, and after its last.
@functools.lru_cache(maxsize=1)
def _traced(
    name: str, image_size: int, dim: int
) -> tuple[tf.keras.Model, EmbeddingModule, dict[str, Callable]]:
    """A plain network, whose weights may be set anew, its module and its signatures."""
    plain = _plain_network(name, image_size, dim)
    module = EmbeddingModule(plain, image_size)
    return plain, module, module.signatures()


def _try_out(folder: pathlib.Path, network: tf.keras.Model, image_size: int, probe: bytes) -> None:
    """Compares every signature with the network itself.

    Raises:
      MismatchError: an embedding differs.
    """
    loaded = tf.saved_model.load(str(folder))
    view = center_view(probe, image_size)[tf.newaxis]
    rng = np.random.default_rng(0)
    picture = rng.uniform(0, 255, (1, image_size, image_size, 3)).astype(np.float32)
    encoded = {"image_bytes": tf.constant([probe])}
    of_view = network(view, training=False).numpy()
    of_picture = network(normalize(picture), training=False).numpy()
    for name, arguments, expected in (
        ("serving_default", encoded, of_view),
        ("features", encoded, of_view),
        ("images", {"images": tf.constant(picture)}, of_picture),
    ):
        embedding = loaded.signatures[name](**arguments)["embedding"].numpy()
        error = np.abs(embedding - expected).max()
        if not error <= PROBE_TOLERANCE:
            raise MismatchError(
                f"the exported network's {name} differs from the trained one by {error:.2g} on one "
                f"image; it is left in {folder}."
            )


def read_signatures(saved_model: pathlib.Path) -> Signatures:
    """What a SavedModel takes and gives, without loading it.

    Returns:
      For `serving_default` and so on the tensors, `float32 [B, 128]`.

    Raises:
      ExportError: there is no SavedModel, or it cannot be read.
    """
    proto = saved_model_pb2.SavedModel()
    try:
        proto.ParseFromString((saved_model / "saved_model.pb").read_bytes())
        definitions = proto.meta_graphs[0].signature_def
    except (OSError, DecodeError, IndexError) as error:
        raise ExportError(f"{saved_model} is no SavedModel: {first_line(error)}.") from error
    return {
        name: {
            "inputs": {key: _kind(tensor) for key, tensor in sorted(definition.inputs.items())},
            "outputs": {key: _kind(tensor) for key, tensor in sorted(definition.outputs.items())},
        }
        for name, definition in definitions.items()
        if not name.startswith("__")  # of TensorFlow's own
    }


def _kind(tensor: meta_graph_pb2.TensorInfo) -> str:
    sides = ["B" if dim.size < 0 else str(dim.size) for dim in tensor.tensor_shape.dim]
    return f"{tf.as_dtype(tensor.dtype).name} [{', '.join(sides)}]"
