"""What another processor cannot do that is only imitated."""

import os

import pytest

# TensorFlow chooses oneDNN's bfloat16 kernels by what the processor has, and finds them missing.
LIMITED = ("SSE41", "AVX", "AVX2", "AVX2_VNNI")
has_bfloat16 = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() not in LIMITED
needs_bfloat16 = pytest.mark.skipif(
    not has_bfloat16, reason="oneDNN is limited to AVX2, with which it has no bfloat16"
)
