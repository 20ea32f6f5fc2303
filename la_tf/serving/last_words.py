"""What libraries in C write to the console, kept until it matters."""

import collections
import contextlib
import os
import signal
import sys
from collections.abc import Iterator

from la_tf.stop_signals import stop_signals

_LINES = 20


@contextlib.contextmanager
def of_libraries() -> Iterator[None]:
    """Within it, only Python writes to stderr; libraries do when the process dies.

    libjpeg writes about every damaged picture, and TensorFlow has no way to stop it. But what a
    library writes last, before it aborts, says why. So a process of its own reads their lines and
    shows the last of them, unless it is killed because this one has ended in order.

    Enter it before other threads are there, since it forks.
    """
    sys.stderr.flush()
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(writing)
        _show_last(reading)
        os._exit(0)
    os.close(reading)
    ours, stderr = os.dup(2), sys.stderr
    os.dup2(writing, 2)
    os.close(writing)
    sys.stderr = open(ours, "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        sys.stderr.flush()
        os.dup2(ours, 2)
        sys.stderr.close()
        sys.stderr = stderr


def _show_last(reading: int) -> None:
    """Reads lines to their end, which is that of all who could write any, and shows the last."""
    for number in stop_signals():
        signal.signal(number, signal.SIG_IGN)  # meant for the other one
    os.close(0)
    os.close(1)  # whoever reads what the other one prints shall notice its end
    with open(reading, "rb") as lines:
        last = collections.deque(lines, _LINES)
    os.write(2, b"".join(last))
