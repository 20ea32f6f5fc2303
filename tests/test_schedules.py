"""Learning rates at the steps where they change."""

import numpy as np
import pytest
import tensorflow as tf

from la_tf.config import OptimizerConfig
from la_tf.schedules import Plateau, learning_rate, levelled_off


def test_fixed_drops_happen_before_the_first_step_of_their_epoch():
    schedule = learning_rate(OptimizerConfig(drop_epochs=(2, 3)), steps_per_epoch=10)
    rates = [float(schedule(tf.constant(step, tf.int64))) for step in range(40)]
    np.testing.assert_allclose(rates, [0.03] * 20 + [0.003] * 10 + [0.0003] * 10, rtol=1e-6)


def test_without_drops_the_rate_is_a_number():
    assert learning_rate(OptimizerConfig(learning_rate=0.5), 10) == 0.5


def test_a_loss_has_levelled_off_when_ten_epochs_show_it():
    falling = [10 - 0.5 * epoch for epoch in range(10)]
    assert not any(levelled_off(falling[:count], 60) for count in range(11))
    assert not levelled_off([4.0] * 9, 60)
    assert levelled_off([4.0] * 10, 60)
    # Five epochs at 96 % of the five before are level, at 94 % they are not.
    assert levelled_off([9.0, *[4.0] * 5, *[3.84] * 5], 60)
    assert not levelled_off([9.0, *[4.0] * 5, *[3.76] * 5], 60)
    assert levelled_off([4.0] * 5 + [5.0] * 5, 60)


def test_a_warm_start_of_many_short_epochs_takes_more_of_them():
    """A loss that falls by a percent an epoch is not level, though it is so over five."""
    losses = [5 * 0.99**epoch for epoch in range(240)]
    assert levelled_off(losses[:10], 60)
    assert not any(levelled_off(losses[:count], 240) for count in range(len(losses)))
    assert not levelled_off([4.0] * 39, 240)
    assert levelled_off([4.0] * 40, 240)


@pytest.fixture
def optimizer():
    return tf.keras.optimizers.SGD(0.1)


def test_plateau_drops_twice_at_most_after_waiting(optimizer):
    plateau = Plateau(optimizer, patience=2)
    scores = [0.3, 0.4, 0.4, 0.39, 0.4, 0.4, 0.1, 0.1, 0.1]
    fell = [plateau.report(score) for score in scores]
    assert fell == [False, False, False, True, False, True, False, False, False]
    np.testing.assert_allclose(float(optimizer.learning_rate), 0.001, rtol=1e-5)


@pytest.mark.parametrize("score", [0.4, 0.7, 0.9, 336 / 360, 350 / 360])
def test_a_score_that_stays_the_same_is_no_improvement(optimizer, score):
    """Whichever way the score rounds in the variable that holds the best one."""
    plateau = Plateau(optimizer, patience=2)
    assert [plateau.report(score) for _ in range(5)] == [False, False, True, False, True]


def test_plateau_starts_waiting_anew_after_an_improvement(optimizer):
    plateau = Plateau(optimizer, patience=2)
    assert not any(plateau.report(score) for score in [0.3, 0.2, 0.4, 0.3, 0.5, 0.4])


def test_plateau_state_survives_a_checkpoint(optimizer, tmp_path):
    plateau = Plateau(optimizer, patience=2)
    plateau.report(0.5)
    plateau.report(0.4)
    path = tf.train.Checkpoint(plateau=plateau).save(str(tmp_path / "c"))
    restored = Plateau(optimizer, patience=2)
    tf.train.Checkpoint(plateau=restored).restore(path).assert_existing_objects_matched()
    assert restored.report(0.45)  # the second without improvement
