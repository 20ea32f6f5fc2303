"""Serves an export over HTTP, in the REST form of TensorFlow Serving.

  python tools/serve.py --export_dir=RUN/export

  POST /v1/models/embedding:predict   {"instances": [{"b64": "..."}, ...]} -> {"predictions": ...}
  GET  /v1/models/embedding           status; /v1/models/embedding/metadata: the signature
  GET  /healthz                       whether it answers

The export of tools/classify.py, RUN/classifier/export, is the model `classifier`: it predicts the
scores of classes. Requests that come together are answered together. Ctrl-C, SIGTERM or SIGHUP
answers what was accepted and ends it. There is no encryption and no password: to be reached from
elsewhere, put a proxy in front that has them.
"""

import math
import os
import re
import sys
from dataclasses import fields

import command_line
from absl import flags

from la_tf.serving import last_words

_EXPORT_DIR = flags.DEFINE_string("export_dir", None, "A SavedModel, or a run's folder export.")
_MODEL_NAME = flags.DEFINE_string(
    "model_name", None, "What clients call the model; default embedding, or classifier for one."
)
_HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "Address to listen at; the default is reached from this machine alone."
)
_PORT = flags.DEFINE_integer(
    "port", 8501, "Port to listen at; 0 takes a free one.", lower_bound=0, upper_bound=65535
)
flags.DEFINE_integer(
    "max_batch_size",
    16,
    "Pictures that are embedded together.",
    lower_bound=1,
    upper_bound=10**6,
)
_BATCH_WAIT_MS = flags.DEFINE_float(
    "batch_wait_ms",
    0.0,
    "Milliseconds that an idle model waits for further pictures; a busy one collects them anyway.",
    lower_bound=0,
    upper_bound=60_000,
)
flags.DEFINE_integer(
    "max_queue",
    256,
    "Pictures that may wait, and that a request may have.",
    lower_bound=1,
    upper_bound=10**6,
)
_MAX_QUEUE_MB = flags.DEFINE_float(
    "max_queue_mb",
    256.0,
    "Millions of bytes in what is read and what waits; at least --max_request_mb.",
    lower_bound=0.001,
    upper_bound=100_000,
)
_MAX_MEGAPIXELS = flags.DEFINE_float(
    "max_megapixels",
    50.0,
    "Millions of pixels in a picture, and in a batch of several.",
    lower_bound=0.001,
    upper_bound=170,
)
_MAX_REQUEST_MB = flags.DEFINE_float(
    "max_request_mb", 32.0, "Millions of bytes in a request.", lower_bound=0.001, upper_bound=1000
)
for _flag in (_BATCH_WAIT_MS, _MAX_QUEUE_MB, _MAX_MEGAPIXELS, _MAX_REQUEST_MB):
    # NaN is within all bounds.
    flags.register_validator(_flag, math.isfinite, "give a number")


def main() -> None:
    """Serves until a signal."""
    command_line.parse(sys.argv, __doc__)
    if _EXPORT_DIR.value is None:
        command_line.fail("give --export_dir, the export to serve.")
    if not re.fullmatch(r"[\w.-]+", _MODEL_NAME.value or "default"):
        command_line.fail("--model_name takes letters, digits, '.', '_' and '-'.")
    if not _HOST.value:
        command_line.fail("--host is empty: name an address, 0.0.0.0 for all of this machine's.")
    if _MAX_QUEUE_MB.value < _MAX_REQUEST_MB.value:
        command_line.fail("--max_queue_mb is below --max_request_mb: raise it, or lower the other.")
    with last_words.of_libraries():
        _serve()
    # All requests have been answered. A normal exit would wait for pictures still being decoded.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _serve() -> None:
    # TensorFlow takes seconds to import: only once the flags are known to be right.
    from la_tf.embedding.embedding_model import EMBEDDING
    from la_tf.serving.app import Api, Limits
    from la_tf.serving.served_model import load_model
    from la_tf.serving.server import serve

    # A flag has the name of the limit that it sets.
    limits = Limits(**{field.name: flags.FLAGS[field.name].value for field in fields(Limits)})
    model = load_model(_EXPORT_DIR.value)
    name = _MODEL_NAME.value or model.kind.name
    # As TensorFlow Serving wants it for any other signature than that of embeddings.
    named = "" if model.kind is EMBEDDING else f'"signature_name": "{model.kind.signature}", '
    body = f'{{{named}"instances": [{{"b64": "$(base64 < FILE.jpg)"}}]}}'.replace('"', '\\"')

    def ready(url: str) -> None:
        call = f"{url}/v1/models/{name}:predict"
        print(f"serving {_EXPORT_DIR.value} at {call}; Ctrl-C ends it. Try:")
        print(f'  echo "{body}" | curl -s -d @- {call}')

    serve(Api(model, name, limits), _HOST.value, _PORT.value, ready)


if __name__ == "__main__":
    command_line.run(main, again="starts anew")
