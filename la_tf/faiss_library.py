"""Faiss, with matrix products that use all of the processor.

k-means and kNN are mostly products of matrices, which Faiss leaves to the OpenBLAS of its wheel.
OpenBLAS chooses its kernels by the processor's model, and for a model newer than itself may choose
kernels of 2007: on an AMD EPYC of 2024 k-means then takes four times as long as with those for
AVX-512. Import Faiss from here, so that it is loaded this way whoever is first.
"""

import os
import types

import numpy as np

_KERNELS = "OPENBLAS_CORETYPE"  # what OpenBLAS reads while it is loaded


def _load() -> types.ModuleType:
    # NumPy, whose own OpenBLAS is loaded by now, looks at what the processor can do instead.
    has_avx512 = np.core._multiarray_umath.__cpu_features__.get("AVX512_SKX", False)
    if _KERNELS in os.environ or not has_avx512:
        import faiss

        return faiss
    os.environ[_KERNELS] = "SkylakeX"
    try:
        import faiss
    finally:
        del os.environ[_KERNELS]
    return faiss


faiss = _load()
