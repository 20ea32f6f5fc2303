"""Evaluates a run by the paper's protocols (section 4.2), and by SVMs on PASCAL VOC2007.

  python tools/evaluate.py --run_dir=RUN --protocol=knn,linear --baselines
  python tools/evaluate.py --run_dir=RUN --protocol=voc07 --voc_dir=VOCdevkit/VOC2007 --baselines

The table stands beside the paper's numbers; RUN/evaluation/ keeps each result as JSON. Readouts
that were stopped go on when the same command is given again.
"""

import pathlib
import sys

import command_line
import config_flags
from absl import flags

_RUN_DIR = flags.DEFINE_string("run_dir", None, "A run of tools/train.py.", required=True)
_PROTOCOL = flags.DEFINE_list(
    "protocol",
    ["knn"],
    "knn, linear, or both: knn,linear. Or voc07: linear SVMs on frozen layers, for images that may "
    "have several classes; mean average precision, also after training on few images.",
)
_BASELINES = flags.DEFINE_bool(
    "baselines", False, "Also evaluate the untrained network and raw pixels."
)
_DATA = flags.DEFINE_string(
    "data", None, "Images as tools/train.py takes them; default those of the run."
)
_VAL_DATA = flags.DEFINE_string(
    "val_data", None, "Other held-out images; default those of the run, or what --data keeps apart."
)
_HOLDOUT = config_flags.define_option("holdout", 0, "With --data: as in tools/train.py.")
_VOC_DIR = flags.DEFINE_string(
    "voc_dir", None, "voc07: the folder of one year of VOC, such as VOCdevkit/VOC2007."
)
_TRAIN_SPLIT = flags.DEFINE_string("train_split", "trainval", "With --voc_dir: to train on.")
_TEST_SPLIT = flags.DEFINE_string("test_split", "test", "With --voc_dir: to test on.")
_LABELS_CSV = flags.DEFINE_string(
    "labels_csv",
    None,
    "voc07 on other images, those of --data: a CSV file with the columns file, relative to --data, "
    "and classes, separated by ';'.",
)
_DRAWS = flags.DEFINE_integer(
    "draws",
    5,
    "voc07: how often few images (1, 2, 4, ... 96 a class) are drawn to train on; 0 is never.",
    lower_bound=0,
    upper_bound=1000,
)
_NAME = flags.DEFINE_string("name", None, "Name of the data in tables; default its folder's.")
_NUM_DEVICES = config_flags.define_option("num_devices", None, "As in tools/train.py.")

_GALLERY = flags.DEFINE_enum(
    "gallery",
    "auto",
    ["auto", "bank", "crops"],
    "kNN: search the memory bank (as for ImageNet), or centre crops of the training images (as for "
    "Places); auto takes the bank where it holds these images.",
)
_EPOCHS = config_flags.define_option("epochs", 90, "Readouts: passes over the images.")
_DROP_EPOCHS = config_flags.define_option(
    "drop_epochs",
    None,
    "Readouts: epochs before which the learning rate falls tenfold; default after one and two "
    "thirds.",
)
_LEARNING_RATE = config_flags.define_option(
    "learning_rate", 0.01, "Readouts: initial learning rate."
)
_WEIGHT_DECAY = config_flags.define_option("weight_decay", 1e-4, "Readouts: lambda.")
_BATCH_SIZE = config_flags.define_option("batch_size", 128, "Readouts: images a step.")
_CROP = flags.DEFINE_enum(
    "crop",
    "auto",
    ["auto", "margin", "area"],
    "Readouts: SxS patches of the image scaled to a short side of S*256/224, or patches of 20 to "
    "100 % of its area; auto is the paper's choice for network and data (supplement B.1).",
)
_CACHE_FEATURES = flags.DEFINE_bool(
    "cache_features",
    False,
    "Readouts: train on the centre crops alone, whose features are computed once and kept in "
    "memory. Faster, and not the paper's protocol.",
)


def main() -> None:
    """Runs the protocols and prints the table."""
    command_line.parse(sys.argv, __doc__)
    drop_epochs = _checked_flags()
    _evaluate(drop_epochs)


def _checked_flags() -> tuple[int, ...]:
    """Refuses flags that exclude each other; returns the epochs of the drops."""
    if not _PROTOCOL.value or set(_PROTOCOL.value) - {"knn", "linear", "voc07"}:
        given = ",".join(_PROTOCOL.value)
        command_line.fail(f"--protocol={given} must be knn, linear, knn,linear, or voc07.")
    if "voc07" in _PROTOCOL.value:
        _check_voc07()
    elif _VOC_DIR.value is not None or _LABELS_CSV.value is not None:
        command_line.fail("--voc_dir and --labels_csv are of --protocol=voc07 alone.")
    if _HOLDOUT.value and _DATA.value is None:
        command_line.fail("--holdout needs --data: the run's own images were trained on.")
    drops = list(_DROP_EPOCHS.value or ())
    if drops != sorted(set(drops)):
        command_line.fail("--drop_epochs must rise, from 1 on, as in 30,60.")
    if _DROP_EPOCHS.value is None:
        drops = sorted({_EPOCHS.value * part // 3 for part in (1, 2)} - {0})
    return tuple(drops)


def _check_voc07() -> None:
    if set(_PROTOCOL.value) != {"voc07"}:
        command_line.fail("voc07 has images of its own: give it a command of its own.")
    if (_VOC_DIR.value is None) == (_LABELS_CSV.value is None):
        command_line.fail("--protocol=voc07 takes either --voc_dir, or --labels_csv and --data.")
    if _LABELS_CSV.value is not None and _DATA.value is None:
        command_line.fail("--labels_csv needs --data: the folder that holds its files.")
    if _VOC_DIR.value is not None and _DATA.value is not None:
        command_line.fail("--voc_dir has images of its own: leave out --data.")
    if _VAL_DATA.value is not None:
        command_line.fail(
            "--val_data is of knn and linear alone: voc07 tests on what VOC or --data keeps apart."
        )


def _evaluate(drop_epochs: tuple[int, ...]) -> None:
    # TensorFlow takes seconds to import: only once the flags are known to be right.
    from la_tf.config import OptimizerConfig, RunConfig
    from la_tf.evaluation import protocols
    from la_tf.evaluation.linear import ReadoutConfig
    from la_tf.evaluation.voc07 import csv_task, voc07, voc_task
    from la_tf.results.evaluations import read_evaluations
    from la_tf.results.tables import result_tables
    from la_tf.runs import runtime
    from la_tf.runs.trained_run import open_images, open_run

    with runtime.make_strategy(RunConfig(num_devices=_NUM_DEVICES.value)).scope():
        run = open_run(_RUN_DIR.value)
        data = _VOC_DIR.value or _DATA.value or _VAL_DATA.value or run.config.data.data
        name = _NAME.value or _name_of(data)
        if _VOC_DIR.value is not None:
            task = voc_task(run, _VOC_DIR.value, _TRAIN_SPLIT.value, _TEST_SPLIT.value, name)
        elif _LABELS_CSV.value is not None:
            task = csv_task(run, _LABELS_CSV.value, _DATA.value, _HOLDOUT.value, name)
        else:
            images = open_images(run, _DATA.value, _VAL_DATA.value, _HOLDOUT.value)
            task = protocols.Task(run, *images, name)
        # The trained network first: a baseline may not fit in memory.
        rows = ("trained", "untrained", "raw pixels") if _BASELINES.value else ("trained",)
        if "knn" in _PROTOCOL.value:
            for row in rows:
                protocols.knn(task, row, _GALLERY.value if row == "trained" else "auto")
        if "voc07" in _PROTOCOL.value:
            for row in rows:
                voc07(task, row, _DRAWS.value)
        if "linear" in _PROTOCOL.value:
            crop = protocols.default_crop(task) if _CROP.value == "auto" else _CROP.value
            config = ReadoutConfig(
                OptimizerConfig(
                    learning_rate=_LEARNING_RATE.value,
                    weight_decay=_WEIGHT_DECAY.value,
                    drop_epochs=drop_epochs,
                ),
                epochs=_EPOCHS.value,
                batch_size=_BATCH_SIZE.value,
                crop="center" if _CACHE_FEATURES.value else crop,
                flip=run.config.augment.flip,
                seed=run.config.schedule.seed,
            )
            for row in rows:
                protocols.linear(task, row, config)
    print(
        f"kept in {run.path}/evaluation; python tools/analyze.py --run_dir={run.path} puts it into "
        "the report."
    )
    for table in result_tables([e for e in read_evaluations(run.path) if e.data == name]):
        print(f"\n{table}")


def _name_of(data: str) -> str:
    return pathlib.Path(data.replace(":", "-")).expanduser().resolve().name


if __name__ == "__main__":
    command_line.run(main)
