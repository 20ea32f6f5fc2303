"""Writes the training loss and the speed to the run's logs."""

import time

from la_tf.callbacks.step_callback import StepCallback
from la_tf.runs.log import RunLog


class TrainLog(StepCallback):
    """Every few steps and at each epoch's end, one record of each kind.

    A record of the loss covers the steps since the last record, at which the model's metrics were
    reset. Place this after callbacks whose time between steps should not count as training time.
    """

    def __init__(
        self, *, log: RunLog, timing: RunLog, every: int, steps_per_epoch: int, batch_size: int
    ):
        """Describes where to write and how often.

        Args:
          log: takes the loss; everything in it is a function of configuration and data.
          timing: takes images per second and the share of time spent waiting for data.
          every: steps between records.
          steps_per_epoch: steps of one epoch.
          batch_size: images a step, over all replicas.
        """
        super().__init__(steps_per_epoch)
        self.log = log
        self.timing = timing
        self.every = every
        self.batch_size = batch_size

    def on_train_begin(self, logs=None):
        """Starts a window of time."""
        super().on_train_begin(logs)
        self._start_window()

    def _start_window(self):
        self._seconds = 0.0
        self._steps = 0
        self._waited = self.model.seconds_waiting

    def on_train_batch_begin(self, batch, logs=None):
        """Starts the clock of one step."""
        self._started = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        """Writes when due."""
        super().on_train_batch_end(batch, logs)
        self._seconds += time.perf_counter() - self._started
        self._steps += 1
        in_window = (self.step - 1) % self.steps_per_epoch % self.every + 1
        if in_window == self.every or self.at_epoch_end:
            self._write(logs, in_window)

    def _write(self, logs, in_window: int) -> None:
        model = self.model
        self.log.write(
            "train",
            self.step,
            self.epoch,
            phase=self.phase,
            steps=in_window,
            learning_rate=float(model.optimizer.learning_rate.numpy()),
            **{name: float(value) for name, value in logs.items()},
        )
        self.timing.write(
            "throughput",
            self.step,
            self.epoch,
            images_per_second=round(self._steps * self.batch_size / self._seconds, 1),
            data_wait_share=round((model.seconds_waiting - self._waited) / self._seconds, 4),
        )
        model.reset_metrics()
        self._start_window()
