"""What the callbacks share: the global step, and when to evaluate."""

import tensorflow as tf

from la_tf.phases import phase_after


class StepCallback(tf.keras.callbacks.Callback):
    """Counts steps over the whole run, across `fit` calls and restarts.

    Attributes:
      step: steps done.
    """

    # Keras then hands over tensors, so that a step need not wait for its results to be fetched.
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
        """The objective of the latest step, see `phases`; 'untrained' before the first."""
        return phase_after(self.step, self.model.warm_start_steps, self.model.method)

    @property
    def at_epoch_end(self) -> bool:
        """Whether the latest step was the last of its epoch."""
        return self.step > 0 and self.step % self.steps_per_epoch == 0


class EvaluationCallback(StepCallback):
    """Evaluates the model at the ends of its two phases, and every few epochs if asked to.

    Attributes:
      kinds: of the records that an evaluation writes to the run's log.
    """

    kinds: tuple[str, ...] = ()

    def __init__(self, *, steps_per_epoch: int, last_epoch: int, every_epochs: int | None = None):
        """Describes when to evaluate.

        Args:
          steps_per_epoch: steps of one epoch.
          last_epoch: epochs in total.
          every_epochs: epochs between two evaluations; None is at the ends of the phases alone.
        """
        super().__init__(steps_per_epoch)
        self.last_epoch = last_epoch
        self.every_epochs = every_epochs or last_epoch

    def on_epoch_end(self, epoch, logs=None):
        """Evaluates when due; Keras counts epochs from 0."""
        if self.is_due(self.step, self.model.warm_start_steps):
            self.evaluate_epoch(epoch + 1)

    def is_due(self, step: int, warm_start_steps: int) -> bool:
        """Whether it evaluates after a step, the last of its epoch."""
        epoch = step // self.steps_per_epoch
        at_end = step == warm_start_steps or epoch == self.last_epoch
        return at_end or epoch % self.every_epochs == 0

    def evaluate_epoch(self, epoch: int) -> None:
        """Evaluates `self.model` at the end of an epoch, counted from 1."""
        raise NotImplementedError
