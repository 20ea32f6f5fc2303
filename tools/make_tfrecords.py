"""Writes images as indexed TFRecords, for disks that dislike millions of small files.

python tools/make_tfrecords.py --data=/data/imagenet --output_dir=/data/imagenet_records

OUTPUT_DIR/train and, where there are held-out images, OUTPUT_DIR/val appear when everything has
been written. The encoded images stay as they are. Train with --data=OUTPUT_DIR.
"""

import os
import sys

import command_line
import config_flags
from absl import flags

from la_tf.config import DataConfig

_DATA = flags.DEFINE_string("data", None, "Images: a folder, tfds:NAME or digits.", required=True)
_VAL_DATA = flags.DEFINE_string(
    "val_data", None, "Held-out images; default what --data itself keeps apart."
)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder to make.", required=True)
_NUM_SHARDS = flags.DEFINE_integer(
    "num_shards",
    None,
    "Files a part; default one for each 10,000 images.",
    lower_bound=1,
    upper_bound=10**6,
)
_SKIP_BAD_IMAGES = flags.DEFINE_bool(
    "skip_bad_images", False, "Leave out files that cannot be decoded instead of stopping."
)
_MAX_MEGAPIXELS = config_flags.define_option("max_megapixels", DataConfig.max_megapixels)


def main() -> None:
    """Checks and writes both parts."""
    command_line.parse(sys.argv, __doc__)
    # TensorFlow takes seconds to import: only once the flags are known to be right.
    from la_tf.data.checks import check_images
    from la_tf.data.record_writer import complete_or_absent, write_records
    from la_tf.data.sources import open_train_and_val

    config = DataConfig(data=_DATA.value, val_data=_VAL_DATA.value)
    train, val = open_train_and_val(config, seed=0)
    with complete_or_absent(_OUTPUT_DIR.value) as folder:
        for part, source in (("train", train), ("val", val)):
            if source is None:
                continue
            if source.not_read:
                print(source.not_read)
            result = check_images(source, _SKIP_BAD_IMAGES.value, _MAX_MEGAPIXELS.value)
            print(result)
            write_records(result.source, os.path.join(folder, part), _NUM_SHARDS.value)
    print(f"written: {_OUTPUT_DIR.value}")


if __name__ == "__main__":
    command_line.run(main, again="starts anew")
