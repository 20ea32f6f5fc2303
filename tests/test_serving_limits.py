"""What a client may take of the server, and how the server ends, as a process of its own.

No test here looks at a clock: the server is held at one place while another thing happens.
"""

import contextlib
import fcntl
import gzip
import http.client
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import ROOT
from program_server import Program
from serving_client import (
    GOOD,
    PREDICT,
    Client,
    embeddings,
    export_untrained,
    rows_of,
    serving,
)

AN_HOUR = 3600


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """Folder of an export of an untrained network."""
    return export_untrained(tmp_path_factory.mktemp("serving") / "export")


@pytest.fixture(scope="module")
def expected(export):
    return embeddings(export, GOOD)


@pytest.fixture
def lock(tmp_path):
    """A file that is locked; `fcntl.flock(lock, fcntl.LOCK_UN)` lets the server go on."""
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


@contextlib.contextmanager
def serving_held(server, place: str, lock, export, *flags: str, seconds: int = AN_HOUR):
    """As `serving`, held at a place; whoever waited for its time to end would never end."""

    def start(name: str, *flags: str) -> Program:
        held = ROOT / "tests" / "held_server.py"
        return server.start(
            held, place, lock.name, seconds, ROOT / "tools" / f"{name}.py", *flags, cwd=ROOT
        )

    with serving(start, export, *flags) as found:
        yield found


def until_said(process: Program, word: str) -> str:
    """The rest of the next line of a server that begins with a word."""
    for line in process.stdout:
        if line.startswith(word):
            return line.removeprefix(word).strip()
    raise AssertionError(f"the server ended before it said {word!r}")


def until_queued(client: Client, count: int) -> None:
    for _ in range(6000):
        if client.ask("GET", "/healthz")[1]["queued"] == count:
            return
        time.sleep(0.01)
    raise AssertionError(f"never {count} pictures in the queue")


def until_refused(address: str) -> None:
    """Returns once a server has begun to end."""
    for _ in range(6000):
        try:
            Client(address).ask("GET", "/healthz")
        except ConnectionError:
            return
        time.sleep(0.01)
    raise AssertionError("the server goes on")


def test_a_full_queue_refuses_and_a_signal_answers_what_it_holds(
    program_server, lock, export, expected
):
    flags = ("--max_queue=4", "--max_batch_size=1")
    with (
        serving_held(program_server, "model", lock, export, *flags) as (process, address),
        ThreadPoolExecutor(2) as pool,
    ):
        health, client = Client(address), Client(address)
        first = pool.submit(Client(address).ask, "POST", PREDICT, rows_of(*GOOD[:2]))
        until_queued(health, 1)  # the model has the other
        second = pool.submit(Client(address).ask, "POST", PREDICT, rows_of(*GOOD[2:5]))
        until_queued(health, 4)
        status, told, headers = client.ask("POST", PREDICT, rows_of(GOOD[0]))
        assert (status, headers["Retry-After"]) == (503, "1")
        assert told["error"] == (
            "the queue holds 4 of 4 pictures, and this request has 1: try again later."
        )
        process.send_signal(signal.SIGTERM)
        until_refused(address)
        assert not first.done() and not second.done()
        fcntl.flock(lock, fcntl.LOCK_UN)
        answers = [row for asked in (first, second) for row in asked.result()[1]["predictions"]]
        np.testing.assert_allclose(answers, expected[:5], atol=1e-5)
        assert process.wait(120) == 0  # though two clients stay connected


def test_no_body_keeps_others_waiting(program_server, lock, export, expected):
    # Each within the default limits.
    values = b"[[" + b"[]," * 10_000_000 + b"[]]]"
    digits = b'{"instances": [{"b64": "' + b"A" * 31_000_000 + b'"}]}'
    with (
        serving_held(program_server, "parser", lock, export) as (process, address),
        ThreadPoolExecutor(3) as pool,
    ):
        health = Client(address)
        asked = [pool.submit(Client(address).ask, "POST", PREDICT, rows_of(GOOD[0]))]
        until_said(process, "begun")
        # However long it takes to parse one body, and while others wait for it to be done:
        asked += [pool.submit(Client(address).ask, "POST", PREDICT, b) for b in (values, digits)]
        assert health.ask("GET", "/healthz")[:2] == (200, {"status": "ok", "queued": 0})
        packed = {"Content-Encoding": "gzip"}
        health.connection.request("POST", PREDICT, gzip.compress(values, 1), packed)
        response = health.connection.getresponse()
        assert response.status == 415 and response.read()  # and nobody has unpacked it
        assert health.ask("GET", "/healthz")[0] == 200
        assert not any(answer.done() for answer in asked)
        fcntl.flock(lock, fcntl.LOCK_UN)
        (status, answer, _), *refused = [answer.result() for answer in asked]
        assert status == 200 and [status for status, *_ in refused] == [400, 400]
        np.testing.assert_allclose(answer["predictions"], expected[:1], atol=1e-5)


def test_bodies_that_are_being_read_take_of_the_queue(program_server, lock, export, expected):
    flags = ("--max_queue_mb=2", "--max_request_mb=1")
    with serving_held(program_server, "room", lock, export, *flags) as (process, address):
        body = b" " * 22_000 + rows_of(GOOD[0])
        silent = []
        for number, said in ((1, "of the 1 million bytes that one"), (2, "of 2 million bytes")):
            client = (f"127.0.0.{number}", 0)
            slow = http.client.HTTPConnection(address, source_address=client)
            slow.putrequest("POST", PREDICT)
            slow.putheader("Content-Length", "999999")
            slow.endheaders(b" " * 990_000)
            while int(until_said(process, "taken")) < 990_000 * number:
                pass
            silent.append(slow)
            # The first client has had all that it may have; then there is nothing for a third.
            asked = Client(address, source=f"127.0.0.{2 * number - 1}")
            status, told, headers = asked.ask("POST", PREDICT, body)
            assert (status, headers["Retry-After"]) == (503, "1") and said in told["error"]
        silent[0].close()
        for _ in range(6000):
            if (found := asked.ask("POST", PREDICT, body))[0] == 200:
                break
            time.sleep(0.01)
        np.testing.assert_allclose(found[1]["predictions"], expected[:1], atol=1e-5)


def test_a_model_that_is_stuck_does_not_keep_the_server_from_ending(program_server, lock, export):
    with serving_held(program_server, "model", lock, export, seconds=1) as (process, address):
        client = Client(address)
        client.connection.request("POST", PREDICT, rows_of(GOOD[0]))
        until_said(process, "begun")  # and nobody will let it end
        process.send_signal(signal.SIGHUP)
        assert process.wait(120) == 0


def test_ctrl_c_ends_it_though_a_client_stays_connected_and_another_never_ends(
    program_server, lock, export
):
    with serving_held(program_server, "nothing", lock, export) as (process, address):
        idle, endless = Client(address), Client(address)
        assert idle.ask("GET", "/healthz")[0] == 200
        endless.connection.putrequest("POST", PREDICT)
        endless.connection.putheader("Content-Length", "1000")
        endless.connection.putheader("Expect", "100-continue")
        endless.connection.endheaders()
        assert endless.connection.sock.recv(99).startswith(b"HTTP/1.1 100")  # it has begun with it
        endless.connection.send(b"{")
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0
