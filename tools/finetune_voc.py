"""Fine-tunes a trained network in Faster R-CNN on PASCAL VOC 2007 (section 4.2, supplement B.4).

  python tools/finetune_voc.py --flagfile=configs/voc07_alexnet.flags --voc_dir=VOCdevkit/VOC2007 \
    --run_dir=RUN

The same command resumes what was stopped. --init=random is the other row of the comparison.
"""

import pathlib
import sys
from dataclasses import fields

import command_line
import config_flags
from absl import flags

from la_tf.config import DataConfig
from la_tf.runs.description import read_description

_MAX_SIDE = 4096  # pixels
_MAX_STEPS = 2**31 - 1
_NETWORKS = ("alexnet", "vgg16", "resnet18", "resnet50")
_FREEZE_TO = ("none", "conv1", "conv2", "conv3", "conv4", "conv5")
_SUFFIX = {"run": "", "random": "-random"}  # of the default output directory

flags.DEFINE_string("voc_dir", None, "The folder of one year of VOC.", required=True)
_RUN_DIR = flags.DEFINE_string("run_dir", None, "A run of tools/train.py, to start from.")
_INIT = flags.DEFINE_enum(
    "init", "run", ["run", "random"], "Start from the run's weights, or from fresh ones."
)
_NETWORK = flags.DEFINE_enum(
    "network",
    None,
    _NETWORKS,
    "For --init=random without --run_dir: the architecture, as for images of 224 pixels.",
)
_COMPARE_TO = flags.DEFINE_string(
    "compare_to",
    None,
    "The --output_dir of another, finished fine-tuning: also print the difference in mAP.",
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Gets everything; default RUN/voc07, or RUN/voc07-random."
)
_RECORDS_DIR = flags.DEFINE_string(
    "records_dir", None, "Gets the pictures as TFRecords; default OUTPUT_DIR/records."
)
flags.DEFINE_string("train_split", "trainval", "What to train on.")
flags.DEFINE_string("test_split", "test", "What to evaluate on.")
flags.DEFINE_bool(
    "skip_bad_images", False, "Leave out images with a problem, and list them, instead of stopping."
)
config_flags.define_option("max_megapixels", DataConfig.max_megapixels)
flags.DEFINE_integer(
    "short_side",
    600,
    "Pictures are scaled to this short side, in pixels.",
    lower_bound=16,
    upper_bound=_MAX_SIDE,
)
flags.DEFINE_integer(
    "long_side",
    1000,
    "What their long side may have at most.",
    lower_bound=16,
    upper_bound=_MAX_SIDE,
)
flags.DEFINE_integer(
    "anchor_size",
    128,
    "Side of the smallest square anchor in the scaled picture; the others are two and four times "
    "as large. Scale it with --short_side.",
    lower_bound=1,
    upper_bound=_MAX_SIDE,
)
config_flags.define_option("batch_size", 1, "Pictures a step, over all replicas.")
flags.DEFINE_integer("steps", 70_000, "Steps of training.", lower_bound=1, upper_bound=_MAX_STEPS)
flags.DEFINE_integer(
    "drop_step",
    50_000,
    "The learning rate falls tenfold after it.",
    lower_bound=1,
    upper_bound=_MAX_STEPS,
)
config_flags.define_option("learning_rate", 1e-3, "At the start.")
config_flags.define_option("momentum", 0.9, "Of SGD.")
config_flags.define_option("weight_decay", 1e-4, "Lambda; not on biases.")
flags.DEFINE_integer(
    "regions",
    128,
    "Drawn of each picture to train the head.",
    lower_bound=1,
    upper_bound=2000,  # as many are proposed
)
flags.DEFINE_enum(
    "freeze_to",
    None,
    _FREEZE_TO,
    "The last part of the network that is not fine-tuned; default the paper's: none of AlexNet, "
    "conv2 of VGG16, conv4 of the ResNets.",
)
config_flags.define_option("seed", 0, "Of fresh weights, of the pictures' order and of all draws.")
flags.DEFINE_integer(
    "checkpoint_every_steps",
    1000,
    "How often to save.",
    lower_bound=1,
    upper_bound=_MAX_STEPS,
)
flags.DEFINE_integer(
    "eval_every_steps",
    0,
    "How often to evaluate before the end; 0 is never.",
    lower_bound=0,
    upper_bound=_MAX_STEPS,
)
flags.DEFINE_enum("strategy", "mirrored", ["mirrored", "one_device"], "As in tools/train.py.")
config_flags.define_option("num_devices", None, "As in tools/train.py.")


def main() -> None:
    """Fine-tunes and prints the result."""
    command_line.parse(sys.argv, __doc__)
    if _RUN_DIR.value is None and (_INIT.value == "run" or _NETWORK.value is None):
        command_line.fail("name a run with --run_dir, or give --init=random and --network.")
    if _RUN_DIR.value is not None:
        _refuse_other_networks()
    # TensorFlow takes seconds to import: only once the flags are known to be right.
    from detection.backbones import BackboneError
    from detection.finetune import Places, finetune
    from detection.results import format_difference, format_result, read_other
    from detection.settings import Settings

    output_dir = _output_dir()
    records_dir = pathlib.Path(_RECORDS_DIR.value or output_dir / "records").expanduser()
    given = flags.FLAGS.flag_values_dict() | {
        "run_dir": _RUN_DIR.value or "",
        "output_dir": output_dir,
        "records_dir": records_dir,
    }
    # A flag has the name of the field that it sets.
    places, settings = (
        kind(**{field.name: given[field.name] for field in fields(kind)})
        for kind in (Places, Settings)
    )
    with command_line.failures_explained(BackboneError):
        other = _COMPARE_TO.value and read_other(pathlib.Path(_COMPARE_TO.value).expanduser())
        record = finetune(settings, places, compare_to=other)
        print("\n" + format_result(record))
        print(f"\nresults:    {output_dir}")
        print(f"SavedModel: {record['saved_model']}")
        if other:
            print("\n" + format_difference(record, other, _COMPARE_TO.value))


def _refuse_other_networks() -> None:
    """Says at once that a run's network cannot be a detector's backbone."""
    config, _ = read_description(pathlib.Path(_RUN_DIR.value).expanduser())
    if (network := config.network.network) not in _NETWORKS:
        command_line.fail(
            f"{network} cannot be a detector's backbone: train one of {', '.join(_NETWORKS)}."
        )


def _output_dir() -> pathlib.Path:
    if _OUTPUT_DIR.value is not None:
        path = pathlib.Path(_OUTPUT_DIR.value)
    elif _RUN_DIR.value is not None:
        path = pathlib.Path(_RUN_DIR.value) / f"voc07{_SUFFIX[_INIT.value]}"
    else:
        path = pathlib.Path("runs") / f"voc07{_SUFFIX[_INIT.value]}-{_NETWORK.value}"
    return path.expanduser()


if __name__ == "__main__":
    command_line.run(main)
