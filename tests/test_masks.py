"""Local Aggregation by masks against a sort and a sum in NumPy, and against lists of neighbours."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

from la_tf.masks import masked_local_aggregation, masks_pay
from la_tf.neighbors import close_neighbors, nearest_rows
from la_tf.objective import local_aggregation_loss

TAU = 0.07


def labels_of(size, num_clusterings=3, clusters=8):
    rng = np.random.default_rng(size)
    return rng.integers(0, clusters, (size, num_clusterings)).astype(np.float32)


def computed(embeddings, indices, bank, labels, k, block_size=0):
    """Losses, sizes of the meets, and the gradient of the losses weighted with 1, 2, 3 ..."""
    embeddings = tf.convert_to_tensor(embeddings)
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        losses, meets = masked_local_aggregation(
            embeddings, indices, bank, labels, k, TAU, block_size
        )
        total = tf.reduce_sum(losses * tf.range(1.0, len(losses) + 1))
    return losses.numpy(), meets.numpy(), tape.gradient(total, embeddings).numpy()


def expected(embeddings, indices, bank, labels, k):
    """The same in float64, example by example; the sort is that of float32, stable."""
    results = []
    for weight, (embedding, i) in enumerate(zip(embeddings, indices, strict=True), start=1):
        similarities = tf.linalg.matvec(bank, embedding).numpy()
        background = np.argsort(-similarities, kind="stable")[:k]
        close = np.isin(background, np.flatnonzero((labels == labels[i]).any(axis=1)))
        rows = bank[background].astype(np.float64)
        of_background = softmax(rows @ embedding.astype(np.float64) / TAU)
        of_close = np.where(close, of_background, 0.0)
        share = of_close.sum()
        if share == 0.0:
            results.append((0.0, 0, np.zeros(bank.shape[1])))
            continue
        gradient = weight * (of_background - of_close / share) @ rows / TAU
        results.append((-np.log(share), close.sum(), gradient))
    return [np.stack(x) for x in zip(*results, strict=True)]


def check(got, wanted):
    np.testing.assert_allclose(got[0], wanted[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(got[1], wanted[1])
    np.testing.assert_allclose(got[2], wanted[2], rtol=1e-4, atol=2e-4)


# k of 1 and of N; N that no number of parts divides; batches that can be cut in pieces, and not.
@pytest.mark.parametrize("block_size", [0, 2])
@pytest.mark.parametrize(
    "batch,size,k", [(2, 1, 1), (4, 50, 1), (6, 50, 50), (8, 333, 40), (16, 1003, 300)]
)
def test_losses_meets_and_gradients_are_those_of_the_sets(unit_rows, batch, size, k, block_size):
    bank, embeddings, labels = unit_rows(size, 16, 1), unit_rows(batch, 16, 2), labels_of(size)
    indices = np.random.default_rng(3).integers(0, size, batch)
    arguments = embeddings, indices, bank, labels, k
    check(computed(*arguments, block_size), expected(*arguments))


def test_ties_at_the_kth_place_go_to_the_lower_rows(unit_rows):
    """One bank row stands in seven places, around the k-th, for half of the batch."""
    bank, embeddings, labels = unit_rows(200, 16, 1), unit_rows(6, 16, 2), labels_of(200)
    for example in range(0, 6, 2):
        order = np.argsort(-bank @ embeddings[example])
        bank[order[17:24]] = bank[order[20]]
    indices = np.arange(6)
    for k in (18, 20, 24):
        arguments = embeddings, indices, bank, labels, k
        check(computed(*arguments), expected(*arguments))


def test_a_collapsed_bank_has_the_first_k_rows_as_background():
    bank = np.tile(np.eye(1, 4, dtype=np.float32), (100, 1))
    labels = np.arange(100, dtype=np.float32)[:, np.newaxis]
    labels[[3, 4, 50, 51]] = 7.0
    losses, meets, gradient = computed(bank[:4], [7, 3, 51, 99], bank, labels, 10)
    assert meets.tolist() == [3, 3, 3, 0]  # 3, 4 and 7 are among the first ten
    np.testing.assert_allclose(losses, [np.log(10 / 3)] * 3 + [0.0], rtol=1e-5)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-5)


def test_an_embedding_of_nan_shows_and_leaves_the_others_alone(unit_rows):
    bank, embeddings, labels = unit_rows(80, 16, 1), unit_rows(4, 16, 2), labels_of(80)
    arguments = np.arange(4), bank, labels, 9
    whole = computed(embeddings, *arguments)
    embeddings[2] = np.nan
    broken = computed(embeddings, *arguments)
    for one, other in zip(whole, broken, strict=True):
        np.testing.assert_array_equal(other[[0, 1, 3]], one[[0, 1, 3]])
    assert np.isnan(broken[0][2]) and np.isnan(broken[2][2]).all()


def test_masks_and_lists_give_the_same_in_a_graph_with_an_unknown_batch(unit_rows):
    bank, labels, k = unit_rows(500, 16, 1), labels_of(500), 60

    @tf.function(input_signature=[tf.TensorSpec([None, 16]), tf.TensorSpec([None], tf.int32)])
    def both(embeddings, indices):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(embeddings)
            masked, meets = masked_local_aggregation(embeddings, indices, bank, labels, k, TAU)
            similarities, rows = nearest_rows(embeddings, bank, k)
            close = close_neighbors(labels, indices, rows)
            listed = local_aggregation_loss(similarities, close, TAU)
        sizes = tf.reduce_sum(tf.cast(close, tf.int32), axis=1)
        return (
            (masked, meets, tape.gradient(masked, embeddings)),
            (listed, sizes, tape.gradient(listed, embeddings)),
        )

    for batch in (1, 6):
        masked, listed = both(unit_rows(batch, 16, batch), tf.range(batch))
        for one, other in zip(masked, listed, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_masks_are_for_banks_of_not_many_times_k(monkeypatch):
    assert masks_pay(50_000, 4096) and masks_pay(100, 100)
    assert not masks_pay(1_281_167, 4096)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])  # a GPU
    assert not masks_pay(50_000, 4096)
