"""Embeddings a second and latency over HTTP, compared with the SavedModel called in process."""

import base64
import contextlib
import http.client
import itertools
import json
import time
import urllib.parse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

import numpy as np

from la_tf.benchmark.process import in_process
from la_tf.benchmark.timing import Row, repeat, with_results
from la_tf.data.sources import open_source
from la_tf.embedding.embedding_model import EmbeddingError
from la_tf.serving.app import Api, Limits
from la_tf.serving.served_model import load_model
from la_tf.serving.server import serve

_MODEL = "embedding"
_TOGETHER = 16  # pictures in a large batch, and clients at a time


def measure(
    export_dir: str, data: str = "digits", pictures: int = 256, repetitions: int = 5
) -> list[Row]:
    """Times an export called in process, at batch 1 and 16, and served, to 1 and 16 clients.

    A client sends one picture a request, over one connection, and waits for the answer. Server and
    clients are two processes on this machine, and share its cores.

    Args:
      export_dir: a SavedModel, or a folder of numbered ones.
      data: images, as training takes them; the first ones are embedded.
      pictures: embeddings in a repetition.
      repetitions: how often, each of all four in turn.

    Returns:
      A row each, whose note gives the median and the 99th percentile of the latencies of its
      calls. The floor of a served row is the batch of as many pictures as there are clients.

    Raises:
      EmbeddingError: the export cannot be served.
      ValueError: the server ended.
      DataError: there are no such images.
    """
    source = open_source(data)
    encoded = [source.read(i % len(source)) for i in range(pictures)]
    embed = load_model(export_dir).embed
    bodies = [
        json.dumps({"instances": [{"b64": base64.b64encode(picture).decode()}]}).encode()
        for picture in encoded
    ]
    with in_process(_serve, export_dir) as wait_for_url:
        url = wait_for_url()
        functions, latencies = with_results(
            {
                "in process, batch 1": lambda: _call_in_process(embed, encoded, 1),
                f"in process, batch {_TOGETHER}": lambda: _call_in_process(
                    embed, encoded, _TOGETHER
                ),
                "served, 1 client": lambda: _call_server(url, bodies, 1),
                f"served, {_TOGETHER} clients": lambda: _call_server(url, bodies, _TOGETHER),
            }
        )
        seconds = repeat(functions, repetitions)
    names = list(functions)
    floors = dict(zip(names[2:], names[:2], strict=True))
    return [
        Row(name, seconds[name], floors.get(name), pictures, _percentiles(latencies[name][1:]))
        for name in names
    ]


def _percentiles(latencies: list[list[float]]) -> str:
    median, high = 1000 * np.percentile(np.concatenate(latencies), [50, 99])
    return f"p50 {median:.1f} ms, p99 {high:.1f} ms"


def _call_in_process(
    embed: Callable[[list[bytes]], np.ndarray], encoded: list[bytes], size: int
) -> list[float]:
    latencies = []
    for i in range(0, len(encoded), size):
        started = time.perf_counter()
        embed(encoded[i : i + size])
        latencies.append(time.perf_counter() - started)
    return latencies


def _call_server(url: str, bodies: list[bytes], clients: int) -> list[float]:
    with ThreadPoolExecutor(clients) as pool:
        shares = [bodies[i::clients] for i in range(clients)]
        of_clients = pool.map(lambda share: _client(url, share), shares)
        return list(itertools.chain.from_iterable(of_clients))


def _client(url: str, bodies: list[bytes]) -> list[float]:
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc)
    latencies = []
    with contextlib.closing(connection):
        for body in bodies:
            started = time.perf_counter()
            connection.request("POST", f"/v1/models/{_MODEL}:predict", body)
            response = connection.getresponse()
            answer = response.read()
            latencies.append(time.perf_counter() - started)
            if response.status != 200:
                raise EmbeddingError(f"the server answers {response.status}: {answer.decode()}")
    return latencies


def _serve(export_dir: str, connection: Connection) -> None:
    """Sends the server's URL once it listens."""
    serve(Api(load_model(export_dir), _MODEL, Limits()), "127.0.0.1", 0, connection.send)
