"""What is recorded of a processor, and when a run is told that it is on another one."""

import json
import os
import subprocess
import sys

import pytest

from la_tf.runs import processor

HERE = {
    "cpu": "AMD EPYC",
    "cpu_instructions": ["fma", "avx2", "avx512f"],
    "cpu_cores": 2,
    "cpu_settings": [],
    "gpus": [],
    "python": "3.11.1",
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({"python": "3.10.9"}, []),  # does not compute
        ({"cpu": "Intel Xeon"}, ["processor AMD EPYC, now Intel Xeon"]),
        (
            {"cpu_instructions": ["fma", "avx2"], "cpu_cores": 16},
            ["instruction sets fma avx2 avx512f, now fma avx2", "cores 2, now 16"],
        ),
        ({"cpu_settings": ["OMP_NUM_THREADS=1"]}, ["settings none, now OMP_NUM_THREADS=1"]),
        ({"gpus": ["Some GPU"]}, ["GPUs none, now Some GPU"]),
    ],
)
def test_what_changes_rounding_is_named(change, said):
    assert processor.differences(HERE, HERE | change) == said


@pytest.mark.parametrize(
    ("change", "able"),
    [
        ({}, False),
        ({"cpu_instructions": ["avx512f", "avx512_bf16"]}, True),
        ({"cpu_instructions": ["amx_tile", "amx_bf16"]}, True),
        ({"cpu_instructions": ["amx_bf16"], "cpu_settings": ["ONEDNN_MAX_CPU_ISA=AVX2"]}, False),
        ({"cpu_instructions": ["amx_bf16"], "gpus": ["Some GPU"]}, False),
    ],
)
def test_bfloat16_is_advised_where_the_processor_that_trains_multiplies_it(change, able):
    assert processor.multiplies_bfloat16(HERE | change) == able


def test_what_an_older_record_did_not_hold_is_not_compared():
    assert processor.differences({}, HERE) == []
    old = {"cpu": "Intel Xeon", "cpu_cores": 2}
    assert processor.differences(old, HERE) == ["processor Intel Xeon, now AMD EPYC"]


def described(**environment: str) -> dict:
    """What a fresh process on one core finds, without this one's settings."""
    code = "import json, os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
    code += "from la_tf.runs import processor; print(json.dumps(processor.describe()))"
    clean = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, env=clean | environment, capture_output=True, check=True)
    return json.loads(output.stdout)


def test_limits_that_somebody_has_set_and_cores_are_recorded():
    plain = described()
    assert (plain["cpu_settings"], plain["cpu_cores"]) == ([], 1)
    limited = described(ONEDNN_MAX_CPU_ISA="AVX2", OPENBLAS_CORETYPE="Haswell", OTHER="1")
    settings = ["ONEDNN_MAX_CPU_ISA=AVX2", "OPENBLAS_CORETYPE=Haswell"]
    assert limited == plain | {"cpu_settings": settings}


def test_instruction_sets_are_those_that_numpy_finds():
    from numpy.core._multiarray_umath import __cpu_features__ as found

    names = {"fma": "FMA3", "avx2": "AVX2", "avx512f": "AVX512F", "asimd": "ASIMD", "sve": "SVE"}
    recorded = processor.describe()["cpu_instructions"]
    for ours, numpys in names.items():
        if numpys in found:
            assert (ours in recorded) == found[numpys], ours
    assert recorded
