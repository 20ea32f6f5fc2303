"""A process of its own for what cannot be timed in the process of the others."""

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def in_process(target: Callable[..., None], *arguments: Any) -> Iterator[Callable[[], Any]]:
    """Starts a process, and ends it on leaving; it imports no more than `target` needs.

    Args:
      target: a module's function; it gets `arguments`, then a connection to answer by.
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


def answer(make: Callable[..., Callable[[], Any]], *arguments: Any) -> None:
    """A target for `in_process`: answers every request by a call of `make(*arguments)`'s result."""
    *arguments, requests = arguments
    function = make(*arguments)
    with contextlib.suppress(EOFError):  # the other side is closed
        while True:
            requests.recv()
            requests.send(function())
