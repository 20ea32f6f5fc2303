"""What would not fit in memory is refused before it is tried."""

import psutil

from la_tf.errors import RunError


def require_memory(needed: int, what: str, remedy: str) -> None:
    """Refuses what would be killed half-way.

    Raises:
      RunError: `what` takes more bytes than are free; `remedy` is what to do.
    """
    free = psutil.virtual_memory().available
    if needed > 0.8 * free:
        raise RunError(
            f"{what} would take {needed / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are "
            f"free: {remedy}."
        )
