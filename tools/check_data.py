"""Decodes every image and says what there is; exit code 1 if some cannot be decoded.

python tools/check_data.py --data=/data/pictures
"""

import sys

import command_line
import config_flags
import numpy as np
from absl import flags

from la_tf.config import DataConfig

_DATA = flags.DEFINE_string("data", None, "Images, as tools/train.py takes them.", required=True)
_VAL_DATA = flags.DEFINE_string(
    "val_data", None, "Held-out images; default what --data itself keeps apart."
)
_HOLDOUT = config_flags.define_option("holdout", 0, "As in tools/train.py.")
_SEED = config_flags.define_option("seed", 0, "Chooses the images of --holdout.")
_MAX_MEGAPIXELS = config_flags.define_option("max_megapixels", DataConfig.max_megapixels)

_SIDES = (0, 32, 64, 128, 224, 256, 512, 1024)  # lower bounds of the histogram, pixels


def main() -> None:
    """Looks at the training and the held-out images."""
    command_line.parse(sys.argv, __doc__)
    # TensorFlow takes seconds to import: only once the flags are known to be right.
    from la_tf.data.checks import survey
    from la_tf.data.sources import open_train_and_val

    config = DataConfig(data=_DATA.value, val_data=_VAL_DATA.value, holdout=_HOLDOUT.value)
    parts = zip(("train", "held out"), open_train_and_val(config, _SEED.value), strict=True)
    num_bad = sum(
        _report(part, s, survey(s, _MAX_MEGAPIXELS.value)) for part, s in parts if s is not None
    )
    if num_bad:
        command_line.fail(f"{num_bad} images cannot be decoded.")


def _report(part: str, source, found) -> int:
    """Prints one part, from its `Source` and its `Survey`; returns how many images are bad."""
    print(f"{part}: {source.num_examples} images of {source.name}")
    if source.labels is None:
        print("  no labels")
    else:
        counts = np.bincount(source.labels, minlength=len(source.class_names))
        print(f"  {len(counts)} classes of {counts.min()} to {counts.max()} images")
    print("  formats: " + ", ".join(f"{n} {name}" for name, n in found.formats.most_common()))
    for line in _histogram(found):
        print(f"  {line}")
    if source.not_read:
        print(f"  {source.not_read}")
    for image in found.bad:
        print(f"  BAD {image.name}: {image.reason}")
    return len(found.bad)


def _histogram(found) -> list[str]:
    """Images by short side, one line a bin that is not empty."""
    sides = np.repeat([min(size) for size in found.sizes], list(found.sizes.values()))
    counts, _ = np.histogram(sides, bins=[*_SIDES, np.inf])
    bounds = zip(_SIDES, [*_SIDES[1:], None], strict=True)
    return [
        f"short side {low}{'+' if high is None else f'..{high - 1}'} pixels: {count}"
        for (low, high), count in zip(bounds, counts, strict=True)
        if count
    ]


if __name__ == "__main__":
    command_line.run(main, again="starts anew")
