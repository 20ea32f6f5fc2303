"""Runs a tool that trains, and sends it a signal at an exact step; see conftest's `start_tool`.

  python tests/stopped.py STEP SIGNAL TOOL [FLAGS]

The signal comes when the step is done and is not saved yet. From outside one can only hit about it.
"""

import os
import runpy
import signal
import sys

from la_tf import quiet

quiet.quiet()

from la_tf.callbacks.checkpointing import Checkpointing  # noqa: E402


def signal_at(step: int, signum: int) -> None:
    original = Checkpointing.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        if self.step + 1 == step:
            signal.raise_signal(signum)
        original(self, batch, logs)

    Checkpointing.on_train_batch_end = on_train_batch_end


if __name__ == "__main__":
    signal_at(int(sys.argv[1]), int(sys.argv[2]))
    sys.argv = sys.argv[3:]
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
