"""A network's weights as one .npz file that NumPy alone reads, and back."""

import hashlib
import pathlib

import numpy as np
import tensorflow as tf

from la_tf.errors import RunError, first_line
from la_tf.networks import architecture_of, build_network
from la_tf.options import option_value, sections_and_options
from la_tf.stored import StoredFileError, read_arrays, write_arrays

# Metadata keys, scalars beside the tensors: what is needed to build their network again.
NETWORK, IMAGE_SIZE, DIM = "metadata/network", "metadata/image_size", "metadata/dim"
_METADATA = (NETWORK, IMAGE_SIZE, DIM)
_OPTIONS = {name: option for name, (_, option) in sections_and_options().items()}
_MAX_NAMED = 3  # tensors that an error names


class WeightsError(ValueError):
    """A file of weights that cannot be used; the message says what is wrong with it."""


def named_tensors(network: tf.keras.Model) -> dict[str, np.ndarray]:
    """Every weight and moving statistic of a network under a name that a person can read.

    Args:
      network: from `build_network`, under whatever strategy.

    Returns:
      `backbone/conv1/kernel`, `head/fc6_bn/gamma` and so on, in the network's order.
    """
    return dict(zip(_names(network), network.get_weights(), strict=True))


def checksum(network: tf.keras.Model) -> str:
    """SHA-256 of the named tensors; no matter in which file, on which machine.

    Of each, in alphabetical order, its name, type and shape, and its values in C order.
    """
    digest = hashlib.sha256()
    for name, value in sorted(named_tensors(network).items()):
        digest.update(f"{name} {value.dtype} {value.shape}\n".encode() + value.tobytes())
    return digest.hexdigest()


def save_weights(network: tf.keras.Model, path: pathlib.Path) -> None:
    """Writes all tensors of a network, and what builds it, to one .npz file in one step.

    `numpy.load(path)` opens it. Beside the `named_tensors` it holds `metadata/network`,
    `metadata/image_size` and `metadata/dim`.

    Args:
      network: from `build_network`.
      path: the file; it is replaced once the new one is whole.

    Raises:
      OSError: it cannot be written.
    """
    metadata = {
        NETWORK: architecture_of(network),
        IMAGE_SIZE: network.input_shape[1],
        DIM: network.output_shape[-1],
    }
    write_arrays(path, metadata | named_tensors(network))


def load_weights(network: tf.keras.Model, path: pathlib.Path) -> None:
    """Gives a network the tensors of a file; all of them, or none.

    Args:
      network: from `build_network`, of the architecture, image size and dimension in the file.
      path: written by `save_weights`.

    Raises:
      WeightsError: the file cannot be read, is of another network, or a tensor is missing, unknown
        or of another shape or type; nothing was assigned.
    """
    stored = _read(path)
    described = _in_words(*(stored.pop(name) for name in _METADATA))
    own = in_words(network)
    if described != own:
        raise WeightsError(f"{path} holds the weights of {described}, and the network is {own}.")
    try:
        network.set_weights(in_order_of(network, stored))
    except WeightsError as error:
        raise WeightsError(f"the weights in {path} are not those of {own}: {error}.") from None


def in_order_of(network: tf.keras.Model, tensors: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The values of `named_tensors` as `network.set_weights` takes them.

    Raises:
      WeightsError: a tensor is missing, unknown or of another shape or type; the message is part
        of a sentence.
    """
    wanted = dict(zip(_names(network), network.weights, strict=True))
    misfits = [
        f"{name} is {given} and not {_kind(wanted[name])}"
        for name, value in tensors.items()
        if name in wanted and (given := _kind(value)) != _kind(wanted[name])
    ]
    wrong = [
        f"{sentence} {_some(names)}"
        for sentence, names in (
            ("it lacks", [name for name in wanted if name not in tensors]),
            ("it has the unknown", [name for name in tensors if name not in wanted]),
            ("in it", misfits),
        )
        if names
    ]
    if wrong:
        raise WeightsError("; ".join(wrong))
    return [tensors[name] for name in wanted]


def network_from_weights(path: pathlib.Path) -> tf.keras.Model:
    """Builds the network that a file describes, with its weights.

    Args:
      path: written by `save_weights`.

    Returns:
      Images [B, S, S, 3], normalised -> unit embeddings [B, D], see `build_network`.

    Raises:
      WeightsError: the file cannot be read, does not say what it is of, or does not fit that.
    """
    stored = _read(path)
    try:
        side, dim = (
            option_value(_OPTIONS[name], stored[key].item())
            for name, key in (("image_size", IMAGE_SIZE), ("dim", DIM))
        )
        network = build_network(str(stored[NETWORK]), side, dim)
    except (RunError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} describes no network: {first_line(error)}.") from error
    load_weights(network, path)
    return network


def _names(network: tf.keras.Model) -> list[str]:
    backbone = network.get_layer("backbone")
    names = getattr(backbone, "weight_names", None) or [v.name for v in backbone.weights]
    inner = {id(v): f"backbone/{n}" for v, n in zip(backbone.weights, names, strict=True)}
    return [
        inner.get(id(variable), f"head/{variable.name}").removesuffix(":0")
        for variable in network.weights
    ]


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        stored = read_arrays(path)
    except StoredFileError as error:
        raise WeightsError(f"{path} cannot be read as weights: {error}.") from error
    if missing := [name for name in _METADATA if name not in stored]:
        raise WeightsError(f"{path} lacks {_some(missing)}: write it with la_tf.export.weights.")
    return stored


def in_words(network: tf.keras.Model) -> str:
    """What tells networks apart, 'smallnet at 16 pixels with 128 dimensions'."""
    return _in_words(architecture_of(network), network.input_shape[1], network.output_shape[-1])


def _in_words(name: object, image_size: object, dim: object) -> str:
    return f"{name} at {image_size} pixels with {dim} dimensions"


def _kind(tensor: np.ndarray | tf.Variable) -> str:
    """Type and shape, `float32 [3, 3, 3, 64]`."""
    return f"{tensor.dtype.name} [{', '.join(map(str, tensor.shape))}]"


def _some(names: list[str]) -> str:
    rest = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")
