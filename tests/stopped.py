"""Runs a tool that trains, and sends it a signal at an exact step; see conftest's `start_tool`.

  python tests/stopped.py STEP SIGNAL TOOL [FLAGS]

The signal comes when the step is done and is not saved yet; a fine-tuning takes one at steps that
are about to be saved. From outside one can only hit about it.
"""

import os
import runpy
import signal
import sys

from la_tf import quiet

quiet.quiet()

import tensorflow as tf  # noqa: E402

from la_tf.callbacks.checkpointing import Checkpointing  # noqa: E402


def signal_at(step: int, signum: int) -> None:
    original = Checkpointing.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        if self.step + 1 == step:
            signal.raise_signal(signum)
        original(self, batch, logs)

    Checkpointing.on_train_batch_end = on_train_batch_end


def signal_before_saving(step: int, signum: int) -> None:
    original = tf.train.CheckpointManager.save

    def save(self, checkpoint_number=None, **options):
        if checkpoint_number == step:
            signal.raise_signal(signum)
        return original(self, checkpoint_number, **options)

    tf.train.CheckpointManager.save = save


if __name__ == "__main__":
    step, signum, *sys.argv = sys.argv[1:]
    fine_tuning = os.path.basename(sys.argv[0]) == "finetune_voc.py"
    (signal_before_saving if fine_tuning else signal_at)(int(step), int(signum))
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
