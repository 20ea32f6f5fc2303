"""Connections of clients: how many there may be, which one is closed for another, bad HTTP."""

import asyncio
import errno
import logging
import os
import resource
from collections.abc import Awaitable, Callable

from aiohttp import web

_LOG = logging.getLogger(__name__)
_IDLE_SECONDS = 60.0  # until a connection is closed on which nothing is asked
_MOST = 1000
_BACKLOG, _OTHER_FILES = 100, 32  # how many are accepted before any of them is looked at
# What accepting a connection may fail by; asyncio then tries again after a second.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def error_as_json(
    status: int, sentence: str, headers: dict[str, str] | None = None
) -> web.Response:
    """An error in the form of TensorFlow Serving, {"error": sentence}."""
    return web.json_response({"error": sentence}, status=status, headers=headers)


class Connections:
    """The open connections, no more than this process has file descriptors for.

    Another one takes the place of the one that was idle for longest; where all are at work it is
    closed at once.
    """

    def __init__(self):
        """Counts the descriptors that are left."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        left = soft - len(os.listdir("/dev/fd")) - _BACKLOG - _OTHER_FILES
        self._most = max(1, min(_MOST, left))
        self._all: set[_Connection] = set()
        self._idle: dict[_Connection, None] = {}  # in the order in which they became so
        self._told = False

    async def listen(self, server: web.Server, host: str, port: int) -> asyncio.Server:
        """Takes connections for a server.

        Raises:
          OSError, OverflowError, UnicodeError: it cannot listen there.
        """
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._explain)
        return await loop.create_server(
            lambda: _Connection(self, server, loop), host, port, backlog=_BACKLOG
        )

    @web.middleware
    async def at_work(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        """Keeps a connection from being closed while its request is answered."""
        connection = request.protocol
        self._idle.pop(connection, None)
        try:
            return await handler(request)
        finally:
            if connection in self._all:
                self._idle[connection] = None

    def opened(self, connection: "_Connection") -> None:
        """Takes a new connection in, or closes it."""
        if len(self._all) >= self._most:
            next(iter(self._idle), connection).force_close()
        self._all.add(connection)
        self._idle[connection] = None

    def closed(self, connection: "_Connection") -> None:
        """Forgets a connection."""
        self._all.discard(connection)
        self._idle.pop(connection, None)

    def _explain(self, loop: asyncio.AbstractEventLoop, context: dict) -> None:
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in _EXHAUSTED):
            loop.default_exception_handler(context)
        elif not self._told:
            self._told = True
            _LOG.warning("new clients wait, now and whenever it is so: %s.", error.strerror)


class _Connection(web.RequestHandler):
    __slots__ = ("_connections",)

    def __init__(self, connections: Connections, server: web.Server, loop):
        super().__init__(
            server,
            loop=loop,
            access_log=None,
            # A small body could unpack to a huge one, and block the loop meanwhile.
            auto_decompress=False,
            keepalive_timeout=_IDLE_SECONDS,
        )
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connections.opened(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.closed(self)
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers what is no HTTP, before there is a request for the application."""
        super().handle_error(request, status, exc, message)  # raises where it is too late
        reason = (message or "").partition("\n")[0].strip().rstrip(".:")
        answer = error_as_json(status, f"this is no valid HTTP: {reason}.")
        answer.force_close()
        return answer
