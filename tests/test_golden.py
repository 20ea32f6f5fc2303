"""Loss, gradients and bank rows against values of the paper's official code."""

import math
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from la_tf.config import ClusteringConfig, ObjectiveConfig
from la_tf.memory_bank import MemoryBank
from la_tf.model import LocalAggregation
from la_tf.neighbors import close_neighbors, nearest_rows
from la_tf.objective import local_aggregation_loss

FILES = sorted((pathlib.Path(__file__).parent / "golden").glob("*.npz"))
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def golden(request):
    return dict(np.load(request.param))


@pytest.fixture(scope="module")
def computed(golden):
    """What the functions of a training step make of the golden embeddings, example by example."""
    raw = tf.Variable(golden["embeddings"])
    with tf.GradientTape(persistent=True) as tape:
        unit = tf.math.l2_normalize(raw, axis=1)
        similarities, background = nearest_rows(unit, golden["bank"], int(golden["k"]))
        close = close_neighbors(golden["cluster_labels"].T, golden["batch_indices"], background)
        loss = local_aggregation_loss(similarities, close, float(golden["tau"]))
    return {
        "unit": unit.numpy(),
        "loss": loss.numpy(),
        "grad": tape.gradient(loss, raw).numpy(),
        "grad_unit": tape.gradient(loss, unit).numpy(),
        "meet": close.numpy().any(axis=1),
    }


@pytest.fixture(scope="module")
def stepped(golden):
    """A model after one `train_step` whose network's only weight holds the golden embeddings."""
    batch, dim = golden["embeddings"].shape
    size, num_clusterings = golden["cluster_labels"].T.shape
    images = tf.keras.Input([batch])
    embeddings = tf.keras.layers.Dense(dim, use_bias=False)
    network = tf.keras.Model(images, tf.keras.layers.UnitNormalization()(embeddings(images)))
    model = LocalAggregation(
        network,
        size,
        objective=ObjectiveConfig(
            tau=float(golden["tau"]), k=int(golden["k"]), mix=1.0 - float(golden["m"])
        ),
        clustering=ClusteringConfig(num_clusterings=num_clusterings),
        warm_start_steps=0,
        weight_decay=0.0,
    )
    model.compile(tf.keras.optimizers.SGD(1.0, momentum=0.9))
    embeddings.kernel.assign(golden["embeddings"])
    model.bank.vectors.assign(golden["bank"])
    model.cluster_labels.assign(golden["cluster_labels"].T.astype(np.float32))
    # Example i sees row i of the weight.
    images = np.eye(batch, dtype=np.float32)
    history = model.fit(golden["batch_indices"], images, batch_size=batch, shuffle=False, verbose=0)
    return model, history.history


def loss_of(golden):
    """The official loss, with our 0 where the official code has the constant -log(1e-7)."""
    loss = golden["per_sample_loss"]
    # The official ratio also carries + 1e-7, which is far below the tolerance elsewhere.
    return np.where(loss < 16, loss, 0.0)


def has_direction(golden):
    """Which new rows have a reference value.

    A row that cancels before it is normalised is rounding noise scaled up to length 1, and no two
    processors agree on it.
    """
    old, mix = golden["bank"][golden["batch_indices"]], 1.0 - float(golden["m"])
    unit = golden["embeddings"] / np.linalg.norm(golden["embeddings"], axis=1, keepdims=True)
    return np.linalg.norm((1 - mix) * old + mix * unit, axis=1) > 1e-3


def test_there_are_four_cases():
    assert len(FILES) == 4


def test_per_sample_loss(golden, computed):
    np.testing.assert_allclose(computed["loss"], loss_of(golden), **CLOSE)


def test_sets_are_disjoint_where_the_official_loss_is_its_constant(golden, computed):
    disjoint = golden["per_sample_loss"] > 16
    np.testing.assert_array_equal(~computed["meet"], disjoint)
    np.testing.assert_allclose(golden["per_sample_loss"][disjoint], -math.log(1e-7), rtol=1e-4)


@pytest.mark.parametrize("which", ["grad", "grad_unit"])
def test_per_sample_gradients(golden, computed, which):
    np.testing.assert_allclose(computed[which], golden[f"per_sample_{which}"], **CLOSE)
    # The loss of a batch is the mean over all its samples, those without a meeting included.
    batch = computed[which] / len(computed["loss"])
    np.testing.assert_allclose(batch, golden[f"batch_{which}"], **CLOSE)


def test_new_bank_rows(golden, computed):
    size, dim = golden["bank"].shape
    bank = MemoryBank(size, dim, mix=1.0 - float(golden["m"]))
    bank.vectors.assign(golden["bank"])
    rows = bank.update(golden["batch_indices"], computed["unit"]).numpy()
    np.testing.assert_array_equal(bank.vectors.numpy()[golden["batch_indices"]], rows)
    sure = has_direction(golden)
    assert sure.sum() >= len(sure) - 1
    np.testing.assert_allclose(rows[sure], golden["new_bank_rows"][sure], **CLOSE)


def test_a_whole_training_step(golden, stepped):
    model, history = stepped
    np.testing.assert_allclose(history["loss"], [loss_of(golden).mean()], **CLOSE)
    # After one step at rate 1 the momentum is the gradient of the batch's mean loss, negated.
    (momentum,) = model.optimizer.momentums
    np.testing.assert_allclose(-momentum, golden["batch_grad"], **CLOSE)
    touched, sure = golden["batch_indices"], has_direction(golden)
    bank = model.bank.vectors.numpy()
    np.testing.assert_allclose(bank[touched[sure]], golden["new_bank_rows"][sure], **CLOSE)
    others = np.setdiff1d(np.arange(len(bank)), touched)
    np.testing.assert_array_equal(bank[others], golden["bank"][others])
