"""The server from its start until a signal ends it."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from aiohttp import web

from la_tf.errors import UserError
from la_tf.serving.app import Api
from la_tf.serving.connections import Connections
from la_tf.stop_signals import stop_signals

_SHUTDOWN_SECONDS = 20.0  # to answer what is queued when a signal comes


class ServingError(UserError, RuntimeError):
    """A server that cannot start; the message says why and what to do."""


def serve(api: Api, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Answers requests until one of `stop_signals`, then those that were accepted, and returns.

    A call of the model that outlasts the shutdown is left to its thread, which keeps the
    interpreter from exiting: end the process with `os._exit`.

    Args:
      api: what is served.
      host: address to listen at.
      port: 0 takes one that is free.
      ready: called once with the server's URL when it listens.

    Raises:
      ServingError: it cannot listen there.
    """
    asyncio.run(_serve(api, host, port, ready))


async def _serve(api: Api, host: str, port: int, ready: Callable[[str], None]) -> None:
    # It logs a stack trace for every malformed request, of which the client is told anyway.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    stop = asyncio.Event()
    for number in stop_signals():
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    connections, app = Connections(), api.application()
    app.middlewares.insert(0, connections.at_work)
    # A picture whose client is gone leaves the queue.
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=_SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        try:
            listener = await connections.listen(runner.server, host, port)
        except (OSError, OverflowError, UnicodeError) as error:  # the last: of a host like "a..b"
            raise ServingError(
                f"cannot listen at {host}, port {port} ({error}): choose another --host or --port."
            ) from error
        with contextlib.closing(listener):
            ready(_url(*listener.sockets[0].getsockname()[:2]))
            await stop.wait()
    finally:
        await runner.cleanup()


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
