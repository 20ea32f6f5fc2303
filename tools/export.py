"""Writes a trained network for use elsewhere: SavedModel, plain weights, ONNX, a model card.

  python tools/export.py --run_dir=RUN --export_dir=DIR

DIR/1 is a SavedModel in the layout of TensorFlow Serving; it needs TensorFlow alone.
DIR/weights.npz holds the weights for NumPy. DIR/README.md says what it is and how to use it. A run
that is not finished is exported as it is.
"""

import pathlib
import sys

import command_line
from absl import flags

_RUN_DIR = flags.DEFINE_string("run_dir", None, "A run directory; its newest checkpoint is used.")
_EXPORT_DIR = flags.DEFINE_string(
    "export_dir", None, "Where to write: a new or empty folder, or one with an older export."
)
_ONNX = flags.DEFINE_bool("onnx", False, "Write DIR/network.onnx too; tf2onnx must be installed.")


def main() -> None:
    """Exports, and says what was written."""
    command_line.parse(sys.argv, __doc__)
    if _RUN_DIR.value is None or _EXPORT_DIR.value is None:
        command_line.fail("give --run_dir, the run, and --export_dir, the folder to write to.")
    # TensorFlow takes seconds to import: only once the flags are known to be right.
    from la_tf.export.run import export_run, sample_pictures
    from la_tf.runs.trained_run import open_run

    directory = pathlib.Path(_EXPORT_DIR.value).expanduser()
    run = open_run(_RUN_DIR.value)
    pictures, what = sample_pictures(run)
    saved_model = export_run(run, directory, pictures, _ONNX.value)
    size = sum(path.stat().st_size for path in saved_model.rglob("*") if path.is_file())
    print(
        f"{run.config.network.network} after {run.epoch:.4g} epochs, "
        f"{run.network.count_params():,} weights, tried on {what}."
    )
    print(f"SavedModel: {saved_model} ({size / 1e6:.1f} MB)")
    print(f"model card: {directory / 'README.md'}")


if __name__ == "__main__":
    command_line.run(main, again="starts anew")
