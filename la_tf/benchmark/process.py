"""A process of its own for what cannot be timed in the process of the others."""

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any


@contextlib.contextmanager
def in_process(target: Callable[..., None], *arguments: Any) -> Iterator[Callable[[], Any]]:
    """Starts a process, and ends it on leaving; it imports no more than `target` needs.

    Args:
      target: a module's function; gets `arguments`, then a connection, see `answer`.
      *arguments: what the process needs.

    Yields:
      A function that asks for one answer and returns it. It raises ValueError where the process
      has ended.
    """
    # Not forked: TensorFlow has threads.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()

    def ask() -> Any:
        try:
            ours.send(None)
            return ours.recv()
        except (EOFError, OSError) as error:
            raise ValueError("the timed process ended before it was done.") from error

    try:
        yield ask
    finally:
        ours.close()
        process.terminate()
        process.join()


def answer(requests: Connection, function: Callable[[], Any]) -> None:
    """Sends what `function` returns for every request, until the other side is closed."""
    with contextlib.suppress(EOFError):
        while True:
            requests.recv()
            requests.send(function())
