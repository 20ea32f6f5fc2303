"""An exported network in ONNX, for programs without TensorFlow; its packages are optional."""

import importlib.util
import pathlib

import numpy as np
import tensorflow as tf

from la_tf.errors import first_line
from la_tf.export.saved_model import ExportError

OPSET = 17  # every operation of the networks is in it; ONNX Runtime reads it from 1.13 on
TOLERANCE = 1e-4  # of a unit vector's coordinates; measured: 5e-7
# Versions that were tried with TensorFlow 2.15.1, NumPy 1.26.4 and protobuf 4.25.9.
INSTALL = "pip install -c constraints.txt tf2onnx==1.17.0 onnx==1.17.0 onnxruntime==1.23.2"


def require_tf2onnx() -> None:
    """Refuses to start what cannot be converted.

    Raises:
      ExportError: tf2onnx or onnx is not installed; the message says how to install them.
    """
    missing = [name for name in ("tf2onnx", "onnx") if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(f"ONNX needs {' and '.join(missing)}: {INSTALL}")


def export_onnx(saved_model: pathlib.Path, path: pathlib.Path) -> None:
    """Converts the signature `images` of a SavedModel: `images` [B, S, S, 3] -> `embedding` [B, D].

    Args:
      saved_model: see `saved_model.export_saved_model`.
      path: the ONNX file to be written.

    Raises:
      ExportError: tf2onnx is not installed, or fails.
    """
    require_tf2onnx()
    import tf2onnx

    loaded = tf.saved_model.load(str(saved_model))
    signature = loaded.signatures["images"]
    specs = list(signature.structured_input_signature[1].values())
    embed = tf.function(lambda images: signature(images=images), input_signature=specs)
    try:
        tf2onnx.convert.from_function(embed, specs, opset=OPSET, output_path=str(path))
    except Exception as error:  # a converter of many parts can fail in many ways
        raise ExportError(f"tf2onnx fails: {first_line(error)}.") from error


def onnx_difference(
    saved_model: pathlib.Path, path: pathlib.Path, images: np.ndarray
) -> float | None:
    """The largest difference between an embedding in ONNX Runtime and in TensorFlow.

    Args:
      saved_model: what was converted.
      path: the ONNX file.
      images: [B, S, S, 3] float32, from 0 to 255.

    Returns:
      Of a coordinate; None where onnxruntime is not installed.

    Raises:
      ExportError: it is above `TOLERANCE`.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(["embedding"], {"images": images})
    loaded = tf.saved_model.load(str(saved_model))
    expected = loaded.signatures["images"](images=tf.constant(images))["embedding"].numpy()
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE:
        raise ExportError(
            f"the network in ONNX differs from TensorFlow's by {difference:.2g}; it is left in "
            f"{path}."
        )
    return difference
