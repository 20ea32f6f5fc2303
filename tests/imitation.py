"""What another processor cannot do that is only imitated."""

import os

import pytest

# TensorFlow chooses oneDNN's bfloat16 kernels by what the processor has, and finds them missing.
needs_bfloat16 = pytest.mark.skipif(
    os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in ("SSE41", "AVX", "AVX2", "AVX2_VNNI"),
    reason="oneDNN is limited to AVX2, with which it has no bfloat16",
)
