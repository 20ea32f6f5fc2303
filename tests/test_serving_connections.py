"""How many clients may be connected, and what bad HTTP is answered; no model is needed for that."""

import asyncio
import contextlib
import json
import logging
import os
import resource
import socket
import threading
import time

import pytest
from aiohttp import web

from la_tf.serving import connections
from la_tf.serving.connections import Connections


@contextlib.contextmanager
def room_for(count: int):
    """Leaves this process so many file descriptors for connections."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/dev/fd")) + connections._BACKLOG + connections._OTHER_FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + count, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


class Server:
    """A server in a thread that answers /, and /slow once `go` is called."""

    def __init__(self, most: int):
        self._most = most
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._go, self._stop, self._begun = asyncio.Event(), asyncio.Event(), asyncio.Event()
        with room_for(self._most):
            open_ones = Connections()
        app = web.Application(middlewares=[open_ones.at_work])
        app.router.add_get("/", self._answer)
        app.router.add_get("/slow", self._answer_late)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        listener = await open_ones.listen(runner.server, "127.0.0.1", 0)
        self.address = listener.sockets[0].getsockname()
        self._ready.set()
        await self._stop.wait()
        listener.close()
        await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        return web.Response(text="answered")

    async def _answer_late(self, request: web.Request) -> web.Response:
        self._begun.set()
        await self._go.wait()
        return web.Response(text="late")

    def go(self) -> None:
        self._loop.call_soon_threadsafe(self._go.set)

    def until_begun(self) -> None:
        asyncio.run_coroutine_threadsafe(self._begun.wait(), self._loop).result(30)

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *exception):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


@contextlib.contextmanager
def connected(server: Server, said: bytes = b""):
    with socket.create_connection(server.address, timeout=30) as connection:
        connection.sendall(said)
        yield connection


def answer(connection: socket.socket, said: bytes = b"") -> bytes:
    """The head of what comes, of a connection that may stay open."""
    connection.sendall(said)
    return connection.recv(4096)


GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def until_closed(connection: socket.socket, said: bytes = b"") -> bytes:
    connection.sendall(said)
    return b"".join(iter(lambda: connection.recv(4096), b""))


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_new_client_takes_the_place_of_the_one_that_was_idle_for_longest():
    with Server(most=5) as server, contextlib.ExitStack() as stack:
        first, *idle = [stack.enter_context(connected(server)) for _ in range(5)]
        assert b"200 OK" in answer(first, GET)  # now it was idle for less long than the others
        for gone in idle[:3]:
            new = stack.enter_context(connected(server))
            assert b"200 OK" in answer(new, GET)
            assert is_closed(gone)
        assert b"200 OK" in answer(first, GET)


def test_a_connection_at_work_is_not_closed_for_another():
    with Server(most=1) as server, connected(server, GET.replace(b"/", b"/slow", 1)) as busy:
        server.until_begun()
        for _ in range(3):
            with connected(server) as refused:
                assert is_closed(refused)
        server.go()
        assert b"200 OK" in answer(busy)


def test_four_times_as_many_clients_as_may_be_leave_it_answering():
    with Server(most=50) as server, contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(connected(server))
        with connected(server) as late:
            assert b"200 OK" in answer(late, GET)


@pytest.mark.parametrize("said", [b"", b"GET / HT", GET])
def test_a_connection_on_which_nothing_is_asked_is_closed(monkeypatch, said):
    monkeypatch.setattr(connections, "_IDLE_SECONDS", 0.05)
    with Server(most=5) as server, connected(server) as idle:
        received = until_closed(idle, said)
        assert received.endswith(b"answered") if said == GET else received == b""


BAD = [
    b"\x00\xff" * 99 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nno\r\n\r\n",
    b"GET / HTTP/1.1\r\nContent-Length: many\r\n\r\n",
    b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
]


@pytest.mark.parametrize("said", BAD)
def test_what_is_no_http_is_told_so_in_json(said):
    with Server(most=5) as server, connected(server, said) as connection:
        received = until_closed(connection)
        head, _, body = received.partition(b"\r\n\r\n")
        assert b" 400 " in head.splitlines()[0] and b"application/json" in head
        sentence = json.loads(body)["error"]
        assert sentence.startswith("this is no valid HTTP: ") and sentence.endswith(".")
        with connected(server) as other:
            assert b"200 OK" in answer(other, GET)


def test_without_file_descriptors_clients_wait_and_one_line_says_so(caplog):
    with Server(most=5) as server, caplog.at_level(logging.WARNING):
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket() as waiting:
            os.close(free := os.dup(0))  # the next that anybody would get
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
            try:
                waiting.settimeout(30)
                waiting.connect(server.address)
                waiting.sendall(GET)
                for _ in range(3000):
                    if caplog.messages:
                        break
                    time.sleep(0.01)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            assert b"200 OK" in answer(waiting)
    assert caplog.messages == ["new clients wait, now and whenever it is so: Too many open files."]
