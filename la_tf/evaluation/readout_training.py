"""Trains linear readouts, and resumes their training after a kill."""

import pathlib
import shutil
import time
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
import tqdm

from la_tf.data.base import Source
from la_tf.data.crops import area_crop_view, margin_crop_view
from la_tf.data.pipeline import (
    Steps,
    example_dataset,
    random_dataset,
    steps_per_epoch,
)
from la_tf.errors import RunError, first_line
from la_tf.evaluation.linear import (
    ReadoutConfig,
    Readouts,
    centre_features,
    ten_crop_accuracy,
    train_step,
)
from la_tf.runs.checkpoints import mend_list
from la_tf.schedules import learning_rate

CROPS = {"margin": margin_crop_view, "area": area_crop_view}
SAVE_SECONDS = 60.0  # the most that a kill can cost


class ReadoutTraining:
    """One training of readouts, which continues where an earlier process stopped.

    Batches are a function of the step; weights, momentum and step are saved together. So a resumed
    training ends with the readouts of an uninterrupted one.
    """

    def __init__(
        self,
        features: tf.keras.Model,
        train_set: Source,
        config: ReadoutConfig,
        folder: pathlib.Path,
        *,
        say: Callable[[str], None] = print,
        save_seconds: float = SAVE_SECONDS,
    ):
        """Builds readouts and optimizer; under a strategy, call it in its scope.

        Args:
          features: frozen, see `linear.layer_features`.
          train_set: labelled images.
          config: schedule, crops and seed.
          folder: for the state of this training alone; `forget` removes it.
          say: takes a line per epoch.
          save_seconds: how often the state is saved.

        Raises:
          DataError: fewer images than one batch.
          RunError: the features do not fit in memory, or the saved state cannot be read.
        """
        self.features = features
        self.image_size = features.input_shape[1]
        self.train_set = train_set
        self.config = config
        self.folder = folder
        self.say = say
        self.save_seconds = save_seconds
        self.steps_per_epoch = steps_per_epoch(train_set.num_examples, config.batch_size)
        self.total_steps = self.steps_per_epoch * config.epochs
        self.strategy = tf.distribute.get_strategy()
        self.readouts = Readouts(features, len(train_set.class_names))
        self.optimizer = tf.keras.optimizers.SGD(
            learning_rate(config.optimizer, self.steps_per_epoch), config.optimizer.momentum
        )
        self.optimizer.build(self.readouts.weights)
        self._seconds = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        state = {"optimizer": self.optimizer, "seconds": self._seconds}
        checkpoint = tf.train.Checkpoint(dense=self.readouts.dense, **state)
        mend_list(folder)
        self._manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=1)
        self._cached = None
        if config.crop == "center":
            self._cached = centre_features(features, train_set, "leave out --cache_features")
        self._restore()

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.optimizer.iterations.numpy())

    @property
    def seconds(self) -> float:
        """Time spent training, over all processes, without steps that were lost."""
        return float(self._seconds.numpy())

    def _restore(self) -> None:
        if newest := self._manager.latest_checkpoint:
            try:
                self._manager.checkpoint.restore(newest).assert_existing_objects_matched()
            except Exception as error:  # a damaged file can break TensorFlow's readers in many ways
                raise RunError(
                    f"the unfinished readouts in {self.folder} cannot be read "
                    f"({first_line(error)}): remove that folder to train them again."
                ) from error
            self.say(f"readouts: continuing after step {self.step} of {self.total_steps}.")

    def run(self) -> None:
        """Trains to the last step.

        Raises:
          RunError: the loss is not finite.
        """
        saved_at = started = time.monotonic()
        losses: list[dict[str, tf.Tensor]] = []
        bar = tqdm.tqdm(
            total=self.total_steps, initial=self.step, unit="step", disable=None, leave=False
        )
        for step, batch in enumerate(self._batches(), self.step + 1):
            losses.append(self._train_on(*batch))
            bar.update()
            if step % self.steps_per_epoch == 0:
                bar.clear()
                self._report(step // self.steps_per_epoch, losses)
                losses.clear()
            now = time.monotonic()
            if now - saved_at >= self.save_seconds:
                self._seconds.assign_add(now - started)
                self._manager.save(step)
                saved_at = started = now
        bar.close()
        self._seconds.assign_add(time.monotonic() - started)
        self._manager.save(self.step)

    def finish(self, heldout: Source) -> dict[str, float]:
        """Ten-crop accuracy of every readout, see `linear.ten_crop_accuracy`."""
        started = time.monotonic()
        accuracy = ten_crop_accuracy(self.readouts, heldout, self.image_size, self.config.flip)
        self._seconds.assign_add(time.monotonic() - started)
        return accuracy

    def forget(self) -> None:
        """Removes the saved state; call it when the result is safe."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _report(self, epoch: int, losses: list[dict[str, tf.Tensor]]) -> None:
        means = {name: float(np.mean([step[name] for step in losses])) for name in losses[0]}
        shown = "  ".join(f"{name} {mean:.3f}" for name, mean in means.items())
        self.say(f"epoch {epoch}/{self.config.epochs}: loss {shown}")
        if not np.isfinite(list(means.values())).all():
            self.forget()
            raise RunError("the loss of a readout is not finite: lower --learning_rate.")

    @tf.function(autograph=False)
    def _train_on(self, indices: tf.Tensor, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        # int64, which stays on a GPU: as int32, all N would be copied there in every step.
        labels = tf.constant(self.train_set.labels, tf.int64)

        def replica_step(indices, inputs):
            features = inputs if self._cached else self.features(inputs, training=False)
            return train_step(
                self.readouts,
                self.optimizer,
                self.config.optimizer.weight_decay,
                self.config.batch_size,
                features,
                tf.gather(labels, indices),
            )

        parts = self.strategy.run(replica_step, args=(indices, inputs))
        return {
            name: self.strategy.reduce(tf.distribute.ReduceOp.SUM, part, axis=None)
            for name, part in parts.items()
        }

    def _batches(self) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        steps = Steps(self.step, self.total_steps, self.config.batch_size, self.config.seed)

        def replicas_dataset(context: tf.distribute.InputContext) -> tf.data.Dataset:
            if self._cached:
                return self._cached_dataset(steps.of_process(context))
            return random_dataset(self.train_set, self._view, steps.of_process(context))

        return iter(self.strategy.distribute_datasets_from_function(replicas_dataset))

    def _view(self, encoded: tf.Tensor, seed_pair: tf.Tensor) -> tf.Tensor:
        return CROPS[self.config.crop](encoded, seed_pair, self.image_size, self.config.flip)

    def _cached_dataset(self, steps: Steps) -> tf.data.Dataset:
        names = list(self._cached)

        def rows(indices: tf.Tensor, epoch: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
            del epoch
            found = tf.numpy_function(
                lambda i: [self._cached[name][i] for name in names],
                [indices],
                [tf.float32] * len(names),
                stateful=False,
            )
            shaped = {
                name: tf.ensure_shape(row, [None, self._cached[name].shape[1]])
                for name, row in zip(names, found, strict=True)
            }
            return indices, shaped

        examples = example_dataset(self.train_set.num_examples, steps)
        batches = examples.batch(steps.slice_size, drop_remainder=True)
        return batches.map(rows).prefetch(2)
