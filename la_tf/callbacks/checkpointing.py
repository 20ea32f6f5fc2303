"""Everything that a run is, in one atomic checkpoint, and the way back from it."""

import contextlib
import functools
import math
import pathlib
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator

import tensorflow as tf

from la_tf.callbacks.step_callback import StepCallback
from la_tf.errors import RunError, first_line
from la_tf.runs.checkpoints import present_checkpoints
from la_tf.runs.health import diverged
from la_tf.runs.log import RunLog
from la_tf.stop_signals import stop_signals

_LABELS = "model/cluster_labels/.ATTRIBUTES/VARIABLE_VALUE"


class Interrupted(Exception):
    """A signal asked the run to stop; its state was saved."""

    def __init__(self, signum: int, step: int):
        """Carries the signal and the step that was saved."""
        super().__init__(f"stopped by {signal.Signals(signum).name} after step {step}")
        self.signum = signum
        self.step = step


@contextlib.contextmanager
def _without_scheduled_rate(optimizer: tf.keras.optimizers.Optimizer) -> Iterator[None]:
    """Takes a schedule's current rate out of what is restored: a run without a schedule has none.

    It follows from the step.
    """
    rate = getattr(optimizer, "_current_learning_rate", None)
    if rate is None:
        yield
        return
    del optimizer._current_learning_rate
    try:
        yield
    finally:
        optimizer._current_learning_rate = rate


class Checkpointing(StepCallback):
    """Saves every few steps or minutes, and before leaving on a signal to stop (`listening`).

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
        alone: bool = True,
        **state: tf.Module,
    ):
        """Describes what to save, where and how often.

        Args:
          model: compiled, its optimizer built.
          directory: where the checkpoints go.
          log: the log whose length belongs to the state.
          steps_per_epoch: steps of one epoch.
          every_steps: steps between checkpoints; 0 for by time alone.
          every_minutes: minutes between checkpoints; 0 for by steps alone.
          keep: how many of the newest to keep.
          restore_from: where to look for one; default `directory`. Of several workers all restore
            what the first has saved.
          alone: False where other workers take part. Saving then needs all of them at the same
            step, which clocks and signals cannot promise: it happens every `every_steps` steps, or
            once an epoch, and signals are left to their default.
          **state: more objects with variables to save under these names.
        """
        super().__init__(steps_per_epoch)
        self.log = log
        self.alone = alone
        self.every_steps = every_steps or (0 if alone else steps_per_epoch)
        self.every_seconds = 60 * every_minutes if alone and every_minutes else math.inf
        self._log_bytes = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._replicas = tf.Variable(1, trainable=False)
        self._checkpoint = tf.train.Checkpoint(
            model=model, log_bytes=self._log_bytes, replicas=self._replicas, **state
        )
        self._trained_model = model
        self._state = state
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, str(directory), max_to_keep=keep
        )
        self._restore_from = restore_from or directory
        self._metrics_to_restore: list | None = None
        self._saved_step = -1
        self._saved_at = time.monotonic()
        self._reason: Callable[[int], Exception] | None = None

    def num_bytes(self) -> int:
        """How large one checkpoint is: the model, a momentum for each trained weight, the rest."""
        model = self._trained_model
        variables = [*model.variables, *model.optimizer.variables]
        variables += [v for module in self._state.values() for v in module.variables]
        return sum(v.dtype.size * v.shape.num_elements() for v in variables)

    def restore(self) -> int | None:
        """Goes back to the newest checkpoint and cuts the log to its length.

        Returns:
          The step it was saved at, or None if there is no checkpoint.

        Raises:
          RunError: the checkpoint cannot be read, or is not of this model.
        """
        present = present_checkpoints(self._restore_from)
        if not present:
            return None
        newest = present[-1]
        try:
            labels = tf.train.load_checkpoint(newest).get_variable_to_dtype_map().get(_LABELS)
            if labels == tf.int32:  # [H, N] of them, which GPUs could not hold
                raise RunError(
                    f"the checkpoint {newest} was written by an earlier version: finish the run "
                    "with that, or start a new run directory."
                )
            status = self._checkpoint.restore(newest)
            status.assert_existing_objects_matched()
            status.assert_consumed()
        except RunError:
            raise
        except Exception as error:  # a damaged file can break TensorFlow's readers in many ways
            raise RunError(
                f"the checkpoint {newest} cannot be restored ({first_line(error)}): remove its "
                "files to go on from an older one, or start a new run directory."
            ) from error
        self.log.truncate(int(self._log_bytes.numpy()))
        # fit resets the metrics when it begins an epoch; see on_epoch_begin. A checkpoint holds
        # their sums over its replicas, which may have been more or fewer than there are now.
        scale = self._num_replicas / int(self._replicas.numpy())
        self._metrics_to_restore = [
            variable.numpy() * scale
            for metric in self._trained_model.metrics
            for variable in metric.variables
        ]
        self._saved_step = int(self._trained_model.optimizer.iterations.numpy())
        return self._saved_step

    def take_over(self, checkpoint: pathlib.Path, whole: bool) -> list[str]:
        """Starts from where another run was at the end of an epoch; the log stays as it is.

        Args:
          checkpoint: of that run, without the endings of its files.
          whole: take over all that there is. Else it is within the warm start: without labels,
            since there are none before the first clustering, and without the learning rate, which
            is a schedule's or the initial one.

        Returns:
          The lines of that run's log up to there.

        Raises:
          RunError: it cannot be read, or is not of this model, these images or this optimizer.
        """
        model, restored = self._trained_model, self._checkpoint
        if not whole:
            optimizer = tf.train.Checkpoint(
                _iterations=model.optimizer.iterations, momentums=model.optimizer.momentums
            )
            restored = tf.train.Checkpoint(
                model=tf.train.Checkpoint(
                    network=model.network, bank=model.bank, optimizer=optimizer
                ),
                log_bytes=self._log_bytes,
            )
        try:
            with _without_scheduled_rate(model.optimizer):
                # That run's learning rate may be left over, where a schedule follows it here.
                status = restored.restore(str(checkpoint)).expect_partial()
                status.assert_existing_objects_matched()
            log = (checkpoint.parents[1] / self.log.path.name).read_bytes()
            log = log[: int(self._log_bytes.numpy())].decode(errors="replace")
            return log.splitlines(keepends=True)
        except Exception as error:  # as in `restore`
            raise RunError(
                f"the checkpoint {checkpoint} cannot be taken over ({first_line(error)})."
            ) from error

    @property
    def _num_replicas(self) -> int:
        return self._trained_model.distribute_strategy.num_replicas_in_sync

    def save(self) -> None:
        """Saves now, unless this step is saved already.

        Raises:
          TrainingDiverged: a weight is not finite; nothing is written then.
          RunError: the disk is full or cannot be written.
        """
        step = int(self._trained_model.optimizer.iterations.numpy())
        if step == self._saved_step:
            return
        for weight in self._trained_model.network.variables:
            if not tf.reduce_all(tf.math.is_finite(weight)):
                raise diverged(f"the weights {weight.name}", max(0, self._saved_step), step)
        self._replicas.assign(self._num_replicas)
        self._log_bytes.assign(self.log.tell())
        try:
            self._manager.save(checkpoint_number=step)
        except (OSError, tf.errors.OpError) as error:
            free = shutil.disk_usage(self._manager.directory).free
            raise RunError(
                f"no checkpoint could be written to {self._manager.directory} ({free >> 20} MiB "
                f"free there): {first_line(error)}. Earlier checkpoints are untouched; "
                "make room and start the same command again."
            ) from error
        self._saved_step = step
        self._saved_at = time.monotonic()

    @contextlib.contextmanager
    def listening(self):
        """Within it, the first of `stop_signals` saves and then raises Interrupted.

        A second one does what it would have done without this. Several workers are not listening:
        see `alone`.
        """
        handlers = {}
        if self.alone and threading.current_thread() is threading.main_thread():

            def remember(signum, frame):
                self._reason = functools.partial(Interrupted, signum)
                signal.signal(signum, handlers[signum])

            for signum in stop_signals():
                handlers[signum] = signal.signal(signum, remember)
        try:
            yield
        finally:
            for signum, handler in handlers.items():
                signal.signal(signum, handler)

    def finish(self) -> None:
        """Saves the end of the run.

        Raises:
          Interrupted: a signal came after the last step; or what `leave` was asked for then.
        """
        self.save()
        self._leave_if_asked(self._reason)

    def leave(self, reason: Callable[[int], Exception]) -> None:
        """Saves as soon as all callbacks have done their part of a step, and raises.

        Where other workers take part it raises at once.

        Args:
          reason: the step that is saved -> what to raise.
        """
        self._reason = reason
        if not self.alone:
            self._leave_if_asked(reason)

    def _leave_if_asked(self, reason: Callable[[int], Exception] | None) -> None:
        if reason is not None:
            raise reason(self._saved_step)

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
            self._save_if_due()

    def on_epoch_end(self, epoch, logs=None):
        """Saves when due, at the end of an epoch."""
        self._save_if_due()

    def _save_if_due(self):
        reason = self._reason  # once: another may come while this one is answered
        due_by_step = self.every_steps and self.step % self.every_steps == 0
        due_by_time = time.monotonic() - self._saved_at >= self.every_seconds
        if due_by_step or due_by_time or reason is not None:
            self.save()
        self._leave_if_asked(reason)
