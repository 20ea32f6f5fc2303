"""Pictures of many requests in one call of the model."""

import asyncio
import collections
import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

Rows = list[np.ndarray | Exception]


class QueueFullError(RuntimeError):
    """The queue or its memory is full; the message says how full."""


class MemoryBudget:
    """How much memory requests and their pictures take until they are answered.

    Attributes:
      max_bytes: of all, encoded as they came.
    """

    def __init__(self, max_bytes: float):
        """Allows `max_bytes`."""
        self.max_bytes = max_bytes
        self._held = 0

    def take(self, count: int) -> None:
        """Takes `count` bytes.

        Raises:
          QueueFullError: there are not so many left; none is taken.
        """
        if self._held + count > self.max_bytes:
            raise QueueFullError(
                f"requests that wait hold {self._held / 1e6:.1f} of {self.max_bytes / 1e6:g} "
                "million bytes"
            )
        self._held += count

    def give_back(self, count: int) -> None:
        """Gives back `count` bytes that were taken."""
        self._held -= count


@dataclasses.dataclass(frozen=True)
class EncodedPicture:
    """An encoded picture.

    Attributes:
      encoded: the bytes of its file.
      pixels: how many decoding it makes.
    """

    encoded: bytes
    pixels: int


# A picture and its row [D], or the exception that the model raised for this picture.
Waiting = tuple[EncodedPicture, asyncio.Future]


class Batcher:
    """Collects pictures while the model is busy, and embeds them together once it is free.

    An asynchronous context manager: it works between entering and leaving. Leaving does not wait
    for a call of the model that has begun: nothing can stop it, and its rows are dropped.

    Attributes:
      budget: the memory of pictures until they are embedded; request bodies count towards it too.
    """

    def __init__(
        self,
        embed: Callable[[list[bytes]], np.ndarray],
        *,
        max_batch_size: int,
        max_batch_pixels: float,
        max_queue: int,
        max_queue_bytes: float,
        wait: float,
    ):
        """Describes the batches.

        Args:
          embed: encoded pictures to embeddings [B, D]; called in one thread of its own. Where it
            fails for several pictures, it is called again with each alone.
          max_batch_size: pictures in a batch.
          max_batch_pixels: pixels in a batch of several pictures, which bounds its memory.
          max_queue: pictures that may wait.
          max_queue_bytes: bytes of encoded pictures that are not embedded yet.
          wait: seconds that an idle model waits, after a first picture, for others.
        """
        self._embed = embed
        self._max_batch_size = max_batch_size
        self._max_batch_pixels = max_batch_pixels
        self._max_queue = max_queue
        self._wait = wait
        self.budget = MemoryBudget(max_queue_bytes)
        self._queue: collections.deque[Waiting] = collections.deque()
        self._arrived, self._enough = asyncio.Event(), asyncio.Event()
        self._executor = ThreadPoolExecutor(1, "model")

    async def __aenter__(self) -> "Batcher":
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._worker
        self._executor.shutdown(wait=False)

    def __len__(self) -> int:
        """Pictures that are waiting."""
        return len(self._queue)

    async def embed(self, pictures: Sequence[EncodedPicture]) -> Rows:
        """Embeds pictures, in batches with those of others.

        Cancelling it takes the pictures that are still waiting out of the queue.

        Returns:
          Each picture's embedding [D], or the exception that the model raised for it.

        Raises:
          QueueFullError: there is no room for all of them.
        """
        if len(self) + len(pictures) > self._max_queue:
            raise QueueFullError(
                f"the queue holds {len(self)} of {self._max_queue} pictures, and this request has "
                f"{len(pictures)}"
            )
        self.budget.take(sum(len(picture.encoded) for picture in pictures))
        loop = asyncio.get_running_loop()
        waiting = [(picture, loop.create_future()) for picture in pictures]
        self._queue.extend(waiting)
        self._arrived.set()
        if len(self) >= self._max_batch_size:
            self._enough.set()
        return await asyncio.gather(*(row for _, row in waiting))

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._queue:
                self._arrived.clear()
                self._enough.clear()
                await self._arrived.wait()
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._enough.wait(), self._wait)
            batch = self._take()
            encoded = [picture.encoded for picture, _ in batch]
            rows = await loop.run_in_executor(self._executor, self._rows, encoded)
            self.budget.give_back(sum(map(len, encoded)))
            for (_, awaited), row in zip(batch, rows, strict=True):
                if not awaited.done():  # cancelled where nobody waits for it any more
                    awaited.set_result(row)

    def _take(self) -> list[Waiting]:
        """The next batch; empty if nobody waits for any picture any more."""
        batch, pixels = [], 0
        while self._queue and len(batch) < self._max_batch_size:
            picture, row = self._queue[0]
            if row.done():
                self._queue.popleft()
                self.budget.give_back(len(picture.encoded))
                continue
            pixels += picture.pixels
            if batch and pixels > self._max_batch_pixels:
                break
            batch.append(self._queue.popleft())
        return batch

    def _rows(self, encoded: list[bytes]) -> Rows:
        if not encoded:
            return []
        try:
            return list(self._embed(encoded))
        except Exception as error:
            if len(encoded) == 1:
                return [error]
        return [self._rows([one])[0] for one in encoded]
