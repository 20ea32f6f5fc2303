"""One run, from its configuration to the exported network."""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from la_tf.beginning import Beginning, find_beginning
from la_tf.building import build_model
from la_tf.callbacks.assembly import RunCallbacks
from la_tf.callbacks.own_callbacks import load_factories
from la_tf.config import Config, ConfigError
from la_tf.data.base import Source
from la_tf.data.checks import keep_good_images, refuse_bad_images
from la_tf.data.identity import identify
from la_tf.data.pipeline import Steps, step_indices, steps_per_epoch, train_dataset
from la_tf.data.sources import open_train_and_val
from la_tf.errors import RunError, first_line
from la_tf.evaluation.knn import clipped
from la_tf.export.run import export_run
from la_tf.resolve import check_bounds, resolve
from la_tf.results.tables import Row, milestone_rows
from la_tf.runs import processor, runtime
from la_tf.runs.checkpoints import present_checkpoints
from la_tf.runs.directory import RunDirectory, default_run_dir, require_space
from la_tf.runs.health import expected_values
from la_tf.runs.log import read_log
from la_tf.runs.trained_run import TrainedRun


@dataclasses.dataclass(frozen=True)
class Result:
    """What a finished run leaves.

    Attributes:
      run_dir: the run directory.
      saved_model: folder of the exported SavedModel.
      rows: the table: (name, accuracy at K = 200, at K = 1), empty without labels.
      gallery: what the held-out images were compared with, in words.
    """

    run_dir: pathlib.Path
    saved_model: pathlib.Path
    rows: list[Row]
    gallery: str


def train(config: Config, say: Callable[[str], None] = print) -> Result:
    """Trains, or goes on training, what `config` describes.

    Args:
      config: the recipe; open numbers are resolved from the data.
      say: takes sentences for a person.

    Returns:
      Where everything is, and the table of held-out kNN.

    Raises:
      ConfigError, DataError, RunError: nothing was trained; one sentence says what to change.
      TrainingDiverged: the loss stopped being a number.
      Interrupted: a signal stopped the run after it was saved.
    """
    check_bounds(config)
    load_factories(config.run.callbacks)  # what is missing there is told before the images are read
    runtime.configure(config.numerics, config.schedule.seed)
    strategy = runtime.make_strategy(config.run)
    runtime.start_xla()
    train_set, heldout = open_train_and_val(config.data, config.schedule.seed)
    train_set = keep_good_images(train_set, config.data, say)
    if heldout is not None:
        heldout = keep_good_images(heldout, config.data, say)
    config = resolve(config, train_set.num_examples)
    if config.method.method == "supervised" and train_set.labels is None:
        raise ConfigError(
            f"--method=supervised needs labels, and {train_set.name} has none: put the images of "
            "each class into a folder of its own."
        )
    runtime.require_replicas(config, strategy.num_replicas_in_sync, train_set.num_examples)
    data = {
        "training set": identify(train_set),
        "held-out set": None if heldout is None else identify(heldout),
    }
    path = config.run.run_dir or default_run_dir(config)
    if not runtime.is_chief(strategy):
        path = f"{path}-worker{strategy.cluster_resolver.task_id}"
    # A run that is resumed has begun: what it began with may be gone.
    begun = present_checkpoints(pathlib.Path(path) / "checkpoints")
    beginning = None if begun else find_beginning(config, data)
    environment = runtime.environment()
    environment["replicas"] = strategy.num_replicas_in_sync
    origin = beginning and beginning.origin
    directory = RunDirectory(path, config, data, environment, origin)
    try:
        if directory.mended:
            say(directory.mended)
        run = _Run(config, strategy, train_set, heldout, data, directory, beginning, say)
        return run.train()
    finally:
        directory.release()


@dataclasses.dataclass
class _Run:
    """The parts of one run, put together."""

    config: Config
    strategy: tf.distribute.Strategy
    train_set: Source
    heldout: Source | None
    data: dict[str, Any]
    directory: RunDirectory
    beginning: Beginning | None
    say: Callable[[str], None]

    def __post_init__(self):
        config, count = self.config, self.train_set.num_examples
        self.path = self.directory.path
        self.steps_per_epoch = steps_per_epoch(count, config.data.batch_size)
        self.total_steps = self.steps_per_epoch * config.schedule.epochs
        with self.strategy.scope():
            self.model = build_model(config, count, self.steps_per_epoch, self.train_set.labels)
        chief_path = pathlib.Path(config.run.run_dir or default_run_dir(config))
        self.callbacks = RunCallbacks(
            config,
            self.model,
            self.train_set,
            self.heldout,
            path=self.path,
            restore_from=chief_path / "checkpoints",
        )
        self.checkpointing = self.callbacks.checkpointing

    def train(self) -> Result:
        """Checks, trains what is left to train, exports, and collects the table."""
        step = self.checkpointing.restore()
        if step is None:
            self.callbacks.log.truncate(0)  # a start may have ended before its first checkpoint
            require_space(
                self.path, self.checkpointing.num_bytes() * (self.config.run.keep_checkpoints + 1)
            )
            self.callbacks.show_images()
            self._announce()
            step = self._begin()
        else:
            self.say(f"resuming {self.path} after step {step} of {self.total_steps}.")
            self._warn_of_another_machine(step)
        try:
            with self.checkpointing.listening():
                self._fit(step)
                self.checkpointing.finish()
        except tf.errors.ResourceExhaustedError as error:
            raise RunError(
                "the device is out of memory: use more devices with --num_devices, or start anew "
                "with a lower --batch_size or --k."
            ) from error
        except tf.errors.OpError as error:
            self._refuse_bad_images()
            if runtime.num_workers(self.strategy) == 1:
                raise
            raise RunError(
                f"this worker cannot go on ({first_line(error)}): where another has ended, start "
                "the same command on all workers again, and the run goes on from its newest "
                "checkpoint."
            ) from error
        finally:
            self.callbacks.close()
        return self._finish()

    def _announce(self) -> None:
        config, count = self.config, self.train_set.num_examples
        self.say(
            f"{count} training images, {self.steps_per_epoch} steps of {config.data.batch_size} an "
            f"epoch; {config.network.network} with {self.model.network.count_params():,} weights "
            f"on {runtime.describe_devices(self.strategy)}; {self._numbers()}."
        )
        if runtime.has_unused_gpu():
            self.say(
                "this machine has a GPU that TensorFlow does not see: install "
                "requirements-gpu.txt to use it."
            )
        elif not config.numerics.mixed_precision and processor.multiplies_bfloat16(
            self.directory.environments[-1]
        ):
            self.say(
                "this processor multiplies bfloat16: --mixed_precision trains about 1.5 times as "
                "fast, as well as float32 where it was compared."
            )
        if not self.callbacks.evaluates:
            self.say("no labelled held-out images: training goes without kNN evaluation.")
        elif note := clipped(count):
            self.say(note)
        for line in expected_values(config, count):
            self.say(line)

    def _numbers(self) -> str:
        """The numbers that the method has beside those of the network."""
        config = self.config
        if config.method.method == "supervised":
            return f"supervised, {len(self.train_set.class_names)} classes"
        if config.method.method == "deepcluster":
            return f"DeepCluster, m = {config.clustering.num_clusters}"
        return (
            f"k = {config.objective.k}, m = {config.clustering.num_clusters}, "
            f"H = {config.clustering.num_clusterings}"
        )

    def _warn_of_another_machine(self, step: int) -> None:
        """Warns if the processor or its libraries changed, which may change the last digits."""
        *_, before, now = [{}, *self.directory.environments]
        if step < self.total_steps and (found := processor.differences(before, now)):
            self.say(
                f"another machine than at the last start ({'; '.join(found)}): from here on, bits "
                "may differ from those of a run that was never moved."
            )

    def _begin(self) -> int:
        """Evaluates, exports and saves once, so that what cannot work fails before the training.

        Returns:
          The steps that are done: those that another run has done, else none.
        """
        step, beginning = 0, self.beginning
        if beginning is not None and beginning.checkpoint is not None:
            whole = self.config.run.extend is not None
            step = self.callbacks.take_over(beginning.checkpoint, whole)
            self.say(f"the first {step} steps are those of {beginning.origin['path']}.")
        else:
            if beginning is not None:
                self.model.network.set_weights(beginning.weights)
                self.say(f"the network begins with the weights of {beginning.origin['path']}.")
            self.callbacks.before_training()
        trial = self.path / "export.trial"
        shutil.rmtree(trial, ignore_errors=True)  # of a start that was killed, perhaps half gone
        self._export(trial)
        shutil.rmtree(trial)
        self.checkpointing.save()
        return step

    def _fit(self, step: int) -> None:
        """Trains from `step` to the end: the rest of an epoch first, then whole ones."""
        epochs, spe = self.config.schedule.epochs, self.steps_per_epoch
        epoch, done = divmod(step, spe)
        if done:
            self._fit_epochs(step, epoch, epoch + 1, steps=spe - done)
            epoch += 1
        if epoch < epochs:
            self._fit_epochs(epoch * spe, epoch, epochs, steps=spe)

    def _fit_epochs(self, step: int, first: int, last: int, steps: int) -> None:
        data = self.config.data
        end = last * self.steps_per_epoch
        part = Steps(step, end, data.batch_size, self.config.schedule.seed)

        def replicas_dataset(context: tf.distribute.InputContext) -> tf.data.Dataset:
            return train_dataset(
                self.train_set,
                part.of_process(context),
                image_size=data.image_size,
                augment=self.config.augment,
            )

        self.model.fit(
            self.strategy.distribute_datasets_from_function(replicas_dataset),
            initial_epoch=first,
            epochs=last,
            steps_per_epoch=steps,
            callbacks=self.callbacks.in_order,
            verbose=0,
        )

    def _refuse_bad_images(self) -> None:
        """Raises DataError if images of the failed step cannot be decoded."""
        step = int(self.model.optimizer.iterations.numpy())
        data, seed = self.config.data, self.config.schedule.seed
        indices = step_indices(self.train_set.num_examples, data.batch_size, seed, step)
        refuse_bad_images(self.train_set, indices, f"training stopped at step {step}: ")

    def _export(self, folder: pathlib.Path) -> pathlib.Path:
        """Exports as tools/export.py does, and embeds one image through the export as a check."""
        source = self.heldout or self.train_set
        run = TrainedRun(
            self.path,
            self.config,
            self.data,
            int(self.model.optimizer.iterations.numpy()),
            self.model.network,
            self.model.bank.vectors.numpy,
        )
        return export_run(run, folder, [source.read(0)])

    def _finish(self) -> Result:
        saved_model = self._export(self.path / "export")
        records = read_log(self.path / "metrics.jsonl")
        warm_start, method = self.model.warm_start_steps, self.model.method
        rows, gallery = milestone_rows(records, warm_start, self.total_steps, method)
        return Result(self.path, saved_model, rows, gallery)
