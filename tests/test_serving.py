"""The server as a process of its own, driven over HTTP, against the SavedModel in this process."""

import collections
import gzip
import http.client
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from serving_client import (
    DIM,
    GOOD,
    PREDICT,
    Client,
    as_json,
    embeddings,
    export_untrained,
    rows_of,
    serving,
    white_png,
)

# It goes over its only scan again and again.
MANY_SCANS = GOOD[0][:-2] + GOOD[0][GOOD[0].index(b"\xff\xda") : -2] * 60 + GOOD[0][-2:]


# Method, path, body; status and words of the answer.
BAD = {
    "not JSON": ("POST", PREDICT, b"\xff\xd8\xff\xe0", 400, "not JSON"),
    "empty body": ("POST", PREDICT, b"", 400, "not JSON"),
    "empty list": ("POST", PREDICT, b'{"instances": []}', 400, "empty list"),
    "no base64": ("POST", PREDICT, b'{"instances": [{"b64": "***"}]}', 400, "not base64"),
    "no picture": ("POST", PREDICT, rows_of(GOOD[0], b"text"), 400, "instances[1] is no JPEG"),
    "cut JPEG": ("POST", PREDICT, rows_of(GOOD[0][:900]), 400, "instances[0] cannot be decoded"),
    "cut PNG": ("POST", PREDICT, rows_of(GOOD[1], GOOD[9][:900]), 400, "instances[1] cannot be"),
    "100 megapixels": ("POST", PREDICT, rows_of(white_png(10_000, 10_000)), 400, "100.0 megapixel"),
    "many scans": ("POST", PREDICT, rows_of(MANY_SCANS), 400, "has 61 scans, more than the 50"),
    "many values": ("POST", PREDICT, b"[" + b"0," * 999 + b"0]", 400, "values than 64 pictures"),
    "long number": ("POST", PREDICT, b"9" * 10_000, 400, "a number is too long"),
    "too many": ("POST", PREDICT, rows_of(*[GOOD[11]] * 65), 400, "65 pictures, 64 are allowed"),
    "too large": ("POST", PREDICT, b" " * 2_000_001, 413, "2 million bytes"),
    "other model": (
        "POST",
        "/v1/models/resnet:predict",
        rows_of(GOOD[0]),
        404,
        "no model 'resnet'",
    ),
    "other version": ("GET", "/v1/models/embedding/versions/2", None, 404, "no version '2'"),
    "other call": ("POST", "/v1/models/embedding:classify", b"{}", 404, "nothing at"),
    "other path": ("GET", "/", None, 404, "nothing at /"),
    "wrong method": ("GET", PREDICT, None, 405, "use POST"),
    "other signature": (
        "POST",
        PREDICT,
        b'{"signature_name": "images", "instances": [1]}',
        400,
        "serving_default",
    ),
}


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """Folder of an export of an untrained network."""
    return export_untrained(tmp_path_factory.mktemp("serving") / "export")


@pytest.fixture(scope="module")
def expected(export):
    return embeddings(export, GOOD)


@pytest.fixture(scope="module")
def address(start_tool, export):
    limits = ("--max_batch_size=8", "--max_queue=64", "--max_request_mb=2")
    with serving(start_tool, export, *limits, fresh=True) as (_, address):
        yield address


def drive(address: str, expected: np.ndarray, requests: int, clients: int) -> dict[str, int]:
    """Sends good and bad requests from several clients at once, and checks every answer.

    Of ten requests, six have one good picture, one has several, two are bad, and of one the client
    leaves without the answer. How many of each there were is returned.
    """
    bad = list(BAD.values())

    def client(number: int) -> collections.Counter:
        told, self = collections.Counter(), Client(address)
        for i in range(number, requests, clients):
            rng = np.random.default_rng(i)
            kind = rng.choice(["one", "several", "bad", "left"], p=[0.6, 0.1, 0.2, 0.1])
            chosen = rng.integers(0, len(GOOD), 1 if kind == "one" else rng.integers(2, 7))
            body = rows_of(*(GOOD[j] for j in chosen))
            if kind == "left":
                self.send_and_leave(body)
            elif kind == "bad":
                method, path, body, status, words = bad[rng.integers(len(bad))]
                found = self.ask(method, path, body)
                assert found[0] == status and words in found[1]["error"], (i, found)
            else:
                while (found := self.ask("POST", PREDICT, body))[0] == 503:
                    assert found[2]["Retry-After"] == "1"
                    told["asked again"] += 1
                    time.sleep(0.05)
                assert found[0] == 200, (i, found)
                np.testing.assert_allclose(
                    found[1]["predictions"], expected[chosen], atol=1e-5, err_msg=str(i)
                )
            told[str(kind)] += 1
        return told

    with ThreadPoolExecutor(clients) as pool:
        return dict(sum(pool.map(client, range(clients)), collections.Counter()))


def test_rows_and_columns_give_what_the_saved_model_gives(address, expected):
    client, encoded = Client(address), [as_json(one) for one in GOOD]
    for path in (PREDICT, "/v1/models/embedding/versions/1:predict"):
        for request, key in (
            ({"instances": encoded}, "predictions"),
            ({"instances": [{"image_bytes": one} for one in encoded]}, "predictions"),
            ({"signature_name": "serving_default", "inputs": encoded}, "outputs"),
            ({"inputs": {"image_bytes": encoded}}, "outputs"),
        ):
            status, answer, _ = client.ask("POST", path, json.dumps(request).encode())
            assert (status, list(answer)) == (200, [key])
            np.testing.assert_allclose(answer[key], expected, atol=1e-5)


def test_status_and_metadata_are_in_the_form_of_tensorflow_serving(address):
    client = Client(address)
    available = {"version": "1", "state": "AVAILABLE"}
    available["status"] = {"error_code": "OK", "error_message": ""}
    for path in ("/v1/models/embedding", "/v1/models/embedding/versions/1"):
        assert client.ask("GET", path)[:2] == (200, {"model_version_status": [available]})
    status, told, _ = client.ask("GET", "/v1/models/embedding/metadata")
    assert status == 200
    assert told["model_spec"] == {"name": "embedding", "signature_name": "", "version": "1"}
    served = told["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert served["method_name"] == "tensorflow/serving/predict"
    any_number = {"size": "-1", "name": ""}
    assert served["inputs"]["image_bytes"] == {
        "dtype": "DT_STRING",
        "tensor_shape": {"dim": [any_number], "unknown_rank": False},
        "name": "serving_default_image_bytes:0",
    }
    assert served["outputs"]["embedding"]["dtype"] == "DT_FLOAT"
    assert served["outputs"]["embedding"]["tensor_shape"] == {
        "dim": [any_number, {"size": str(DIM), "name": ""}],
        "unknown_rank": False,
    }
    assert client.ask("GET", "/healthz")[:2] == (200, {"status": "ok", "queued": 0})


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_answered_with_a_sentence_and_the_server_goes_on(address, expected, name):
    method, path, body, code, words = BAD[name]
    status, told, _ = Client(address).ask(method, path, body)
    assert (status, list(told)) == (code, ["error"])
    assert words in told["error"] and told["error"].endswith(".") and "\n" not in told["error"]
    answer = Client(address).ask("POST", PREDICT, rows_of(GOOD[0]))
    np.testing.assert_allclose(answer[1]["predictions"], expected[:1], atol=1e-5)


@pytest.mark.parametrize(
    "said", [b"\x00\xff" * 99 + b"\r\n\r\n", b"GET / HTTP/1.1\r\nno\r\n\r\n", b""]
)
def test_what_is_no_http_at_all(address, said):
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(said)
        if said:
            response = http.client.HTTPResponse(connection)
            response.begin()
            assert response.status == 400
            assert json.loads(response.read())["error"].startswith("this is no valid HTTP: ")
    assert Client(address).ask("GET", "/healthz")[0] == 200


@pytest.mark.parametrize(
    "headers, body, code",
    [
        ({"Transfer-Encoding": "chunked"}, [b" " * 500_000] * 5, 413),
        ({"Content-Encoding": "gzip"}, gzip.compress(rows_of(GOOD[0])), 415),
        ({"Content-Encoding": "deflate"}, b"no zlib", 415),
        ({"Expect": "tea"}, rows_of(GOOD[0]), 417),
    ],
)
def test_bodies_and_headers_that_are_not_served(address, headers, body, code):
    client = Client(address)
    body = iter(body) if isinstance(body, list) else body
    client.connection.request("POST", PREDICT, body, headers, encode_chunked=code == 413)
    response = client.connection.getresponse()
    assert (response.status, list(json.loads(response.read()))) == (code, ["error"])


def test_what_libjpeg_says_of_a_picture_is_not_on_the_console(address, expected):
    """The fixture sees that stderr stays empty."""
    start = GOOD[0].index(b"\xff\xda")
    padded = GOOD[0][:start] + bytes(9) + GOOD[0][start:]  # "Corrupt JPEG data", and yet whole
    status, told, _ = Client(address).ask("POST", PREDICT, rows_of(padded))
    assert status == 200
    np.testing.assert_allclose(told["predictions"], expected[:1], atol=1e-5)


def test_many_clients_at_once_get_what_they_asked_for(address, expected):
    told = drive(address, expected, requests=300, clients=16)
    assert sum(told.values()) - told.get("asked again", 0) == 300
    assert min(told[kind] for kind in ("one", "several", "bad", "left")) > 10


@pytest.mark.slow
def test_a_thousand_requests(start_tool, export, expected):
    limits = ("--max_batch_size=5", "--max_queue=64", "--max_request_mb=2", "--batch_wait_ms=3")
    with serving(start_tool, export, *limits) as (_, address):
        told = drive(address, expected, requests=1000, clients=16)
    assert sum(told.values()) - told.get("asked again", 0) == 1000


def test_a_client_may_ask_before_it_sends(address, expected):
    body, (host, port) = rows_of(GOOD[0]), address.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        head = f"POST {PREDICT} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
        connection.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert connection.recv(99) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        response = http.client.HTTPResponse(connection)
        response.begin()
        rows = json.loads(response.read())["predictions"]
    np.testing.assert_allclose(rows, expected[:1], atol=1e-5)


def test_a_host_that_is_no_address_is_refused(run_tool, export):
    code, out, err = run_tool("serve", f"--export_dir={export}", "--host=a..b", "--port=0")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("error: cannot listen at a..b")


def test_the_port_of_another_server_is_refused(run_tool, export, address):
    flags = (f"--export_dir={export}", f"--port={address.split(':')[1]}")
    code, out, err = run_tool("serve", *flags)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "address already in use" in err and "choose another --host or --port" in err


@pytest.mark.parametrize(
    "flags, words",
    [
        ([], "give --export_dir"),
        (["--export_dir="], "--export_dir is empty"),
        (["--export_dir=nowhere"], "nowhere holds no SavedModel"),
        (["--export_dir=x", "--model_name=a:b"], "--model_name takes letters"),
        (["--export_dir=x", "--host="], "--host is empty"),
        (["--export_dir=x", "--port=70000"], "port"),
        (["--export_dir=x", "--max_queue_mb=20"], "--max_queue_mb is below --max_request_mb"),
        *(
            (["--export_dir=x", f"--{flag}={value}"], flag)
            for flag in ("max_request_mb", "max_queue_mb", "max_megapixels", "batch_wait_ms")
            for value in ("nan", "inf")
        ),
    ],
)
def test_flags_that_make_no_sense_end_in_one_sentence(run_tool, flags, words):
    code, out, err = run_tool("serve", *flags)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("error: ") and words in err
