"""When the learning rate drops, and when the warm start has levelled off."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from la_tf.config import OptimizerConfig

DROP = 0.1  # factor of every drop, section 4.1
MAX_PLATEAU_DROPS = 2  # "two learning rate drops", section 4.1


LEVEL_EPOCHS = 5  # at least, of each of the two means that `levelled_off` compares
LEVEL_SHARE = 1 / 12  # of the epochs that are planned
LEVEL_FALL = 0.05


def levelled_off(losses: Sequence[float], planned: int) -> bool:
    """Whether the loss of a warm start has all but stopped falling.

    The paper does not say how it saw that instance recognition had. Here, the mean of the last
    epochs is less than five percent below that of as many before: of a twelfth of the warm start,
    or five. Few images have short epochs and many of them, and the loss of five short ones is level
    at any time.

    Args:
      losses: the mean of each epoch so far.
      planned: how many epochs of instance recognition there are to be at most.
    """
    count = max(LEVEL_EPOCHS, round(LEVEL_SHARE * planned))
    if len(losses) < 2 * count:
        return False
    before = np.mean(losses[-2 * count : -count])
    return bool(np.mean(losses[-count:]) > (1 - LEVEL_FALL) * before)


def learning_rate(
    config: OptimizerConfig, steps_per_epoch: int
) -> float | tf.keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate as Keras optimizers take it.

    Args:
      config: initial rate and the epochs before which it drops.
      steps_per_epoch: to turn epochs into steps.

    Returns:
      A schedule over steps, or the plain initial rate if no drop is planned.
    """
    if not config.drop_epochs:
        return config.learning_rate
    rates = [config.learning_rate * DROP**i for i in range(len(config.drop_epochs) + 1)]
    # Keras keeps a rate up to and including its boundary; step e * S is the first of epoch e.
    boundaries = [epoch * steps_per_epoch - 1 for epoch in config.drop_epochs]
    return tf.keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, rates)


class Plateau(tf.Module):
    """Drops the learning rate when a score has not improved for `patience` reports.

    The paper drops "when validation performances saturate" (section 4.1). The state is in
    variables, so that a checkpoint that holds this object resumes it exactly.
    """

    def __init__(self, optimizer: tf.keras.optimizers.Optimizer, patience: int):
        """Watches for one optimizer, whose learning rate must not be a schedule."""
        super().__init__(name="plateau")
        self.optimizer = optimizer
        self.patience = patience
        self.best = tf.Variable(-float("inf"), dtype=tf.float64, trainable=False, name="best")
        self.waited = tf.Variable(0, trainable=False, name="waited")
        self.drops = tf.Variable(0, trainable=False, name="drops")

    def report(self, score: float) -> bool:
        """Takes a new score, higher is better; returns whether the learning rate fell."""
        if score > float(self.best.numpy()):
            self.best.assign(score)
            self.waited.assign(0)
            return False
        self.waited.assign_add(1)
        if self.waited.numpy() < self.patience or self.drops.numpy() >= MAX_PLATEAU_DROPS:
            return False
        self.optimizer.learning_rate.assign(self.optimizer.learning_rate * DROP)
        self.drops.assign_add(1)
        self.waited.assign(0)
        return True
