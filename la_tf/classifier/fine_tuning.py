"""Trains a whole network on classes, from the weights that it has and a readout fitted to them."""

import dataclasses
import math
import pathlib
import shutil
from collections.abc import Callable

import tensorflow as tf

from la_tf.classifier.task import Task
from la_tf.data.crops import area_crop_view
from la_tf.data.pipeline import Steps, random_dataset, steps_per_epoch
from la_tf.errors import RunError, first_line
from la_tf.runs.checkpoints import mend_list


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """How a network is fine-tuned.

    Attributes:
      epochs: passes over the training images.
      learning_rate: the first one, of momentum 0.9; it falls to 0 as a cosine.
      batch_size: images a step, or all where there are fewer.
      flip: mirror half of the random crops.
    """

    epochs: int = 20
    learning_rate: float = 0.01
    batch_size: int = 32
    flip: bool = True


def fine_tune(
    model: tf.keras.Model,
    task: Task,
    config: FineTuning,
    seed: int,
    folder: pathlib.Path,
    say: Callable[[str], None] = print,
) -> None:
    """Trains all weights of a classifier on random crops of 20 to 100 % of the area.

    Batches are a function of the step, and each epoch is saved: after a stop, the same call goes on
    where the last whole epoch ended, and ends as an uninterrupted one.

    Args:
      model: images [B, S, S, 3] -> logits [B, C], see `readout.classifier_of`.
      task: what is to be told apart.
      config: epochs and rates.
      seed: of the order and the crops.
      folder: for the state of this training alone.
      say: takes a line for each epoch.

    Raises:
      RunError: the loss is not finite, or the saved state cannot be read or written.
    """
    count, side = len(task.train.source), model.input_shape[1]
    batch_size = min(config.batch_size, count)
    in_epoch = steps_per_epoch(count, batch_size)
    total = in_epoch * config.epochs
    rate = tf.keras.optimizers.schedules.CosineDecay(config.learning_rate, total)
    optimizer = tf.keras.optimizers.SGD(rate, momentum=0.9)
    losses = tf.keras.losses
    loss = losses.BinaryCrossentropy if task.multi_label else losses.CategoricalCrossentropy
    model.compile(optimizer, loss(from_logits=True))
    optimizer.build(model.trainable_variables)
    mend_list(folder)
    saved = tf.train.Checkpoint(model=model, optimizer=optimizer)
    manager = tf.train.CheckpointManager(saved, str(folder), max_to_keep=1)
    if newest := manager.latest_checkpoint:
        try:
            saved.restore(newest).assert_existing_objects_matched()
        except Exception as error:  # a damaged file can break TensorFlow's readers in many ways
            raise RunError(
                f"the unfinished fine-tuning in {folder} cannot be read ({first_line(error)}): "
                "remove that folder to start anew."
            ) from error
        say(f"continuing after epoch {optimizer.iterations.numpy() // in_epoch}.")
    step = int(optimizer.iterations.numpy())

    def end_epoch(epoch: int, logs: dict[str, float]) -> None:
        say(f"epoch {epoch + 1}/{config.epochs}: loss {logs['loss']:.3f}")
        if not math.isfinite(logs["loss"]):
            shutil.rmtree(folder, ignore_errors=True)
            raise RunError("the loss is not finite: lower --learning_rate.")
        manager.save(epoch + 1)

    batches = random_dataset(
        task.train.source,
        lambda encoded, pair: area_crop_view(encoded, pair, side, config.flip),
        Steps(step, total, batch_size, seed),
    )
    targets = tf.constant(task.train.targets, tf.float32)
    model.fit(
        batches.map(lambda indices, views: (views, tf.gather(targets, indices))),
        steps_per_epoch=in_epoch,
        initial_epoch=step // in_epoch,
        epochs=config.epochs,
        callbacks=[tf.keras.callbacks.LambdaCallback(on_epoch_end=end_epoch)],
        verbose=0,
    )
