"""Bodies of requests while they arrive: their bytes count, and who is slow gives way."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator

from aiohttp import web

from la_tf.serving.batching import MemoryBudget, QueueFullError
from la_tf.serving.protocol import RequestError

# A body may be silent for so long, and so many bytes earn it another second, up to as much again.
_SILENT_SECONDS = 20.0
_BYTES_PER_SECOND = 25_000
# One that was silent for so long loses its place where there is none left for another.
_STALLED_SECONDS = 2.0


@dataclasses.dataclass(eq=False)
class _Arrival:
    """A body that has not arrived whole.

    Attributes:
      request: whose it is.
      held: bytes that it takes of the budget.
      heard: when its last bytes came, in the loop's time.
    """

    request: web.Request
    held: int
    heard: float

    def drop(self, error: RequestError) -> None:
        """Answers the request with an error, by whoever is reading the body."""
        self.request.content.set_exception(error)


class Bodies:
    """Reads bodies into memory that others share.

    What one address sends may take half of that, or one body of the largest size.
    """

    def __init__(self, budget: MemoryBudget, max_bytes: float):
        """Counts towards `budget`; a body has `max_bytes` at most."""
        self._budget = budget
        self._max_bytes = max_bytes
        self._share = max(max_bytes, budget.max_bytes / 2)
        self._arrivals: set[_Arrival] = set()

    def __bool__(self) -> bool:
        """Whether any body is arriving."""
        return bool(self._arrivals)

    def drop_all(self, error: RequestError) -> None:
        """Answers all requests whose bodies have not arrived with an error."""
        for arrival in self._arrivals:
            arrival.drop(error)

    @contextlib.asynccontextmanager
    async def received(self, request: web.Request) -> AsyncIterator[bytearray]:
        """The whole body of a request; it counts until the block ends.

        Raises:
          RequestError: the body is too large, too slow, or damaged.
          QueueFullError: there is no room for it.
        """
        if (request.content_length or 0) > self._max_bytes:
            raise self._too_large()  # before any of it is read
        loop = asyncio.get_running_loop()
        arrival, body = _Arrival(request, 0, loop.time()), bytearray()
        try:
            self._arrivals.add(arrival)
            try:
                await self._read(arrival, body)
            finally:
                self._arrivals.discard(arrival)
            yield body
        finally:
            self._budget.give_back(arrival.held)

    async def _read(self, arrival: _Arrival, body: bytearray) -> None:
        loop = asyncio.get_running_loop()
        too_slow = RequestError(408, "the body came too slowly: send it again.")
        until = loop.time() + _SILENT_SECONDS
        while True:
            timer = loop.call_at(until, arrival.drop, too_slow)
            try:
                chunk = await arrival.request.content.readany()
            except web.RequestPayloadError as error:
                raise RequestError(400, "the body is not what its headers say.") from error
            finally:
                timer.cancel()
            if not chunk:
                return
            if len(body) + len(chunk) > self._max_bytes:
                raise self._too_large()
            arrival.heard = loop.time()
            self._take(arrival, len(chunk))
            body += chunk
            earned = len(chunk) / _BYTES_PER_SECOND
            until = min(until + earned, loop.time() + _SILENT_SECONDS)

    def _take(self, arrival: _Arrival, count: int) -> None:
        client = arrival.request.remote
        own = sum(other.held for other in self._arrivals if other.request.remote == client)
        if own + count > self._share:
            raise QueueFullError(
                f"what is arriving from {client} holds {own / 1e6:.1f} of the "
                f"{self._share / 1e6:g} million bytes that one client may have"
            )
        while True:
            try:
                self._budget.take(count)
            except QueueFullError as full:
                if not self._drop_stalled(arrival.heard - _STALLED_SECONDS):
                    raise full
            else:
                break
        arrival.held += count

    def _drop_stalled(self, before: float) -> bool:
        """Drops the body that was silent for longest, if its last bytes came before a time."""
        stalled = [a for a in self._arrivals if a.held and a.heard <= before]
        if not stalled:
            return False
        first = min(stalled, key=lambda arrival: arrival.heard)
        self._budget.give_back(first.held)
        first.held = 0
        first.drop(
            RequestError(408, "the body came too slowly, and others needed its place: try again.")
        )
        return True

    def _too_large(self) -> RequestError:
        return RequestError(
            413,
            f"the body has more than {self._max_bytes / 1e6:g} million bytes: send fewer or "
            "smaller pictures.",
        )
