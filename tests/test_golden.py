"""Loss, gradients and bank rows against values of the paper's official code."""

import math
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from la_tf.memory_bank import MemoryBank
from la_tf.neighbors import background_neighbors, close_neighbors
from la_tf.objective import local_aggregation_loss

FILES = sorted((pathlib.Path(__file__).parent / "golden").glob("*.npz"))
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def case(request):
    golden = dict(np.load(request.param))
    raw = tf.Variable(golden["embeddings"])
    bank = tf.constant(golden["bank"])
    with tf.GradientTape(persistent=True) as tape:
        unit = tf.math.l2_normalize(raw, axis=1)
        background = background_neighbors(unit, bank, int(golden["k"]))
        close = close_neighbors(golden["cluster_labels"], golden["batch_indices"], background)
        similarities = tf.einsum("bd,bkd->bk", unit, tf.gather(bank, background))
        loss = local_aggregation_loss(similarities, close, float(golden["tau"]))
    computed = {
        "unit": unit.numpy(),
        "loss": loss.numpy(),
        "grad": tape.gradient(loss, raw).numpy(),
        "grad_unit": tape.gradient(loss, unit).numpy(),
        "meet": close.numpy().any(axis=1),
    }
    return golden, computed


def test_there_are_four_cases():
    assert len(FILES) == 4


def test_per_sample_loss(case):
    golden, computed = case
    # Where the sets do not meet, the official loss is the constant -log(1e-7), ours is 0. The
    # official ratio also carries + 1e-7, which is far below the tolerance elsewhere.
    expected = np.where(computed["meet"], golden["per_sample_loss"], 0.0)
    np.testing.assert_allclose(computed["loss"], expected, rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_allclose(
        golden["per_sample_loss"][~computed["meet"]], -math.log(1e-7), rtol=1e-4
    )


@pytest.mark.parametrize("which", ["grad", "grad_unit"])
def test_gradients(case, which):
    golden, computed = case
    np.testing.assert_allclose(
        computed[which], golden[f"per_sample_{which}"], rtol=TOLERANCE, atol=TOLERANCE
    )
    # The loss of a batch is the mean over all its samples, those without a meeting included.
    np.testing.assert_allclose(
        computed[which] / len(computed["loss"]),
        golden[f"batch_{which}"],
        rtol=TOLERANCE,
        atol=TOLERANCE,
    )


def test_new_bank_rows(case):
    golden, computed = case
    size, dim = golden["bank"].shape
    bank = MemoryBank(size, dim, mix=1.0 - float(golden["m"]))
    bank.vectors.assign(golden["bank"])
    rows = bank.update(golden["batch_indices"], computed["unit"]).numpy()
    np.testing.assert_allclose(rows, golden["new_bank_rows"], rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_array_equal(bank.vectors.numpy()[golden["batch_indices"]], rows)


def test_only_case_04_has_a_sample_whose_sets_do_not_meet(case):
    golden, computed = case
    edge = golden["per_sample_loss"] > 16
    np.testing.assert_array_equal(~computed["meet"], edge)
