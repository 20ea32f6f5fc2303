"""Trains linear readouts: the loop, its position, and the way back after a kill."""

import dataclasses
import json
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator

import numpy as np
import psutil
import tensorflow as tf
import tqdm

from la_tf.data.base import Source
from la_tf.data.crops import area_crop_view, margin_crop_view
from la_tf.data.pipeline import (
    eval_dataset,
    example_dataset,
    random_dataset,
    steps_per_epoch,
)
from la_tf.evaluation.linear import ReadoutConfig, Readouts, ten_crop_accuracy, train_step
from la_tf.run_directory import RunError, write_json
from la_tf.schedules import learning_rate

CROPS = {"margin": margin_crop_view, "area": area_crop_view}
SAVE_SECONDS = 60.0  # what a kill can cost at most


class ReadoutTraining:
    """One training of readouts, which goes on where an earlier process stopped.

    Everything is a function of the step: the batches are, and weights, momentum and step are saved
    together. A resumed training ends with the readouts of an uninterrupted one.
    """

    def __init__(
        self,
        features: tf.keras.Model,
        train_set: Source,
        config: ReadoutConfig,
        folder: pathlib.Path,
        identity: dict,
        *,
        say: Callable[[str], None] = print,
        save_seconds: float = SAVE_SECONDS,
    ):
        """Builds readouts and optimizer; under a strategy, call it in its scope.

        Args:
          features: frozen, see `linear.layer_features`.
          train_set: labelled images.
          config: schedule, crops and seed.
          folder: for the state while training; removed by `finish`.
          identity: what else must be the same for a state to be taken up again.
          say: takes a line an epoch.
          save_seconds: seconds between two savings.

        Raises:
          DataError: fewer images than one batch.
          RunError: the folder holds another training, or the features do not fit in memory.
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
        self._manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(
                dense=self.readouts.dense, optimizer=self.optimizer, seconds=self._seconds
            ),
            str(folder),
            max_to_keep=1,
        )
        self._cached = self._compute_features() if config.crop == "center" else None
        self._restore({**json.loads(json.dumps(dataclasses.asdict(config))), **identity})

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.optimizer.iterations.numpy())

    @property
    def seconds(self) -> float:
        """Time spent training, in all processes together; lost steps not counted."""
        return float(self._seconds.numpy())

    def _restore(self, identity: dict) -> None:
        file = self.folder / "identity.json"
        if file.exists():
            stored = json.loads(file.read_text(encoding="utf-8"))
            for name in sorted(stored.keys() | identity.keys()):
                if stored.get(name) != identity.get(name):
                    raise RunError(
                        f"{self.folder} holds an unfinished training with another {name} (was "
                        f"{stored.get(name)}, now {identity.get(name)}): give the same to finish "
                        "it, or remove that folder."
                    )
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(file, identity)
        if self._manager.latest_checkpoint:
            self._manager.checkpoint.restore(
                self._manager.latest_checkpoint
            ).assert_existing_objects_matched()
            self.say(f"readouts: going on after step {self.step} of {self.total_steps}.")

    def run(self) -> None:
        """Trains what is left.

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
        """Removes the state; call it when the result is safe."""
        shutil.rmtree(self.folder)

    def _report(self, epoch: int, losses: list[dict[str, tf.Tensor]]) -> None:
        means = {name: float(np.mean([step[name] for step in losses])) for name in losses[0]}
        shown = "  ".join(f"{name} {mean:.3f}" for name, mean in means.items())
        self.say(f"epoch {epoch}/{self.config.epochs}: loss {shown}")
        if not np.isfinite(list(means.values())).all():
            raise RunError("the loss of a readout is not finite: lower --learning_rate.")

    @tf.function
    def _train_on(self, indices: tf.Tensor, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        labels = tf.constant(self.train_set.labels)

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
        start = self.step

        def replicas_dataset(context: tf.distribute.InputContext) -> tf.data.Dataset:
            where = {
                "batch_size": self.config.batch_size,
                "seed": self.config.seed,
                "start_step": start,
                "end_step": self.total_steps,
                "num_replicas": context.num_replicas_in_sync,
                "replica_ids": range(context.num_replicas_in_sync),
            }
            if self._cached:
                return self._cached_dataset(where)
            return random_dataset(self.train_set, self._view, **where)

        return iter(self.strategy.distribute_datasets_from_function(replicas_dataset))

    def _view(self, encoded: tf.Tensor, seed_pair: tf.Tensor) -> tf.Tensor:
        return CROPS[self.config.crop](encoded, seed_pair, self.image_size, self.config.flip)

    def _cached_dataset(self, where: dict) -> tf.data.Dataset:
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

        examples = example_dataset(self.train_set.num_examples, **where)
        batches = examples.batch(where["batch_size"] // where["num_replicas"], drop_remainder=True)
        return batches.map(rows).prefetch(2)

    def _compute_features(self) -> dict[str, np.ndarray]:
        count = self.train_set.num_examples
        widths = {name: tensor.shape[1] for name, tensor in self.features.output.items()}
        needed, free = 4 * count * sum(widths.values()), psutil.virtual_memory().available
        if needed > 0.8 * free:
            raise RunError(
                f"the features of {count} images take {needed / 2**30:.1f} GiB and "
                f"{free / 2**30:.1f} GiB are free: leave out --cache_features."
            )
        cached = {name: np.empty([count, width], np.float32) for name, width in widths.items()}
        forward = tf.function(lambda x: self.features(x, training=False), reduce_retracing=True)
        for indices, images in eval_dataset(
            self.train_set, image_size=self.image_size, batch_size=self.config.batch_size
        ):
            for name, values in forward(images).items():
                cached[name][indices.numpy()] = values.numpy()
        return cached
