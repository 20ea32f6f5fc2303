"""Ends instance recognition when its loss has levelled off."""

import collections

from la_tf.callbacks.step_callback import StepCallback
from la_tf.phases import IR
from la_tf.runs.log import RunLog, read_log
from la_tf.runs.warm_start import WARM_START_END, logged_end
from la_tf.schedules import levelled_off


class WarmStartEnd(StepCallback):
    """Looks at the loss after each epoch of the warm start; place it after `TrainLog`.

    All it knows it reads in the run's log, whose length belongs to every checkpoint: a run that is
    resumed ends its warm start where one that was never stopped does.
    """

    def __init__(self, *, log: RunLog, steps_per_epoch: int):
        """`log` has the loss, and takes a record of the end."""
        super().__init__(steps_per_epoch)
        self.log = log

    def on_train_begin(self, logs=None):
        """Finds out whether the warm start has ended before."""
        super().on_train_begin(logs)
        end = logged_end(read_log(self.log.path))
        if end is not None and end != self.model.warm_start_steps:
            self.model.end_warm_start(end)

    def on_epoch_end(self, epoch, logs=None):
        """Ends the warm start if its loss has levelled off."""
        planned = self.model.warm_start_steps
        if self.step < planned and levelled_off(self._losses(), planned // self.steps_per_epoch):
            self.model.end_warm_start(self.step)
            self.log.write(WARM_START_END, self.step, self.epoch)

    def _losses(self) -> list[float]:
        """The mean loss of each epoch of instance recognition."""
        sums, steps = collections.Counter(), collections.Counter()
        for record in read_log(self.log.path):
            if record["kind"] == "train" and record["phase"] == IR:
                sums[record["epoch"]] += record["loss"] * record["steps"]
                steps[record["epoch"]] += record["steps"]
        return [sums[epoch] / steps[epoch] for epoch in sorted(sums)]
