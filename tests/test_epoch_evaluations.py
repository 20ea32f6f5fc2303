"""What is evaluated while a run goes on: kNN, milestones, the exported network."""

import math

import numpy as np
import pytest
from callback_runs import (
    CLASSES,
    RATE,
    SPE,
    TAU,
    Bystander,
    D,
    N,
    fit,
    make_model,
    of_kind,
    train_logger,
    with_labels,
)

from la_tf.callbacks.exported_network import ExportedNetwork
from la_tf.callbacks.heldout_knn import KNNCallback
from la_tf.callbacks.milestones import Milestones
from la_tf.schedules import Plateau


def plain_accuracy(queries, classes, bank, k) -> float:
    """Section 4.2 as it is written: k neighbours vote with exp(s / tau)."""
    right = 0
    for query, class_ in zip(queries.astype(np.float64), classes, strict=True):
        similarity = bank.astype(np.float64) @ query
        votes = dict.fromkeys(CLASSES, 0.0)
        for i in np.argsort(-similarity)[:k]:
            votes[CLASSES[i]] += math.exp(similarity[i] / TAU)
        right += max(votes, key=votes.get) == class_
    return right / len(queries)


def knn_callback(log, embed, heldout_labels, *, every=1, last, labels=CLASSES, plateau=None):
    return KNNCallback(
        embed_heldout=embed,
        heldout_labels=np.array(heldout_labels),
        train_labels=np.array(labels),
        steps_per_epoch=SPE,
        every_epochs=every,
        last_epoch=last,
        log=log,
        tau=TAU,
        plateau=plateau,
    )


def test_held_out_images_are_classified_by_the_bank_at_the_epochs_that_are_due(log, unit_rows):
    model, banks = with_labels(make_model(2 * SPE)), {}
    heldout_labels = np.random.default_rng(1).integers(0, 3, 40)
    given = iter(range(100))  # every evaluation embeds anew
    callbacks = [
        Bystander(at_epoch_end=lambda step: banks.update({step: model.bank.vectors.numpy()})),
        knn_callback(
            log, lambda: unit_rows(40, D, seed=next(given)), heldout_labels, every=3, last=7
        ),
    ]
    fit(model, callbacks, epochs=7)
    records = of_kind(log, "knn")
    # Every third, the end of the warm start, and the last.
    assert [(r["epoch"], r["step"]) for r in records] == [(2, 8), (3, 12), (6, 24), (7, 28)]
    for i, record in enumerate(records):
        queries, bank = unit_rows(40, D, seed=i), banks[record["step"]]
        assert record["knn200"] == plain_accuracy(queries, heldout_labels, bank, 200)
        assert record["knn1"] == plain_accuracy(queries, heldout_labels, bank, 1)
    assert next(given) == 4
    assert len({(r["knn200"], r["knn1"]) for r in records}) > 1


def test_the_plateau_rule_hears_of_the_many_neighbours_and_the_learning_rate_falls(log, timing):
    """Placed so that K = 1 improves every epoch while K = 200 stays the same."""
    model = with_labels(make_model(mix=0.0))
    here = np.array([1, 0, 0, 0], np.float32)
    beside = np.array([math.cos(0.1), math.sin(0.1), 0, 0], np.float32)
    there = np.array([0, 0, 1, 0], np.float32)
    # Class 1 is there, but for one of its rows, which lies beside all those of class 0.
    model.bank.vectors.assign(np.stack([here] * 119 + [beside] + [there] * 120))
    labels = [0] * 119 + [1] * 121
    rounds = iter(
        np.stack(rows)
        for rows in [
            (here, there, here, here),
            (here, there, beside, here),
            (here, there, beside, beside),
            (here, there, there, beside),
        ]
    )
    plateau = Plateau(model.optimizer, patience=2)
    callbacks = [
        train_logger(log, timing, SPE),
        knn_callback(
            log, lambda: next(rounds), [0, 1, 1, 1], last=4, labels=labels, plateau=plateau
        ),
    ]
    fit(model, callbacks, epochs=4)
    knn = of_kind(log, "knn")
    assert [r["knn1"] for r in knn] == [0.5, 0.75, 1.0, 1.0]
    assert [r["knn200"] for r in knn] == [0.5, 0.5, 0.5, 0.75]
    (drop,) = of_kind(log, "plateau")
    assert (drop["step"], drop["epoch"]) == (3 * SPE, 3)
    np.testing.assert_allclose(drop["learning_rate"], RATE / 10, rtol=1e-6)
    rates = [r["learning_rate"] for r in of_kind(log, "train")]
    np.testing.assert_allclose(rates, [RATE, RATE, RATE, RATE / 10], rtol=1e-6)
    np.testing.assert_allclose(model.optimizer.learning_rate.numpy(), RATE / 10, rtol=1e-6)


@pytest.mark.parametrize(
    "warm_start_epochs,ends",
    [
        (1, [("end of IR", 1), ("end of LA", 3)]),
        (0, [("end of LA", 3)]),
        (3, [("end of IR", 3)]),
    ],
)
def test_milestones_are_the_baselines_and_the_ends_of_the_phases(
    log, unit_rows, warm_start_epochs, ends
):
    heldout_labels = np.random.default_rng(1).integers(0, 3, 40)
    given = iter(range(100))

    def embed():
        seed = next(given)
        return unit_rows(N, D, seed=seed), unit_rows(40, D, seed=50 + seed)

    milestones = Milestones(
        embed=embed,
        raw_pixels=lambda: (unit_rows(N, 12, seed=200), unit_rows(40, 12, seed=201)),
        train_labels=CLASSES,
        heldout_labels=heldout_labels,
        last_epoch=3,
        steps_per_epoch=SPE,
        log=log,
        tau=TAU,
    )
    milestones.before_training()
    fit(with_labels(make_model(warm_start_epochs * SPE)), [milestones], epochs=3)
    rows = of_kind(log, "milestone")
    expected = [("raw pixels", 0), ("untrained network", 0), *ends]
    assert [(r["name"], r["epoch"]) for r in rows] == expected
    assert [r["step"] for r in rows] == [epoch * SPE for _, epoch in expected]
    pairs = [(unit_rows(N, 12, seed=200), unit_rows(40, 12, seed=201))]
    pairs += [(unit_rows(N, D, seed=i), unit_rows(40, D, seed=50 + i)) for i in range(3)]
    for row, (train, heldout) in zip(rows, pairs, strict=False):
        assert row["knn200"] == plain_accuracy(heldout, heldout_labels, train, 200)
        assert row["knn1"] == plain_accuracy(heldout, heldout_labels, train, 1)
    assert next(given) == len(rows) - 1


def test_the_similarity_of_exported_embeddings_is_that_of_all_pairs_at_the_ends_of_phases(
    log, unit_rows
):
    rows = unit_rows(9, D, seed=3) + 0.5
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    callback = ExportedNetwork(
        embed_sample=lambda: rows, last_epoch=3, steps_per_epoch=SPE, log=log
    )
    fit(with_labels(make_model(SPE)), [callback], epochs=3)
    records = of_kind(log, "exported")
    pairs = [a @ b for i, a in enumerate(rows) for b in rows[:i]]
    expected = [pytest.approx(np.mean(pairs), rel=1e-5)] * 2
    assert [record["similarity"] for record in records] == expected
    assert [(r["step"], r["epoch"]) for r in records] == [(SPE, 1), (3 * SPE, 3)]
