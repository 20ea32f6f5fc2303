"""Evaluates a run by the paper's protocols (section 4.2).

  python tools/evaluate.py --run_dir=RUN --protocol=knn,linear --baselines

The table stands beside the paper's numbers; RUN/evaluation/ keeps each result as JSON. Readouts
that were stopped go on when the same command is given again.
"""

import pathlib
import sys

import command_line
import config_flags
from absl import flags

_RUN_DIR = flags.DEFINE_string("run_dir", None, "A run of tools/train.py.", required=True)
_PROTOCOL = flags.DEFINE_list("protocol", ["knn"], "knn, linear, or both: knn,linear.")
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
    if not _PROTOCOL.value or set(_PROTOCOL.value) - {"knn", "linear"}:
        given = ",".join(_PROTOCOL.value)
        command_line.fail(f"--protocol={given} must be knn, linear, or knn,linear.")
    if _HOLDOUT.value and _DATA.value is None:
        command_line.fail("--holdout needs --data: the run's own images were trained on.")
    drops = list(_DROP_EPOCHS.value or ())
    if drops != sorted(set(drops)):
        command_line.fail("--drop_epochs must rise, from 1 on, as in 30,60.")
    if _DROP_EPOCHS.value is None:
        drops = sorted({_EPOCHS.value * part // 3 for part in (1, 2)} - {0})
    return tuple(drops)


def _evaluate(drop_epochs: tuple[int, ...]) -> None:
    # TensorFlow takes seconds to import: only once the flags are known to be right.
    from la_tf.config import OptimizerConfig, RunConfig
    from la_tf.evaluation import protocols
    from la_tf.evaluation.linear import ReadoutConfig
    from la_tf.results.evaluations import read_evaluations
    from la_tf.results.tables import result_table
    from la_tf.runs import runtime
    from la_tf.runs.trained_run import open_images, open_run

    with runtime.make_strategy(RunConfig(num_devices=_NUM_DEVICES.value)).scope():
        run = open_run(_RUN_DIR.value)
        train_set, heldout = open_images(run, _DATA.value, _VAL_DATA.value, _HOLDOUT.value)
        name = _NAME.value or _name_of(_DATA.value or _VAL_DATA.value or run.config.data.data)
        task = protocols.Task(run, train_set, heldout, name)
        # The trained network first: a baseline may not fit in memory.
        rows = ("trained", "untrained", "raw pixels") if _BASELINES.value else ("trained",)
        if "knn" in _PROTOCOL.value:
            for row in rows:
                protocols.knn(task, row, _GALLERY.value if row == "trained" else "auto")
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
    print(f"\n{result_table(read_evaluations(run.path), name)}")


def _name_of(data: str) -> str:
    return pathlib.Path(data.replace(":", "-")).expanduser().resolve().name


if __name__ == "__main__":
    command_line.run(main)
