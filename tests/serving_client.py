"""An export, the server of it as a process, and a client: what the tests of the server share."""

import base64
import contextlib
import http.client
import io
import json
import pathlib
import signal

import numpy as np
import tensorflow as tf
from PIL import Image

from la_tf.export.saved_model import export_saved_model
from la_tf.networks import build_network

DIM = 8
PREDICT = "/v1/models/embedding:predict"


def picture(seed: int, name: str = "JPEG", mode: str = "RGB") -> bytes:
    rng, file = np.random.default_rng(seed), io.BytesIO()
    height, width = rng.integers(20, 90, 2)
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(file, name)
    return file.getvalue()


def white_png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, height), 255).save(file, "PNG")
    return file.getvalue()


GOOD = [picture(i, *form) for i, form in enumerate([("JPEG",)] * 8 + [("PNG",)] * 4)]
GOOD += [picture(20, "GIF"), picture(21, "BMP"), picture(22, "PNG", "L"), picture(23, "JPEG", "L")]


def as_json(encoded: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(encoded).decode()}


def rows_of(*pictures: bytes) -> bytes:
    return json.dumps({"instances": [as_json(one) for one in pictures]}).encode()


def export_untrained(folder: pathlib.Path) -> pathlib.Path:
    """Exports an untrained network to a folder, which is returned."""
    tf.keras.utils.set_random_seed(0)
    export_saved_model(build_network("smallnet", 32, DIM), "smallnet", 32, folder, GOOD[0])
    return folder


def embeddings(folder, pictures: list[bytes]) -> np.ndarray:
    """What the SavedModel gives in this process, for each picture alone."""
    signature = tf.saved_model.load(str(folder / "1")).signatures["serving_default"]
    rows = [signature(image_bytes=tf.constant([one]))["embedding"][0] for one in pictures]
    return np.stack(rows)


@contextlib.contextmanager
def serving(start_tool, folder, *flags: str, **options):
    """A server: its process, host and port. It must not have said anything on stderr."""
    process = start_tool("serve", f"--export_dir={folder}", "--port=0", *flags, **options)
    try:
        line = process.stdout.readline()
        assert line.startswith("serving "), line + process.stderr.read()
        address = line.split("http://")[1].split("/")[0]
        yield process, address
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()


class Client:
    """One connection, made again when the server has closed it."""

    def __init__(self, address: str, source: str = "127.0.0.1"):
        here = (source, 0)
        self.connection = http.client.HTTPConnection(address, timeout=300, source_address=here)

    def ask(self, method: str, path: str, body: bytes | None = None):
        self.connection.request(method, path, body)
        response = self.connection.getresponse()
        return response.status, json.loads(response.read()), response.headers

    def send_and_leave(self, body: bytes) -> None:
        self.connection.request("POST", PREDICT, body)
        self.connection.close()
