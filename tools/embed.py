"""Writes the embeddings of a whole set of images to disk.

  python tools/embed.py --run_dir=RUN --output_dir=OUT
  python tools/embed.py --export_dir=RUN/export --data=DIR --output_dir=OUT

OUT/embeddings.npy is an array, OUT/embeddings.parquet a table with paths and classes beside the
vectors. The same command goes on where it was stopped. Both load in three lines:

  import numpy as np, pyarrow.parquet as pq
  vectors = np.load("OUT/embeddings.npy", mmap_mode="r")
  table = pq.read_table("OUT/embeddings.parquet")
"""

import dataclasses
import sys

import command_line
import config_flags
from absl import flags

_RUN_DIR = flags.DEFINE_string("run_dir", None, "A run directory; its newest checkpoint is used.")
_EXPORT_DIR = flags.DEFINE_string("export_dir", None, "A SavedModel, or a run's folder export.")
_DATA = flags.DEFINE_string(
    "data", None, "Images, as tools/train.py takes them; default those of --run_dir."
)
_PART = flags.DEFINE_enum("part", "train", ["train", "val"], "Training or held-out images.")
_SKIP_BAD_IMAGES = flags.DEFINE_bool(
    "skip_bad_images",
    None,
    "Leave out files that cannot be decoded instead of stopping; default as --run_dir did.",
)
_MAX_MEGAPIXELS = config_flags.define_option(
    "max_megapixels",
    None,
    "Millions of pixels in an image; default as for --run_dir, or as in tools/train.py.",
)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Where to write.")


def main() -> None:
    """Embeds, and says where the embeddings are."""
    _parse(sys.argv)
    # TensorFlow takes seconds to import: only once the flags are known to be right.
    from la_tf.embedding.embedding_files import write_embeddings

    written = write_embeddings(*_open(), _OUTPUT_DIR.value)
    told = "were there already" if written.was_there else "written"
    print(
        f"{written.rows} embeddings of {written.dim} numbers {told}: {written.array} and "
        f"{written.table}"
    )


def _parse(argv: list[str]) -> None:
    command_line.parse(argv, __doc__)
    if (_RUN_DIR.value is None) == (_EXPORT_DIR.value is None):
        command_line.fail("give one of --run_dir and --export_dir.")
    if _EXPORT_DIR.value is not None and _DATA.value is None:
        command_line.fail("--export_dir needs --data: an export does not know any images.")
    if _OUTPUT_DIR.value is None:
        command_line.fail("give --output_dir, the folder to write to.")


def _open():
    """The model and the images that the flags name."""
    from la_tf.config import DataConfig
    from la_tf.embedding.embedding_model import export_model, open_part, run_model
    from la_tf.runs.trained_run import open_run

    config, seed = DataConfig(), 0
    if _RUN_DIR.value is not None:
        run = open_run(_RUN_DIR.value)
        model, config, seed = run_model(run), run.config.data, run.config.schedule.seed
    else:
        model = export_model(_EXPORT_DIR.value)
    if _DATA.value is not None:
        config = dataclasses.replace(config, data=_DATA.value, val_data=None, holdout=0)
    for flag in (_SKIP_BAD_IMAGES, _MAX_MEGAPIXELS):
        if flag.value is not None:
            config = dataclasses.replace(config, **{flag.name: flag.value})
    return model, open_part(config, seed, _PART.value)


if __name__ == "__main__":
    command_line.run(main)
