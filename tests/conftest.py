"""Quiet TensorFlow before it is imported, and helpers that several test files share."""

import os
import pathlib

from la_tf import quiet

quiet.quiet()

import numpy as np  # noqa: E402
import pytest  # noqa: E402

from la_tf import runtime  # noqa: E402

# Before TensorFlow touches its devices: replicas to distribute over. One-device tests use CPU:0.
runtime.set_logical_cpus(4)


@pytest.fixture(scope="session")
def sample_data() -> pathlib.Path:
    """Folder of sample data; tests that need it are skipped where it does not exist."""
    folder = pathlib.Path(os.environ.get("LA_TF_SAMPLE_DATA", "../shared/data"))
    if not folder.is_dir():
        pytest.skip(f"no sample data at {folder}: set LA_TF_SAMPLE_DATA")
    return folder.resolve()


@pytest.fixture
def unit_rows():
    """A function (count, dim, seed) -> [count, dim] float32 random unit rows."""

    def make(count: int, dim: int, seed: int = 0) -> np.ndarray:
        rows = np.random.default_rng(seed).normal(size=(count, dim))
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    return make
