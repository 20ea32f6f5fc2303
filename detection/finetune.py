"""Fine-tuning on VOC from start to result: data, training, evaluation, export, record."""

import contextlib
import dataclasses
import io
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from official.core import train_lib
from PIL import Image

from detection import output_directory
from detection.backbones import frozen_layers
from detection.drawing import draw_boxes
from detection.export import detect_above, export_detector, load_detector
from detection.records import INDEX, Index, Records, VOCRecords, annotated, convert
from detection.results import Result, require_same_pictures
from detection.settings import Settings, make_experiment, open_start, require_valid
from detection.task import VOCDetectionTask
from la_tf.config import DataConfig, NumericsConfig, RunConfig
from la_tf.data.voc import require_disjoint
from la_tf.errors import RunError, first_line
from la_tf.files import write_json
from la_tf.runs import runtime
from la_tf.runs.directory import read_file, require_space
from la_tf.runs.health import TrainingDiverged

_NUM_PICTURES = 8
_MIN_SCORE = 0.5  # of the boxes drawn into them
_GAP = 8  # pixels between what was found and what is annotated
# Of each way to start: raise it when a step computes something else from the same settings. What
# was begun before is then not resumed.
_METHOD = {"run": 2, "random": 3}


@dataclasses.dataclass(frozen=True)
class Places:
    """Folders, the weights to start from, and how the work is done.

    Attributes:
      voc_dir: the folder of one year of VOC.
      output_dir: gets everything.
      records_dir: gets the TFRecords.
      init: 'run' or 'random' weights.
      run_dir: the trained run; may be empty for random weights of `network`.
      network: name of the architecture, where there is no run.
      skip_bad_images: leave out images with a problem instead of stopping.
      max_megapixels: of an image, in millions of pixels.
      checkpoint_every_steps: how often to save.
      eval_every_steps: how often to evaluate while training; 0 is only at the end.
      strategy: 'mirrored' or 'one_device'.
      num_devices: as in `la_tf.config.RunConfig`.
    """

    voc_dir: str
    output_dir: pathlib.Path
    records_dir: pathlib.Path
    init: str = "run"
    run_dir: str = ""
    network: str | None = None
    skip_bad_images: bool = False
    max_megapixels: float = DataConfig.max_megapixels
    checkpoint_every_steps: int = 1000
    eval_every_steps: int = 0
    strategy: str = "mirrored"
    num_devices: int | None = None


def finetune(
    settings: Settings,
    places: Places,
    say: Callable[[str], None] = print,
    compare_to: Result | None = None,
) -> dict[str, Any]:
    """Fine-tunes a detector, or goes on with it, or returns the result of one that is finished.

    What a step trains on and draws follows from the seed and the step, so that a run that was
    killed and resumed has the weights and the result of one that was not, on one device to the bit.

    Args:
      settings: what the result depends on.
      places: where everything is, and how the work is done.
      say: takes a sentence for people.
      compare_to: from `read_other`; refused before any training where its test pictures are others.

    Returns:
      What voc_results.json holds: mAP, mAP_area and AP/<class> in 0..1 under 'result', None
      for a class without an object to find; mAP of drawn test pictures under 'resampled'; besides,
      start, settings, data, time and environment.

    Raises:
      BackboneError: the network cannot be a backbone, or a tensor is not accounted for.
      ConfigError: more devices than there are.
      ExportError: the SavedModel cannot be written.
      RunError: the output directory holds something else, is in use or full, or its newest
        checkpoint is damaged; the run is gone; a shard of the records is cut short; `compare_to`
        has other test pictures.
      TrainingDiverged: the loss is not finite.
      VOCError: the data cannot be used.
    """
    runtime.configure(NumericsConfig(), settings.seed)
    strategy = runtime.make_strategy(
        RunConfig(strategy=places.strategy, num_devices=places.num_devices)
    )
    require_valid(settings, strategy.num_replicas_in_sync)
    start = open_start(places.init, places.run_dir, places.network)
    frozen_layers(start.network, settings.freeze_to)  # refuses what cannot be frozen
    tf.keras.utils.set_random_seed(settings.seed)  # opening a run has set the run's
    description = {"start": dataclasses.asdict(start), "settings": dataclasses.asdict(settings)}
    path = places.output_dir
    require_disjoint(places.voc_dir, settings.train_split, settings.test_split)
    with output_directory.locked(path):
        finished = (path / output_directory.RESULTS).exists()
        if not finished:
            description["code"] = {"the version of the detector": _METHOD[start.init]}
        # Checked before the records are written, and again with what they hold.
        output_directory.claim(path, description)
        records = {
            split: convert(
                places.voc_dir,
                split,
                places.records_dir,
                places.skip_bad_images,
                say,
                places.max_megapixels,
            )
            for split in (settings.train_split, settings.test_split)
        }
        description["data"] = {split: _identity(found) for split, found in records.items()}
        output_directory.claim(path, description)
        description["images"] = {split: found.num_images for split, found in records.items()}
        if compare_to:
            require_same_pictures(description, compare_to)
        if finished:
            say(f"{path} is finished.")
            return read_file(path / output_directory.RESULTS, Result, output_directory.OPTION)
        started = time.time()
        config = make_experiment(
            start,
            settings,
            records[settings.train_split].pattern,
            records[settings.test_split].pattern,
            places.run_dir,
            places.checkpoint_every_steps,
        )
        with _explained(path):
            task, model, result = _train(config, settings, places, strategy, say)
            task.coco_metric.write_detections(path / "detections", settings.test_split)
            pictures = _pictures(records[settings.test_split].pattern)
            probe = _encoded(next(iter(pictures.values())))
            saved_model = export_detector(model, config.task, path / "export", probe)
            _draw(saved_model, pictures, path / "pictures")
        drawn = task.coco_metric.resampled() if result["mAP"] is not None else []
        record = description | {
            "result": result,
            "resampled": [None if math.isnan(value) else value for value in drawn],
            "left out": [problem for found in records.values() for problem in found.problems],
            "seconds of the last start": round(time.time() - started, 1),
            "environment": runtime.environment(),
            "saved_model": str(saved_model),
        }
        write_json(path / output_directory.RESULTS, record)
        return record


@contextlib.contextmanager
def _explained(path: pathlib.Path):
    """Turns errors of a full disk or a small device into a sentence."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise RunError(
            "the device is out of memory: use smaller pictures, with --short_side and --long_side, "
            "or fewer regions, with --regions, in another --output_dir."
        ) from error
    except (OSError, tf.errors.OpError) as error:
        raise RunError(
            f"{path} cannot be written or read: {first_line(error)}. Earlier checkpoints "
            "are untouched: fix that and start the same command again."
        ) from error


def _identity(records: VOCRecords) -> str:
    index = pathlib.Path(records.pattern).parent / INDEX
    return read_file(index, Index, output_directory.OPTION)["identity"]


def _train(config, settings, places, strategy, say):
    """Trains to the last step and evaluates: (task, model, result)."""
    model_dir = str(places.output_dir / output_directory.CHECKPOINTS)
    step = output_directory.newest_checkpoint(places.output_dir)
    if step is not None:
        config.task.train_data.first_step = step
        say(f"going on after step {step}.")
    task = VOCDetectionTask(config.task, logging_dir=model_dir)
    losses = {}
    runner = train_lib.OrbitExperimentRunner(
        *(strategy, task),
        mode="train_and_eval",
        params=config,
        model_dir=model_dir,
        train_actions=[losses.update],
    )
    parameters = sum(int(tf.size(v)) for v in runner.trainer.model.trainable_variables)
    every = places.eval_every_steps or settings.steps
    with strategy.scope():
        if step is None:
            # Weights and momentum of three checkpoints, one of them being written.
            require_space(
                places.output_dir, 3 * 8 * parameters, "make room, or name another --output_dir"
            )
            # Once before the training, so that what cannot work does not fail at its end.
            runner.trainer.evaluate(tf.constant(1))
            runner.controller.save_checkpoint()
        result = {}
        try:
            while (step := runner.trainer.global_step.numpy()) < settings.steps:
                _train_until(runner, min(step - step % every + every, settings.steps), losses, say)
                result = _evaluate(runner, say)
        except RuntimeError as error:
            if "loss value" not in str(error):
                raise
            raise TrainingDiverged(
                f"the loss is not finite near step {runner.trainer.global_step.numpy()}: lower "
                "--learning_rate."
            ) from error
        if not result:
            result = _evaluate(runner, say)
    found = {name: float(v) for name, v in result.items() if name.startswith(("mAP", "AP/"))}
    # JSON has no nan, which is what a class without an object gets.
    found = {name: None if math.isnan(value) else value for name, value in found.items()}
    return task, runner.trainer.model, found


def _train_until(runner, step: int, losses: dict[str, Any], say: Callable[[str], None]) -> None:
    """Trains, with a line for people in place of each dictionary that Orbit prints."""
    controller = runner.controller
    while (before := controller.global_step.numpy()) < step:
        until, started = min(before + controller.steps_per_loop, step), time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            controller.train(until, checkpoint_at_completion=until == step)
        speed = (until - before) / (time.perf_counter() - started)
        say(
            f"train | step: {until:6d} | loss {float(losses['total_loss']):.3f} | learning rate "
            f"{float(losses['learning_rate']):.2g} | {speed:.2f} steps/s"
        )


def _evaluate(runner, say: Callable[[str], None]) -> dict[str, Any]:
    """Evaluates, with a line for people in place of the dictionary that Orbit prints."""
    step = runner.trainer.global_step.numpy()
    with contextlib.redirect_stdout(io.StringIO()):
        result = runner.controller.evaluate()
    say(f" eval | step: {step:6d} | mAP {100 * float(result['mAP']):.1f} % by 11 points")
    return result


def _pictures(pattern: str) -> dict[str, tf.train.Example]:
    """The first pictures of some records by their names, with what is annotated in them."""
    records = Records(pattern)
    examples = {}
    for i in range(min(_NUM_PICTURES, len(records))):
        example = tf.train.Example.FromString(records.read(i))
        (name,) = example.features.feature["image/filename"].bytes_list.value
        examples[pathlib.Path(name.decode()).stem] = example
    return examples


def _encoded(example: tf.train.Example) -> bytes:
    return example.features.feature["image/encoded"].bytes_list.value[0]


def _draw(
    saved_model: pathlib.Path, examples: dict[str, tf.train.Example], folder: pathlib.Path
) -> None:
    """Draws what was found, and to the right of it what is annotated."""
    detect = load_detector(saved_model)
    folder.mkdir(exist_ok=True)
    for name, example in examples.items():
        objects = detect_above(detect, _encoded(example), _MIN_SCORE)
        with Image.open(io.BytesIO(_encoded(example))) as picture:
            found, truth = draw_boxes(picture, *objects), draw_boxes(picture, *annotated(example))
        both = Image.new("RGB", (2 * found.width + _GAP, found.height), "white")
        both.paste(found)
        both.paste(truth, (found.width + _GAP, 0))
        both.save(folder / f"{name}.png")
