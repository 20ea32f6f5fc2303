"""What of a machine decides the last digits of what it computes, and how two machines differ in it.

A product of matrices is a sum, and how a library orders and rounds it depends on the instructions
of the processor and on the number of threads. Training turns last digits into other trajectories.
"""

import os
import pathlib
import platform
from typing import Any

# By which TensorFlow (oneDNN, Eigen), OpenBLAS and Faiss choose their kernels.
_INSTRUCTION_SETS = (
    *("fma", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_bf16", "asimd", "sve", "sve2", "bf16"),
)
# What people set to have other kernels or numbers of threads than those.
_SETTINGS = (
    "NPY_DISABLE_CPU_FEATURES",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "OMP_NUM_THREADS",
    "OPENBLAS_CORETYPE",
    "OPENBLAS_NUM_THREADS",
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_NUM_INTEROP_THREADS",
    "TF_NUM_INTRAOP_THREADS",
)
_WORDS = {
    "cpu": "processor",
    "cpu_instructions": "instruction sets",
    "cpu_cores": "cores",
    "cpu_settings": "settings",
    "gpus": "GPUs",
}


def describe() -> dict[str, Any]:
    """The processor: its name, instruction sets, cores, and settings that limit their use."""
    cpuinfo = _read_cpuinfo()
    flags = (cpuinfo.get("flags") or cpuinfo.get("Features") or "").split()
    return {
        "cpu": cpuinfo.get("model name") or platform.processor(),
        "cpu_instructions": [name for name in _INSTRUCTION_SETS if name in flags],
        "cpu_cores": len(os.sched_getaffinity(0)),
        "cpu_settings": [f"{name}={os.environ[name]}" for name in _SETTINGS if name in os.environ],
    }


def multiplies_bfloat16(environment: dict[str, Any]) -> bool:
    """Whether a run in this environment trains on a processor with products of bfloat16."""
    limited = any(s.startswith("ONEDNN_MAX_CPU_ISA=") for s in environment["cpu_settings"])
    able = {"avx512_bf16", "amx_bf16"} & {*environment["cpu_instructions"]}
    return bool(able) and not limited and not environment["gpus"]


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """In words, what of two environments makes the same code round in another way.

    Args:
      before: what `runtime.environment` has said, or an earlier version of it: what it lacks is
        not compared.
      now: what it says today.

    Returns:
      A phrase each, such as "processor A, now B"; none where bits agree.
    """
    return [
        f"{words} {_plain(before[name])}, now {_plain(now[name])}"
        for name, words in _WORDS.items()
        if name in before and before[name] != now[name]
    ]


def _plain(value: Any) -> str:
    return (" ".join(value) or "none") if isinstance(value, list) else str(value)


def _read_cpuinfo() -> dict[str, str]:
    """What Linux says of the first core; nothing elsewhere."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    fields = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields
