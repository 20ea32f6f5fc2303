"""TensorFlow Serving's REST form: what a request may be, and what is answered.

https://www.tensorflow.org/tfx/serving/api_rest
"""

import base64
import dataclasses
import json
import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np

SIGNATURE = "serving_default"
INPUT = "image_bytes"

# Brackets, braces and commas that a body may have: a picture needs three, and a few stand around
# them all. Base64 has none.
_MARKS_PER_PICTURE, _MARKS_AROUND = 4, 16
_EXAMPLE = '{"instances": [{"b64": "..."}]}'


class RequestError(ValueError):
    """A request that is not answered; the message tells the client why.

    Attributes:
      status: of HTTP.
    """

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


@dataclasses.dataclass(frozen=True)
class Predict:
    """A call of `predict`.

    Attributes:
      pictures: encoded, as they came.
      columnar: whether the request was in the form of columns.
    """

    pictures: list[bytes]
    columnar: bool

    def name(self, i: int) -> str:
        """What the request calls its i-th picture, counted from 0."""
        return f"inputs[{i}]" if self.columnar else f"instances[{i}]"


def parse_predict(body: bytes, max_instances: int, served: str = SIGNATURE) -> Predict:
    """Reads the body of a call of `predict`.

    The time it takes grows with the bytes of the body, not with what JSON could make of them.

    Args:
      body: JSON with `instances`, a list of {"b64": ...} or {"image_bytes": {"b64": ...}}, or with
        `inputs`, a list of {"b64": ...} or {"image_bytes": such a list}.
      max_instances: pictures that a call may have.
      served: the one signature that it may name; it need not name any.

    Raises:
      RequestError: it is something else.
    """
    request = _parse_json(body, max_instances)
    if not isinstance(request, dict):
        raise RequestError(400, f"the body is JSON but no object: send {_EXAMPLE}.")
    signature = request.get("signature_name", served)
    if signature != served:
        raise RequestError(
            400,
            f"signature_name is {reprlib.repr(signature)}: the only signature served is {served}.",
        )
    columnar = "inputs" in request
    if columnar == ("instances" in request):
        raise RequestError(400, f"give one of instances and inputs: send {_EXAMPLE}.")
    name = "inputs" if columnar else "instances"
    values = request[name]
    if columnar and isinstance(values, dict) and set(values) == {INPUT}:
        values = values[INPUT]
    if not isinstance(values, list):
        raise RequestError(400, f"{name} is no list of pictures: send {_EXAMPLE}.")
    if not values:
        raise RequestError(400, f"{name} is an empty list: send at least one picture.")
    if len(values) > max_instances:
        raise RequestError(
            400, f"{name} has {len(values)} pictures, {max_instances} are allowed: send fewer."
        )
    call = Predict([], columnar)
    for i, value in enumerate(values):
        if not columnar and isinstance(value, dict) and set(value) == {INPUT}:
            value = value[INPUT]
        call.pictures.append(_decode_base64(value, call.name(i)))
    return call


def predictions(
    rows: np.ndarray, columnar: bool, class_names: Sequence[str] | None = None
) -> dict[str, Any]:
    """The answer to a call of `predict`, from its embeddings [B, D] or scores of classes [B, C]."""
    answer = rows.tolist()
    if class_names is not None and columnar:
        answer = {"classes": [list(class_names)] * len(rows), "scores": answer}
    elif class_names is not None:
        answer = [{"classes": list(class_names), "scores": scores} for scores in answer]
    return {"outputs" if columnar else "predictions": answer}


def status(version: str) -> dict[str, Any]:
    """The answer to a status call, of a model that is loaded."""
    no_error = {"error_code": "OK", "error_message": ""}
    loaded = {"version": version, "state": "AVAILABLE", "status": no_error}
    return {"model_version_status": [loaded]}


def metadata(name: str, version: str, signatures: dict[str, Any]) -> dict[str, Any]:
    """The answer to a metadata call, from the served SignatureDefs in their JSON form, by name."""
    return {
        "model_spec": {"name": name, "signature_name": "", "version": version},
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


def _parse_json(body: bytes, max_instances: int) -> Any:
    # json.loads blocks all other threads, and takes seconds for millions of values.
    most = _MARKS_PER_PICTURE * max_instances + _MARKS_AROUND
    if sum(map(body.count, (b"[", b"{", b","))) > most:
        raise RequestError(
            400,
            f"the body has more values than {max_instances} pictures, which are allowed, can have: "
            f"send fewer, as {_EXAMPLE}.",
        )
    try:
        return json.loads(body)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        why, cause = str(error), error
    except ValueError as error:
        why, cause = "a number is too long", error
    except RecursionError as error:
        why, cause = "it is nested too deeply", error
    raise RequestError(400, f"the body is not JSON ({why}): send {_EXAMPLE}.") from cause


def _decode_base64(value: Any, name: str) -> bytes:
    if not (isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str)):
        raise RequestError(
            400, f'{name} is {reprlib.repr(value)}: a picture is {{"b64": "its bytes in base64"}}.'
        )
    try:
        return base64.b64decode(value["b64"], validate=True)
    except ValueError as error:
        raise RequestError(400, f"{name} is not base64: {error}.") from error
