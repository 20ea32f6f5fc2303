"""Linear SVMs on frozen features against their definition, and what they are trained on."""

import numpy as np
import pytest
from scipy import optimize

from la_tf.data.base import DataError
from la_tf.evaluation import svm


def toy(num_train=60, num_test=40, width=90, noise=0.4, seed=0):
    """Features of three classes, each a direction, that come together; and marks."""
    rng = np.random.default_rng(seed)
    marks = np.where(rng.random((num_train + num_test, 3)) < 0.4, 1, -1)
    directions = rng.normal(size=(3, width))
    features = marks @ directions + noise * rng.normal(size=(len(marks), width)) * np.sqrt(width)
    return features[:num_train], marks[:num_train], features[num_train:], marks[num_train:]


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def plain_scores(train, truth, test, cost):
    """The squared hinge with weights of two for positives, minimised in all columns of the rows."""
    rows, weight = np.hstack([unit(train), np.ones((len(train), 1))]), np.where(truth == 1, 2, 1)

    def objective(w):
        slack = np.maximum(1 - truth * (rows @ w), 0)
        gradient = w - 2 * cost * rows.T @ (weight * truth * slack)
        return w @ w / 2 + cost * np.sum(weight * slack**2), gradient

    start = np.zeros(rows.shape[1])
    found = optimize.minimize(objective, start, jac=True, method="L-BFGS-B", tol=1e-12)
    return np.hstack([unit(test), np.ones((len(test), 1))]) @ found.x


@pytest.mark.parametrize("width", [20, 90])  # fewer and more columns than there are rows
def test_scores_are_those_of_the_definition(monkeypatch, width):
    monkeypatch.setattr(svm, "COSTS", (2.0,))
    train, marks, test, _ = toy(width=width)
    marks[5, 1] = 0
    rows, test_rows = svm.prepared(train, test)
    assert rows.shape == (60, min(width, 60))
    scores = svm.svm_scores(rows, marks, test_rows)
    for label in range(3):
        used = marks[:, label] != 0
        expected = plain_scores(train[used], marks[used, label], test, cost=2.0)
        np.testing.assert_allclose(scores[:, label], expected, atol=2e-3)


def plain_average_precision(scores, positive):
    """Precision at each hit, averaged; without the interpolation of VOC's."""
    order = np.argsort(-scores)
    hits = positive[order]
    return (np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean()


def test_the_cost_is_what_three_folds_find_best(monkeypatch):
    monkeypatch.setattr(svm, "COSTS", (0.001, 0.1, 5.0))
    train, marks, test, _ = toy(num_train=36, width=12, noise=1.5, seed=3)
    rows, test_rows = svm.prepared(train, test)
    scores = svm.svm_scores(rows, marks, test_rows)
    checked = 0
    for label in range(3):
        truth = marks[:, label]
        fold = np.empty(len(truth), int)
        for sign in (1, -1):
            same = np.flatnonzero(truth == sign)
            fold[same] = np.arange(len(same)) * 3 // len(same)
        if len(set(np.bincount(fold))) > 1:
            continue  # scikit-learn deals what does not divide by three in another way
        means = [
            np.mean(
                [
                    plain_average_precision(
                        plain_scores(train[fold != f], truth[fold != f], train[fold == f], cost),
                        truth[fold == f] == 1,
                    )
                    for f in range(3)
                ]
            )
            for cost in svm.COSTS
        ]
        # Of costs that order the images alike, rounding may choose another one.
        best = [c for c, m in zip(svm.COSTS, means, strict=True) if m > max(means) - 1e-9]
        expected = [plain_scores(train, truth, test, cost) for cost in best]
        assert any(np.allclose(scores[:, label], e, atol=1e-2) for e in expected)
        assert len(best) < len(svm.COSTS)
        checked += 1
    assert checked


def test_separable_features_are_classified_without_an_error():
    train, marks, test, test_marks = toy(noise=0.0)
    scores = svm.svm_scores(*_rows(train, marks, test))
    np.testing.assert_allclose(svm.class_precisions(scores, test_marks, True), 1)
    np.testing.assert_allclose(svm.class_precisions(scores, test_marks, False), 1)


def _rows(train, marks, test):
    rows, test_rows = svm.prepared(train, test)
    return rows, marks, test_rows


def test_a_difficult_image_is_neither_positive_nor_negative():
    # Right, wrong, right, as without the difficult ones: six points at 1 and five at 2/3.
    scores = np.array([[0.9], [0.8], [0.7], [0.6], [0.5]])
    marks = np.array([[0], [1], [-1], [1], [0]])
    found = svm.class_precisions(scores, marks, eleven_points=True)
    np.testing.assert_allclose(found, [(6 + 5 * 2 / 3) / 11])
    np.testing.assert_allclose(svm.class_precisions(scores, marks, False), [(1 + 2 / 3) / 2])
    assert np.isnan(svm.class_precisions(scores, np.minimum(marks, 0), True)).all()


def test_a_difficult_image_trains_nothing():
    train, marks, test, _ = toy()
    marks[7] = 0
    others = np.arange(60) != 7
    for order in (np.arange(60), np.arange(60)[::-1]):
        rows = svm.low_shot_rows(marks[:, 0], 60, 3, order)
        assert sorted(rows) == list(np.flatnonzero(others))
    with_it = svm.svm_scores(*_rows(train, marks, test))
    # Rotated with that row or without, the rows are the same but for their coordinates.
    without = svm.svm_scores(*_rows(train[others], marks[others], test))
    np.testing.assert_allclose(with_it, without, atol=1e-2)


def test_few_shots_are_k_with_the_class_and_k_without_for_each_other_one():
    marks = np.repeat([1, -1, 0], [30, 200, 40])
    order = svm.draw_order(270, seed=5, draw=1)
    drawn = {k: svm.low_shot_rows(marks, k, 20, order) for k in (1, 2, 8)}
    for k, rows in drawn.items():
        assert len(set(rows)) == len(rows) == 20 * k
        assert (marks[rows] == 1).sum() == k and (marks[rows] == -1).sum() == 19 * k
    assert set(drawn[1]) < set(drawn[2]) < set(drawn[8])
    assert len(svm.low_shot_rows(marks, 16, 20, order)) == 16 + 200  # all that there are
    assert len(svm.low_shot_rows(marks, 4, 1, order)) == 8  # a single class


def test_a_draw_is_a_function_of_seed_and_draw():
    orders = {
        (seed, draw): tuple(svm.draw_order(50, seed, draw)) for seed in (0, 1) for draw in (0, 1)
    }
    assert len(set(orders.values())) == 4
    assert all(sorted(order) == list(range(50)) for order in orders.values())
    assert orders == {key: tuple(svm.draw_order(50, *key)) for key in orders}


def test_low_shot_trains_on_the_drawn_rows_alone():
    train, marks, test, _ = toy(num_train=90)
    order = svm.draw_order(90, 0, 0)
    rows, test_rows = svm.prepared(train, test)
    scores = svm.low_shot_scores(rows, marks, test_rows, 4, order)
    for label in range(3):
        chosen = svm.low_shot_rows(marks[:, label], 4, 3, order)
        expected = plain_scores(train[chosen], marks[chosen, label], test, svm.LOW_SHOT_COST)
        np.testing.assert_allclose(scores[:, label], expected, atol=2e-3)


def test_shots_end_where_a_class_has_no_more_images():
    marks = -np.ones((100, 2), int)
    marks[:50, 0] = marks[:17, 1] = 1
    assert svm.usable_shots(marks) == [1, 2, 4, 8, 16]


@pytest.mark.parametrize(
    "train, test, message",
    [
        ((2, 20), 5, "there are 2 training images of pets with dog, and 3 are needed"),
        ((20, 2), 5, "there are 2 training images of pets without dog, and 3 are needed"),
        ((20, 20), 0, "there are 0 test images of pets with dog, and 1 are needed"),
    ],
)
def test_a_class_with_too_few_images_is_named(train, test, message):
    cat = np.resize([1, -1], 60)
    dog, dog_tested = np.zeros(60, int), np.zeros(60, int)
    dog[: train[0]], dog[30 : 30 + train[1]], dog_tested[:test] = 1, -1, 1
    marks, test_marks = np.stack([cat, dog], axis=1), np.stack([cat, dog_tested], axis=1)
    with pytest.raises(DataError, match=message):
        svm.require_enough(marks, test_marks, ("cat", "dog"), "pets")
