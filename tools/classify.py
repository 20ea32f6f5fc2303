"""Trains a classifier on a trained network, and tells the classes of pictures.

  python tools/classify.py --run_dir=RUN --data=FOLDER_WITH_CLASSES --holdout=100
  python tools/classify.py --run_dir=RUN --predict=FOLDER

The first command trains on labelled pictures, prints how many of the held-out ones it gets right,
and keeps the classifier in RUN/classifier. The second one writes a table of file, class and score.
Both can be one command. The run stays as it is; a classifier is replaced once the new one is whole.
"""

import dataclasses
import pathlib
import sys

import command_line
import config_flags
from absl import flags

from la_tf.config import DataConfig

_RUN_DIR = flags.DEFINE_string("run_dir", None, "A run directory; its newest checkpoint is used.")
_EXPORT_DIR = flags.DEFINE_string(
    "export_dir", None, "Instead: a run's folder export, of which weights.npz is used."
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "The folder of the classifier; default RUN/classifier."
)
_DATA = flags.DEFINE_string(
    "data",
    None,
    "Labelled pictures to train on, as tools/train.py takes them: a folder for each class.",
)
_VAL_DATA = flags.DEFINE_string(
    "val_data", None, "Held-out pictures; default what --data keeps apart in val or test."
)
_HOLDOUT = config_flags.define_option("holdout", 0, "As in tools/train.py.")
_LABELS_CSV = flags.DEFINE_string(
    "labels_csv",
    None,
    "For pictures with any number of classes: a CSV file with the columns file, relative to "
    "--data, and classes, separated by ';'.",
)
_LAYER = flags.DEFINE_enum(
    "layer",
    None,
    [f"conv{i}" for i in range(1, 6)],
    "The layer that is read out; default the one that does best on training pictures left out in "
    "turn, or conv5 with --fine_tune.",
)
_FINE_TUNE = flags.DEFINE_bool(
    "fine_tune", False, "Train the network too, and not only a readout of one layer."
)
_EPOCHS = config_flags.define_option("epochs", 20, "--fine_tune: passes over the pictures.")
_LEARNING_RATE = config_flags.define_option(
    "learning_rate", 0.01, "--fine_tune: initial learning rate; it falls to 0."
)
_BATCH_SIZE = config_flags.define_option("batch_size", 32, "--fine_tune: pictures a step.")
_PREDICT = flags.DEFINE_string(
    "predict", None, "A folder of pictures, with all below it, to tell the classes of."
)
_OUTPUT = flags.DEFINE_string("output", "predictions.csv", "--predict: the table to write.")
_SKIP_BAD_IMAGES = flags.DEFINE_bool(
    "skip_bad_images",
    None,
    "--data: leave out files that cannot be decoded instead of stopping; default as the run did. "
    "--predict leaves them out anyway.",
)
_MAX_MEGAPIXELS = config_flags.define_option(
    "max_megapixels", None, "Millions of pixels in a picture; default as in tools/train.py."
)


def main() -> None:
    """Trains, predicts, or both."""
    _parse(sys.argv)
    directory = pathlib.Path(_OUTPUT_DIR.value or f"{_RUN_DIR.value}/classifier").expanduser()
    if _DATA.value is not None:
        _train(directory)
    if _PREDICT.value is not None:
        _predict(directory)


def _parse(argv: list[str]) -> None:
    command_line.parse(argv, __doc__)
    if _DATA.value is None and _PREDICT.value is None:
        command_line.fail("give --data, labelled pictures to train on, or --predict, or both.")
    if _DATA.value is not None and (_RUN_DIR.value is None) == (_EXPORT_DIR.value is None):
        command_line.fail("--data needs one of --run_dir and --export_dir, the trained network.")
    if _OUTPUT_DIR.value is None and _RUN_DIR.value is None:
        command_line.fail("without --run_dir, give --output_dir, the folder of the classifier.")
    if _DATA.value is None:
        for flag in (_VAL_DATA, _HOLDOUT, _LABELS_CSV, _LAYER, _FINE_TUNE):
            if flag.value:
                command_line.fail(f"--{flag.name} is of training: give --data too.")


def _train(directory: pathlib.Path) -> None:
    # TensorFlow takes seconds to import: only once the flags are known to be right.
    from la_tf.classifier.fine_tuning import FineTuning
    from la_tf.classifier.task import open_task
    from la_tf.classifier.training import start_from_export, start_from_run, train_classifier
    from la_tf.runs.trained_run import open_run

    if _RUN_DIR.value is not None:
        start = start_from_run(open_run(_RUN_DIR.value))
    else:
        start = start_from_export(pathlib.Path(_EXPORT_DIR.value).expanduser())
    chosen = {flag.name: flag.value for flag in (_DATA, _VAL_DATA, _HOLDOUT)}
    for flag in (_SKIP_BAD_IMAGES, _MAX_MEGAPIXELS):
        if flag.value is not None:
            chosen[flag.name] = flag.value
    data = dataclasses.replace(start.data, **chosen)
    task = open_task(data, start.seed, _LABELS_CSV.value)
    fine_tuning = None
    if _FINE_TUNE.value:
        rates = _EPOCHS.value, _LEARNING_RATE.value, _BATCH_SIZE.value
        fine_tuning = FineTuning(*rates, start.flip)
    record = train_classifier(start, task, directory, _LAYER.value, fine_tuning)
    _tell(record["results"])
    print(f"kept in {directory}; python tools/serve.py --export_dir={directory}/export serves it.")


def _tell(results: dict) -> None:
    measure, layer = results["measure"], results["layer"]
    of = f"{layer}, C = {results['cost']:g}, {results['training_images']} training pictures"
    if "held_out" not in results:
        print(f"{of}; nothing is held out to try it on: see --holdout.")
        return
    beside = ""
    if "always_the_largest_class" in results:
        beside = f" (always the largest class: {results['always_the_largest_class']:.1%})"
    print(f"{of}.")
    print(
        f"held-out {measure}: {results['held_out']:.1%} of {results['held_out_images']} pictures"
        f"{beside}."
    )


def _predict(directory: pathlib.Path) -> None:
    from la_tf.classifier.prediction import predict_folder

    limit = _MAX_MEGAPIXELS.value or DataConfig.max_megapixels
    table = pathlib.Path(_OUTPUT.value).expanduser()
    count = predict_folder(directory, _PREDICT.value, table, limit)
    print(f"{table} written: {count} pictures.")


if __name__ == "__main__":
    command_line.run(main)
