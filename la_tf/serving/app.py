"""The routes of the server, and its answers to requests that fail."""

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from aiohttp import web

from la_tf.data.image_headers import PictureError, count_pixels
from la_tf.serving import protocol
from la_tf.serving.batching import Batcher, EncodedPicture, QueueFullError
from la_tf.serving.bodies import Bodies
from la_tf.serving.connections import error_as_json
from la_tf.serving.protocol import Predict, RequestError
from la_tf.serving.served_model import ServedModel

_LOG = logging.getLogger(__name__)
_RETRY_SECONDS = 1
_LAST_SECONDS = 1.0  # for requests that are still arriving when the server shuts down

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the server takes at a time.

    Attributes:
      max_batch_size: pictures that the model embeds together.
      batch_wait_ms: milliseconds that an idle model waits for further pictures.
      max_queue: pictures that may wait for the model.
      max_queue_mb: millions of bytes in the bodies that are being read and in the pictures that
        are not embedded yet.
      max_megapixels: of one picture, and of a batch of several; decoding and resizing a picture
        takes some 20 bytes a pixel.
      max_request_mb: millions of bytes in the body of a request.
    """

    max_batch_size: int = 16
    batch_wait_ms: float = 0.0
    max_queue: int = 256
    max_queue_mb: float = 256.0
    max_megapixels: float = 50.0
    max_request_mb: float = 32.0


class Api:
    """The calls of TensorFlow Serving's REST form, for one version of one model."""

    def __init__(self, model: ServedModel, name: str, limits: Limits):
        """Takes a loaded model and the name under which clients call it."""
        self._model = model
        self._name = name
        self._limits = limits
        self._parser = ThreadPoolExecutor(1, "parser")  # the loop answers others meanwhile
        self._batcher = Batcher(
            model.embed,
            max_batch_size=limits.max_batch_size,
            max_batch_pixels=limits.max_megapixels * 1e6,
            max_queue=limits.max_queue,
            max_queue_bytes=limits.max_queue_mb * 1e6,
            wait=limits.batch_wait_ms / 1000,
        )
        self._bodies = Bodies(self._batcher.budget, limits.max_request_mb * 1e6)

    def application(self) -> web.Application:
        """The application with all routes."""
        app = web.Application(middlewares=[self._errors_as_json])
        app.cleanup_ctx.append(self._batching)
        app.on_shutdown.append(self._stop_reading)
        app.router.add_get("/healthz", self.health)
        # `[^/:]` keeps the colon of a call out of the name before it.
        model = "/v1/models/{name:[^/:]+}"
        for path in (model, model + "/versions/{version:[^/:]+}"):
            app.router.add_get(path, self.status)
            app.router.add_get(f"{path}/metadata", self.metadata)
            app.router.add_post(f"{path}:predict", self.predict, expect_handler=_expect)
        return app

    async def health(self, request: web.Request) -> web.Response:
        """Whether the server answers, and how many pictures are waiting."""
        return web.json_response({"status": "ok", "queued": len(self._batcher)})

    async def status(self, request: web.Request) -> web.Response:
        """The versions of the model."""
        self._require_model(request)
        return web.json_response(protocol.status(self._model.version))

    async def metadata(self, request: web.Request) -> web.Response:
        """The signature of the model."""
        self._require_model(request)
        model = self._model
        signatures = {model.kind.signature: model.signature}
        return web.json_response(protocol.metadata(self._name, model.version, signatures))

    async def predict(self, request: web.Request) -> web.Response:
        """Embeds or classifies pictures."""
        self._require_model(request)
        call, pictures = await self._receive(request)
        rows = await self._batcher.embed(pictures)
        for i, row in enumerate(rows):
            if isinstance(row, PictureError):
                raise RequestError(400, f"{call.name(i)} {row}.") from row
            if isinstance(row, Exception):
                raise row
        names = self._model.class_names
        return web.json_response(protocol.predictions(np.stack(rows), call.columnar, names))

    async def _batching(self, app: web.Application) -> AsyncIterator[None]:
        async with self._batcher:
            yield
        self._parser.shutdown(wait=False)

    async def _stop_reading(self, app: web.Application) -> None:
        """Refuses requests that are still arriving: a slow client could hold up the shutdown."""
        if self._bodies:
            await asyncio.sleep(_LAST_SECONDS)
        self._bodies.drop_all(RequestError(503, "the server is ending: ask another one."))

    def _require_model(self, request: web.Request) -> None:
        name, version = request.match_info["name"], request.match_info.get("version")
        if name != self._name:
            raise RequestError(404, f"there is no model {name!r}: this server has {self._name!r}.")
        if version not in (None, self._model.version):
            raise RequestError(
                404, f"there is no version {version!r}: this server has {self._model.version!r}."
            )

    async def _receive(self, request: web.Request) -> tuple[Predict, list[EncodedPicture]]:
        """Reads and parses a body."""
        if "Content-Encoding" in request.headers:
            raise RequestError(
                415,
                f"the body is encoded as {request.headers['Content-Encoding']!r}: send it as it "
                "is, without Content-Encoding.",
            )
        async with self._bodies.received(request) as body:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._parser, self._parse, body)

    def _parse(self, body: bytearray) -> tuple[Predict, list[EncodedPicture]]:
        served = self._model.kind.signature
        call = protocol.parse_predict(body, self._limits.max_queue, served)
        pictures = []
        for i, encoded in enumerate(call.pictures):
            try:
                pixels = count_pixels(encoded, self._limits.max_megapixels)
            except PictureError as error:
                raise RequestError(400, f"{call.name(i)} {error}.") from error
            pictures.append(EncodedPicture(encoded, pixels))
        return call, pictures

    @web.middleware
    async def _errors_as_json(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except RequestError as error:
            return error_as_json(error.status, str(error))
        except QueueFullError as error:
            again = {"Retry-After": str(_RETRY_SECONDS)}
            return error_as_json(503, f"{error}: try again later.", again)
        except web.HTTPMethodNotAllowed as error:
            allowed = ", ".join(sorted(error.allowed_methods))
            sentence = f"{request.method} is not allowed at {request.path}: use {allowed}."
            return error_as_json(405, sentence, {"Allow": allowed})
        except web.HTTPNotFound:
            return error_as_json(
                404, f"there is nothing at {request.path}: see /v1/models/{self._name}/metadata."
            )
        except ConnectionError:
            raise  # the client is gone: there is nobody to answer
        except Exception:
            _LOG.exception("an error of the server, answered with 500")
            return error_as_json(500, "the server failed to answer this request; its log says why.")


async def _expect(request: web.Request) -> web.Response | None:
    """Tells a client that asks first to send its body."""
    if request.headers["Expect"].lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None
    return error_as_json(
        417, "the only Expect that is served is 100-continue: leave the header out."
    )
