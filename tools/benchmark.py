"""Times the parts of the method, each beside a floor measured in the same process.

  python tools/benchmark.py --part=step
  python tools/benchmark.py --part=step,clustering,input,train,scaling --json=RESULTS.json
  python tools/benchmark.py --part=serve --export_dir=RUN/export

step: objective and memory bank, beside the product of a batch with the bank. clustering: beside
plain Faiss. input: beside Pillow in worker processes. train: whole steps, beside supervised ones.
scaling: 1, 2 and 4 logical devices. serve: over HTTP, beside the SavedModel called in process.

Run nothing else meanwhile. Compare the ratios: a row and its floor are timed in turns, so that a
slow moment affects both.
"""

import dataclasses
import json
import pathlib
import re
import sys

import command_line
import config_flags
from absl import flags

_PARTS = ("step", "clustering", "input", "train", "scaling", "serve")

_PART = flags.DEFINE_list("part", ["step"], f"What to time, of {', '.join(_PARTS)}.")
_REPETITIONS = flags.DEFINE_integer(
    "repetitions", 5, "Rounds that are timed.", lower_bound=1, upper_bound=10**6
)
_SIZES = flags.DEFINE_list(
    "sizes", ["50000", "200000", "1281167"], "step and train: N, images of the bank."
)
_BLOCK_SIZE = config_flags.define_option("block_size", 0, "step: as in training; a divisor of 128.")
_NETWORKS = flags.DEFINE_list(
    "networks", ["smallnet:32", "alexnet:224"], "train: NAME:IMAGE_SIZE of each."
)
_MIXED_PRECISION = flags.DEFINE_bool("mixed_precision", False, "train: as in training.")
_JIT_COMPILE = flags.DEFINE_bool("jit_compile", False, "train: as in training.")
_DATA = flags.DEFINE_string(
    "data", None, "input: a folder of photographs; serve: images. Default synthesised, digits."
)
_EXPORT_DIR = flags.DEFINE_string("export_dir", None, "serve: a SavedModel, or a run's export.")
_JSON = flags.DEFINE_string("json", None, "Also write all times, and the hardware, to this file.")


def main() -> None:
    """Times and prints each part."""
    command_line.parse(sys.argv, __doc__)
    if not _PART.value or set(_PART.value) - set(_PARTS):
        command_line.fail(f"--part takes one or more of {', '.join(_PARTS)}.")
    if "serve" in _PART.value and _EXPORT_DIR.value is None:
        command_line.fail("--part=serve needs --export_dir, the export to measure.")
    if _BLOCK_SIZE.value and 128 % _BLOCK_SIZE.value:
        command_line.fail(f"--block_size={_BLOCK_SIZE.value} is no divisor of the batch of 128.")
    if not all(_is_number(size, 128, 2**31 - 1) for size in _SIZES.value):
        command_line.fail("--sizes takes numbers of images, from 128 to 2147483647.")
    if not all(_is_number(n.rpartition(":")[2], 1, 4096) for n in _NETWORKS.value):
        command_line.fail("--networks takes NAME:IMAGE_SIZE, as in alexnet:224, of 4096 at most.")
    results = {}
    with command_line.failures_explained(ValueError):
        for part in _PART.value:
            results[part] = _measure(part)
            if _JSON.value is not None:
                _write(results)


def _is_number(text: str, low: int, high: int) -> bool:
    return re.fullmatch("[0-9]{1,10}", text) is not None and low <= int(text) <= high


def _measure(part: str) -> list:
    """Times one part and prints it."""
    # TensorFlow takes seconds to import: only once the flags are known to be right.
    from la_tf.benchmark import clustering, input, scaling, serve, step, timing, train
    from la_tf.config import NumericsConfig
    from la_tf.runs import runtime

    runtime.grow_gpu_memory()
    repetitions, sizes = _REPETITIONS.value, tuple(map(int, _SIZES.value))
    numerics = NumericsConfig(
        mixed_precision=_MIXED_PRECISION.value,
        jit_compile=_JIT_COMPILE.value,
        deterministic=not _JIT_COMPILE.value,
    )
    networks = [(n, int(side)) for n, _, side in (x.rpartition(":") for x in _NETWORKS.value)]
    tables = {
        "step": lambda: [step.measure(n, repetitions, _BLOCK_SIZE.value) for n in sizes],
        "clustering": lambda: [clustering.measure(repetitions=repetitions)],
        "input": lambda: [input.measure(_DATA.value, repetitions=repetitions)],
        "train": lambda: [
            train.measure(name, side, sizes, numerics, repetitions=repetitions)
            for name, side in networks
        ],
        "scaling": lambda: [scaling.measure(repetitions=repetitions)],
        "serve": lambda: [
            serve.measure(_EXPORT_DIR.value, _DATA.value or "digits", repetitions=repetitions)
        ],
    }[part]()
    unit = {"input": "images", "train": "images", "scaling": "images", "serve": "embeddings"}
    print(f"\n{part}")
    for rows in tables:
        print("\n".join(timing.table(rows, unit.get(part, ""))))
    return [row for rows in tables for row in rows]


def _write(results: dict[str, list]) -> None:
    from la_tf.runs import runtime

    record = {
        "environment": runtime.environment(),
        "seconds": {
            part: [dataclasses.asdict(row) for row in rows] for part, rows in results.items()
        },
    }
    pathlib.Path(_JSON.value).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    command_line.run(main, again="starts anew")
