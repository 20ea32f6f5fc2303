"""Equations 1 to 3 against NumPy in float64 and closed forms."""

import math

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, logsumexp, softmax

from la_tf import objective


@pytest.mark.parametrize("batch,size,tau", [(1, 1, 0.07), (4, 10, 0.07), (3, 1000, 1.0)])
def test_instance_prob_is_a_softmax_over_the_bank(unit_rows, batch, size, tau):
    embeddings, bank = unit_rows(batch, 8, 1), unit_rows(size, 8, 2)
    expected = softmax(embeddings.astype(np.float64) @ bank.T.astype(np.float64) / tau, axis=1)
    np.testing.assert_allclose(
        objective.instance_prob(embeddings, bank, tau), expected, rtol=1e-4, atol=1e-7
    )


def test_set_log_prob_sums_the_members_and_is_minus_infinity_for_no_members():
    log_probs = np.log([[0.1, 0.2, 0.3, 0.4]] * 3).astype(np.float32)
    members = np.array([[1, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
    got = objective.set_log_prob(log_probs, members).numpy()
    np.testing.assert_allclose(got[:2], [math.log(0.5), 0.0], atol=1e-6)
    assert got[2] == -math.inf


@pytest.mark.parametrize("k,close", [(1, 1), (10, 1), (4096, 7), (4096, 4096)])
def test_equal_similarities_give_log_k_over_c(k, close):
    mask = np.arange(k)[np.newaxis] < close
    loss = objective.local_aggregation_loss(tf.fill([1, k], 0.3), mask, 0.07)
    np.testing.assert_allclose(loss, [math.log(k / close)], atol=1e-5)


@pytest.mark.parametrize("batch,k,tau", [(1, 2, 0.07), (5, 33, 0.07), (8, 500, 0.5)])
def test_loss_is_eq_3_with_the_normaliser_written_out(batch, k, tau):
    rng = np.random.default_rng(k)
    everything = rng.uniform(-1, 1, (batch, 3 * k))  # the first k are the background
    close = rng.random((batch, k)) < 0.2
    close[:, 0] = True
    log_p = log_softmax(everything / tau, axis=1)[:, :k]  # Eq. 1, over all N
    expected = logsumexp(log_p, axis=1) - logsumexp(np.where(close, log_p, -np.inf), axis=1)
    got = objective.local_aggregation_loss(everything[:, :k].astype(np.float32), close, tau)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_the_largest_similarities_that_can_occur_neither_overflow_nor_vanish():
    loss = objective.local_aggregation_loss(
        tf.constant([[1.0, -1.0, -1.0], [1.0, -1.0, 1.0]]),
        tf.constant([[False, True, False], [True, False, False]]),
        0.07,
    )
    np.testing.assert_allclose(loss, [2 / 0.07, math.log(2)], rtol=1e-5)


def test_disjoint_sets_give_zero_loss_and_zero_gradient_and_leave_others_alone():
    similarities = tf.Variable([[0.9, 0.1, 0.4], [0.9, 0.1, 0.4]])
    close = tf.constant([[False] * 3, [True, False, False]])
    with tf.GradientTape() as tape:
        loss = objective.local_aggregation_loss(similarities, close, 0.07)
        total = tf.reduce_sum(loss)
    gradient = tape.gradient(total, similarities).numpy()
    assert loss[0] == 0.0 and (gradient[0] == 0.0).all()
    # d/ds of logsumexp(all) - logsumexp(close), by hand: (softmax - close softmax) / tau
    of_all = softmax(np.array([0.9, 0.1, 0.4]) / 0.07)
    np.testing.assert_allclose(gradient[1], (of_all - [1, 0, 0]) / 0.07, atol=1e-5)


def test_instance_recognition_is_cross_entropy_over_the_bank(unit_rows):
    bank, embeddings = unit_rows(50, 8, 1), unit_rows(6, 8, 2)
    indices = np.array([0, 49, 7, 7, 3, 20])
    log_p = log_softmax(embeddings.astype(np.float64) @ bank.T.astype(np.float64) / 0.1, axis=1)
    got = objective.instance_recognition_loss(embeddings, indices, bank, 0.1)
    np.testing.assert_allclose(got, -log_p[np.arange(6), indices], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("block_size", [0, 1, 3])
def test_instance_recognition_has_the_gradient_of_cross_entropy(unit_rows, block_size):
    bank, embeddings = unit_rows(50, 8, 1), tf.Variable(unit_rows(6, 8, 2))
    indices, weights = np.array([0, 49, 7, 7, 3, 20]), np.arange(1.0, 7.0, dtype=np.float32)
    with tf.GradientTape() as tape:
        losses = objective.instance_recognition_loss(embeddings, indices, bank, 0.1, block_size)
        total = tf.reduce_sum(weights * losses)
    logits = embeddings.numpy().astype(np.float64) @ bank.T.astype(np.float64) / 0.1
    probs = np.exp(log_softmax(logits, axis=1))
    np.testing.assert_allclose(losses, -np.log(probs[np.arange(6), indices]), rtol=1e-5, atol=1e-5)
    expected = weights[:, np.newaxis] * (probs @ bank - bank[indices]) / 0.1
    np.testing.assert_allclose(tape.gradient(total, embeddings), expected, rtol=1e-4, atol=1e-4)


def test_blocks_that_do_not_divide_the_batch_are_refused(unit_rows):
    with pytest.raises(tf.errors.InvalidArgumentError):
        objective.instance_recognition_loss(unit_rows(6, 8), np.arange(6), unit_rows(9, 8), 0.1, 4)


def test_a_probability_too_small_for_float32_leaves_loss_and_gradient_finite():
    bank, embeddings = np.eye(2, 4, dtype=np.float32), tf.Variable(np.eye(1, 4, dtype=np.float32))
    with tf.GradientTape() as tape:
        loss = objective.instance_recognition_loss(embeddings, [1], bank, 0.001)
    assert 80 < loss.numpy()[0] < 90  # 1000 without the limit
    np.testing.assert_allclose(
        tape.gradient(loss, embeddings), [[1000.0, -1000.0, 0.0, 0.0]], rtol=1e-5
    )


@pytest.mark.parametrize("size", [2, 1437, 50_000])
def test_instance_recognition_starts_at_log_n_when_all_rows_are_alike(size):
    bank = np.tile(np.eye(1, 4, dtype=np.float32), (size, 1))
    embeddings = np.eye(1, 4, dtype=np.float32)
    loss = objective.instance_recognition_loss(embeddings, [1], bank, 0.07)
    np.testing.assert_allclose(loss, [math.log(size)], rtol=1e-5)


@pytest.mark.parametrize("loss_name", ["softmax", "nce"])
def test_instance_recognition_gradient_reaches_embeddings_but_not_the_bank(unit_rows, loss_name):
    bank, embeddings = tf.Variable(unit_rows(20, 4, 1)), tf.Variable(unit_rows(3, 4, 2))
    with tf.GradientTape() as tape:
        if loss_name == "softmax":
            loss = objective.instance_recognition_loss(embeddings, [0, 1, 2], bank, 0.07)
        else:
            loss = objective.noise_contrastive_loss(embeddings, [0, 1, 2], [3, 4], bank, 0.07)
    to_embeddings, to_bank = tape.gradient(loss, [embeddings, bank])
    assert to_bank is None
    assert (np.linalg.norm(to_embeddings, axis=1) > 0).all()


def test_noise_contrastive_loss_is_the_official_formula(unit_rows):
    bank, embeddings = unit_rows(40, 8, 1), unit_rows(3, 8, 2)
    indices, noise = np.array([4, 0, 39]), np.array([1, 1, 17, 30])
    z = 2.2455 * 40
    own = np.exp(np.sum(embeddings * bank[indices], 1, dtype=np.float64) / 0.07) / z
    other = np.exp(embeddings.astype(np.float64) @ bank[noise].T / 0.07) / z
    expected = -np.log(own / (own + 4 / 40) + 1e-7) - np.log(
        1 - other / (other + 4 / 40) + 1e-7
    ).sum(1)
    got = objective.noise_contrastive_loss(embeddings, indices, noise, bank, 0.07)
    np.testing.assert_allclose(got, expected, rtol=1e-3)
