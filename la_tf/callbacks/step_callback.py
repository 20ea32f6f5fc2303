"""What all callbacks here share: the global step."""

import tensorflow as tf

from la_tf.phases import phase_after


class StepCallback(tf.keras.callbacks.Callback):
    """Counts steps over the whole run, across `fit` calls and restarts.

    Attributes:
      step: steps done.
    """

    # Keras then hands over tensors, and a step need not wait for its results to be fetched.
    _supports_tf_logs = True

    def __init__(self, steps_per_epoch: int):
        """`steps_per_epoch` turns steps into epochs."""
        super().__init__()
        self.steps_per_epoch = steps_per_epoch
        self.step = 0

    def on_train_begin(self, logs=None):
        """Takes the step from the optimizer, which a checkpoint may have restored."""
        self.step = int(self.model.optimizer.iterations.numpy())

    def on_train_batch_end(self, batch, logs=None):
        """Counts."""
        self.step += 1

    @property
    def epoch(self) -> int:
        """The epoch of the latest step, counted from 1."""
        return max(1, -(-self.step // self.steps_per_epoch))

    @property
    def phase(self) -> str:
        """The objective of the latest step, 'IR' or 'LA'; 'untrained' before the first."""
        return phase_after(self.step, self.model.warm_start_steps)

    @property
    def at_epoch_end(self) -> bool:
        """Whether the latest step was the last of its epoch."""
        return self.step > 0 and self.step % self.steps_per_epoch == 0


class EvaluationCallback(StepCallback):
    """Evaluates the model every few epochs, and always at the ends of its two phases."""

    def __init__(self, *, steps_per_epoch: int, every_epochs: int, last_epoch: int):
        """Describes when to evaluate.

        Args:
          steps_per_epoch: steps of one epoch.
          every_epochs: epochs between two evaluations.
          last_epoch: epochs in total.
        """
        super().__init__(steps_per_epoch)
        self.every_epochs = every_epochs
        self.last_epoch = last_epoch

    def is_due(self, epoch: int) -> bool:
        """Whether to evaluate at the end of this epoch, counted from 0 as Keras does."""
        at_end = self.step == self.model.warm_start_steps or epoch + 1 == self.last_epoch
        return at_end or (epoch + 1) % self.every_epochs == 0
