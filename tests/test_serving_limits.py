"""What a client may take of the server, and how the server ends, as a process of its own."""

import gzip
import http.client
import pathlib
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from serving_client import (
    GOOD,
    PREDICT,
    Client,
    embeddings,
    export_untrained,
    rows_of,
    serving,
    white_png,
)

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """Folder of an export of an untrained network."""
    return export_untrained(tmp_path_factory.mktemp("serving") / "export")


@pytest.fixture(scope="module")
def expected(export):
    return embeddings(export, GOOD)


def until_queued(client: Client, count: int) -> None:
    for _ in range(500):
        if client.ask("GET", "/healthz")[1]["queued"] == count:
            return
        time.sleep(0.01)
    raise AssertionError(f"never {count} pictures in the queue")


def test_a_full_queue_refuses_and_a_signal_answers_what_it_holds(start_tool, export, expected):
    # Two that take a moment to decode, each a batch of its own.
    slow = rows_of(*[white_png(5000, 5000)] * 2)
    with (
        serving(start_tool, export, "--max_queue=4", "--max_megapixels=30") as (process, address),
        ThreadPoolExecutor(2) as pool,
    ):
        health, client = Client(address), Client(address)
        first = pool.submit(Client(address).ask, "POST", PREDICT, slow)
        until_queued(health, 1)
        second = pool.submit(Client(address).ask, "POST", PREDICT, rows_of(*GOOD[:3]))
        until_queued(health, 4)
        status, told, headers = client.ask("POST", PREDICT, rows_of(GOOD[0]))
        assert (status, headers["Retry-After"]) == (503, "1")
        assert told["error"] == (
            "the queue holds 4 of 4 pictures, and this request has 1: try again later."
        )
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        assert first.result()[0] == 200
        np.testing.assert_allclose(second.result()[1]["predictions"], expected[:3], atol=1e-5)
        assert process.wait(30) == 0
        assert time.monotonic() - started < 8
        with pytest.raises(ConnectionRefusedError):
            Client(address).ask("GET", "/healthz")


def test_no_body_keeps_others_waiting(start_tool, export):
    # Each within the default limits: parsed or unpacked, they would hold up everybody for seconds.
    values = b"[[" + b"[]," * 10_000_000 + b"[]]]"
    digits = b'{"instances": [{"b64": "' + b"A" * 31_000_000 + b'"}]}'
    packed = gzip.compress(values, 1)
    with (
        serving(start_tool, export) as (_, address),
        ThreadPoolExecutor(1) as pool,
    ):

        def send():
            for body, headers, code in (
                (values, {}, 400),
                (digits, {}, 400),
                (packed, {"Content-Encoding": "gzip"}, 415),
            ):
                connection = http.client.HTTPConnection(address, timeout=60)
                connection.request("POST", PREDICT, body, headers)
                assert connection.getresponse().status == code

        health, longest, sent = Client(address), 0.0, pool.submit(send)
        while not sent.done():
            started = time.monotonic()
            assert health.ask("GET", "/healthz")[0] == 200
            longest = max(longest, time.monotonic() - started)
            time.sleep(0.005)
        sent.result()
    assert longest < 1.0


def test_bodies_that_are_being_read_take_of_the_queue(start_tool, export, expected):
    flags = ("--max_queue_mb=1", "--max_request_mb=1")
    with serving(start_tool, export, *flags) as (_, address):
        body = b" " * 12_000 + rows_of(GOOD[0])
        for _ in range(10):  # whichever of the two is read first has the room
            slow = Client(address).connection
            slow.putrequest("POST", PREDICT)
            slow.putheader("Content-Length", "999999")
            slow.endheaders(b" " * 990_000)
            time.sleep(0.5)
            status, told, headers = Client(address).ask("POST", PREDICT, body)
            if status == 503:
                break
            slow.close()
        assert (status, headers["Retry-After"]) == (503, "1")
        assert "of 1 million bytes" in told["error"]
        slow.close()
        for _ in range(100):
            if (found := Client(address).ask("POST", PREDICT, body))[0] == 200:
                break
            time.sleep(0.05)
        np.testing.assert_allclose(found[1]["predictions"], expected[:1], atol=1e-5)


# The tool with a model that takes an hour, and less time to end in than it has otherwise.
STUCK = """
import runpy, sys, time
from la_tf.serving import model, server
from la_tf.serving.model import ServedModel
model.load_model = lambda folder: ServedModel("1", {}, lambda pictures: time.sleep(3600))
server._SHUTDOWN_SECONDS = 1.0
sys.path.insert(0, "tools")
sys.argv = ["serve.py", "--export_dir=none", "--port=0"]
runpy.run_path("tools/serve.py", run_name="__main__")
"""


def test_a_model_that_is_stuck_does_not_keep_the_server_from_ending():
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        address = process.stdout.readline().split("http://")[1].split("/")[0]
        client = Client(address)
        client.connection.request("POST", PREDICT, rows_of(GOOD[0]))
        time.sleep(1)  # for the model to begin with it
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.communicate()


def test_ctrl_c_ends_it_though_a_client_stays_connected_and_another_never_ends(start_tool, export):
    with serving(start_tool, export) as (process, address):
        idle, endless = Client(address), Client(address)
        assert idle.ask("GET", "/healthz")[0] == 200
        endless.connection.putrequest("POST", PREDICT)
        endless.connection.putheader("Content-Length", "1000")
        endless.connection.endheaders(b"{")
        time.sleep(0.3)  # for the server to begin with it
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
