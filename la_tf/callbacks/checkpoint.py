"""Everything that a run is, in one atomic checkpoint, and the way back from it."""

import pathlib
import shutil
import signal
import threading
import time

import tensorflow as tf

from la_tf.callbacks.base import StepCallback
from la_tf.health import require_finite
from la_tf.run_directory import RunError, RunLog

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):
    """A signal asked the run to stop; its state was saved."""

    def __init__(self, signum: int, step: int):
        """Carries the signal and the step that was saved."""
        super().__init__(f"stopped by {signal.Signals(signum).name} after step {step}")
        self.signum = signum
        self.step = step


class Checkpointing(StepCallback):
    """Saves every few steps or minutes, at the end, and before leaving on SIGTERM or Ctrl-C.

    Must be the last of `fit`'s callbacks: at the end of an epoch it saves after all others have
    done and logged their part.

    A checkpoint holds the model (network, bank, cluster labels, metrics), the optimizer with its
    step, the state of the plateau rule, and the length of the log. TensorFlow writes it beside the
    old ones and then switches over in one rename, so a kill at any moment leaves a whole one.
    """

    def __init__(
        self,
        model: tf.keras.Model,
        directory: pathlib.Path,
        *,
        log: RunLog,
        steps_per_epoch: int,
        every_steps: int,
        every_minutes: float,
        keep: int,
        restore_from: pathlib.Path | None = None,
        **state: tf.Module,
    ):
        """Describes what to save, where and how often.

        Args:
          model: compiled, its optimizer built.
          directory: where the checkpoints go.
          log: the log whose length belongs to the state.
          steps_per_epoch: steps of one epoch.
          every_steps: steps between checkpoints; 0 for by time alone.
          every_minutes: minutes between checkpoints.
          keep: how many of the newest to keep.
          restore_from: where to look for one; default `directory`. Of several workers all restore
            what the first has saved.
          **state: more objects with variables to save under these names.
        """
        super().__init__(steps_per_epoch)
        self.log = log
        self.every_steps = every_steps
        self.every_seconds = 60 * every_minutes
        self._log_bytes = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._checkpoint = tf.train.Checkpoint(model=model, log_bytes=self._log_bytes, **state)
        self._trained_model = model
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, str(directory), max_to_keep=keep
        )
        self._restore_from = restore_from or directory
        self._metrics_to_restore: list | None = None
        self._saved_step = -1
        self._saved_at = time.monotonic()
        self._signal: int | None = None

    def num_bytes(self) -> int:
        """How large one checkpoint is: the model, and a momentum for each trained weight."""
        model = self._trained_model
        variables = [*model.variables, *model.optimizer.variables]
        return sum(v.dtype.size * v.shape.num_elements() for v in variables)

    def restore(self) -> int | None:
        """Goes back to the newest checkpoint and cuts the log to its length.

        Returns:
          The step it was saved at, or None if there is no checkpoint.

        Raises:
          RunError: the checkpoint cannot be read, or is not of this model.
        """
        newest = tf.train.latest_checkpoint(str(self._restore_from))
        if newest is None:
            return None
        try:
            status = self._checkpoint.restore(newest)
            status.assert_existing_objects_matched()
            status.assert_consumed()
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            raise RunError(
                f"the checkpoint {newest} cannot be restored ({str(error).splitlines()[0]}): "
                "remove it to go on from an older one, or start a new run directory."
            ) from error
        self.log.truncate(int(self._log_bytes.numpy()))
        # fit resets the metrics when it begins an epoch; see on_epoch_begin.
        self._metrics_to_restore = [
            variable.numpy()
            for metric in self._trained_model.metrics
            for variable in metric.variables
        ]
        self._saved_step = int(self._trained_model.optimizer.iterations.numpy())
        return self._saved_step

    def save(self, loss: float | None = None) -> None:
        """Saves now, unless this step is saved already.

        Args:
          loss: mean loss of the current window, checked so that a broken state is never saved.

        Raises:
          TrainingDiverged: the loss is not finite.
          RunError: the disk is full or cannot be written.
        """
        step = int(self._trained_model.optimizer.iterations.numpy())
        if step == self._saved_step:
            return
        if loss is not None:
            require_finite(float(loss), step, step - max(0, self._saved_step))
        self._log_bytes.assign(self.log.tell())
        try:
            self._manager.save(checkpoint_number=step)
        except (OSError, tf.errors.OpError) as error:
            free = shutil.disk_usage(self._manager.directory).free
            raise RunError(
                f"no checkpoint could be written to {self._manager.directory} ({free >> 20} MiB "
                f"free there): {str(error).splitlines()[0]}. Earlier checkpoints are untouched; "
                "make room and start the same command again."
            ) from error
        self._saved_step = step
        self._saved_at = time.monotonic()

    def on_train_begin(self, logs=None):
        """Listens for signals."""
        super().on_train_begin(logs)
        self._handlers = {}
        if threading.current_thread() is threading.main_thread():
            self._handlers = {s: signal.signal(s, self._remember_signal) for s in STOP_SIGNALS}

    def _remember_signal(self, signum, frame):
        self._signal = signum
        signal.signal(signum, self._handlers[signum])  # the second one is not held back

    def on_train_end(self, logs=None):
        """Stops listening."""
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)

    def on_epoch_begin(self, epoch, logs=None):
        """Puts the metrics of a half-finished window back, which `fit` has just reset."""
        if self._metrics_to_restore is not None:
            variables = [v for metric in self.model.metrics for v in metric.variables]
            for variable, value in zip(variables, self._metrics_to_restore, strict=True):
                variable.assign(value)
            self._metrics_to_restore = None

    def on_train_batch_end(self, batch, logs=None):
        """Saves when due, in the middle of an epoch."""
        super().on_train_batch_end(batch, logs)
        if not self.at_epoch_end:
            self._save_if_due(logs)

    def on_epoch_end(self, epoch, logs=None):
        """Saves when due, at the end of an epoch."""
        self._save_if_due(logs)

    def _save_if_due(self, logs):
        due_by_step = self.every_steps and self.step % self.every_steps == 0
        due_by_time = time.monotonic() - self._saved_at >= self.every_seconds
        if due_by_step or due_by_time or self._signal is not None:
            self.save(logs["loss"])
        if self._signal is not None:
            self.on_train_end()
            raise Interrupted(self._signal, self.step)
