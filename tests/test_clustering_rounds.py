"""ClusteringCallback in runs of `fit`, against the same clusterings made beside it."""

import math

import numpy as np
import pytest
from callback_runs import SPE, Bystander, Clock, D, H, M, N, clustering, fit, make_model, of_kind

from la_tf.callbacks import clustering_rounds as clustering_module
from la_tf.callbacks.clustering_rounds import ClusteringCallback
from la_tf.clustering import run_clusterings
from la_tf.runs.health import TrainingDiverged
from la_tf.runs.log import read_log


def plain_nmi(a, b) -> float:
    """Mutual information over the mean of the two entropies."""
    joint = np.zeros((M, M))
    np.add.at(joint, (a, b), 1 / len(a))
    rows, columns = joint.sum(1), joint.sum(0)

    def entropy(p):
        return -sum(x * math.log(x) for x in p.ravel() if x > 0)

    information = entropy(rows) + entropy(columns) - entropy(joint)
    return information / ((entropy(rows) + entropy(columns)) / 2)


@pytest.mark.parametrize(
    "warm_start_steps,every,expected",
    [(4, 0, [4, 8, 12]), (0, 5, [0, 5, 10, 15]), (7, 3, [7, 10, 13]), (16, 1, [])],
)
def test_clusters_are_made_when_due_from_the_bank_of_that_moment(
    log, timing, warm_start_steps, every, expected
):
    model, banks, labels = make_model(warm_start_steps), [], []
    callbacks = [
        Bystander(before=lambda _: banks.append(model.bank.vectors.numpy())),
        clustering(log, timing, cluster_every_steps=every, kmeans_iterations=5),
        Bystander(before=lambda _: labels.append(model.cluster_labels.numpy().T)),
    ]
    fit(model, callbacks, epochs=4)

    rounds = of_kind(log, "clustering")
    assert [r["step"] for r in rounds] == expected
    assert [r["round"] for r in rounds] == list(range(len(expected)))
    assert [r["epoch"] for r in rounds] == [step // SPE + 1 for step in expected]
    current = np.full((H, N), -1)
    for step in range(4 * SPE):
        if step in expected:
            round_ = expected.index(step)
            runs = run_clusterings(banks[step], M, H, seed=9, round_=round_, iterations=5)
            current = np.stack([run.labels for run in runs])
        np.testing.assert_array_equal(labels[step], current)


def test_what_is_not_given_for_clustering_is_the_models():
    model, banks = make_model(2), []
    bystander = Bystander(before=lambda _: banks.append(model.bank.vectors.numpy()))
    fit(model, [bystander, ClusteringCallback()], epochs=2)
    runs = run_clusterings(banks[2 + SPE], N // 5, H, seed=3, round_=1)
    np.testing.assert_array_equal(model.cluster_labels.numpy().T, [run.labels for run in runs])


def test_a_round_is_described_by_its_labels_and_those_before(log, timing):
    model, banks, labels = make_model(SPE), [], []
    callbacks = [
        clustering(log, timing, kmeans_iterations=100),
        Bystander(
            before=lambda _: (
                banks.append(model.bank.vectors.numpy()),
                labels.append(model.cluster_labels.numpy().T.astype(int)),
            )
        ),
    ]
    fit(model, callbacks, epochs=3)
    records = of_kind(log, "clustering")
    for record in records:
        now, bank = labels[record["step"]], banks[record["step"]].astype(np.float64)
        sizes = np.array([[np.sum(row == j) for j in range(M)] for row in now])
        assert record["smallest_cluster"] == sizes.min()
        assert record["largest_cluster"] == sizes.max()
        assert record["empty_clusters"] == np.sum(sizes == 0)
        # After 100 iterations over so few rows, centroids are the means of their members.
        spread = [
            np.sum((bank[row == j] - bank[row == j].mean(0)) ** 2) for row in now for j in set(row)
        ]
        np.testing.assert_allclose(record["inertia"], sum(spread) / H, rtol=1e-3)
    assert "nmi_previous" not in records[0]
    before, now = labels[SPE], labels[2 * SPE]
    expected = np.mean([plain_nmi(a, b) for a, b in zip(before, now, strict=True)])
    np.testing.assert_allclose(records[1]["nmi_previous"], expected, rtol=1e-6)


def test_clusters_that_nothing_is_left_in_are_counted(log, timing):
    model, callback = make_model(), clustering(log, timing)
    three = np.eye(3, D, dtype=np.float32)
    model.bank.vectors.assign(three[np.arange(N) % 3])  # three places for twelve clusters
    callback.set_model(model)
    callback.cluster(0)
    used = sum(len(set(row)) for row in model.cluster_labels.numpy().T)
    (record,) = of_kind(log, "clustering")
    assert used <= 3 * H and record["empty_clusters"] == M * H - used
    assert record["smallest_cluster"] == 0
    assert record["inertia"] == pytest.approx(0, abs=1e-2)


def test_centre_crops_are_clustered_instead_of_the_bank_if_asked(log, timing, unit_rows):
    model, crops = make_model(), unit_rows(N, D, seed=8)
    options = {"cluster_input": "center_crops", "center_crop_embeddings": lambda: crops}
    callback = clustering(log, timing, **options)
    callback.set_model(model)
    callback.cluster(2)
    expected = [run.labels for run in run_clusterings(crops, M, H, seed=9, round_=2)]
    np.testing.assert_array_equal(model.cluster_labels.numpy().T, expected)


def test_what_is_not_finite_is_not_clustered(log, timing):
    model, callback = make_model(), clustering(log, timing)
    vectors = model.bank.vectors.numpy()
    vectors[7, 1] = np.nan
    model.bank.vectors.assign(vectors)
    callback.set_model(model)
    with pytest.raises(TrainingDiverged, match="embeddings"):
        callback.cluster(0)
    assert read_log(log.path) == [] and (model.cluster_labels.numpy().T == -1).all()


def test_the_share_of_a_round_that_clustering_takes_is_logged(log, timing, monkeypatch):
    clock, model = Clock(monkeypatch, clustering_module), make_model(SPE)
    callback = clustering(log, timing)

    def clustering_takes_time(labels, assign=model.cluster_labels.assign):
        clock.wait(6)
        assign(labels)

    monkeypatch.setattr(model.cluster_labels, "assign", clustering_takes_time)
    fit(model, [callback, Bystander(before=lambda step: clock.wait(1 + step))], epochs=3)
    # Steps 0 to 3 take 1 + 2 + 3 + 4 seconds, steps 4 to 7 take 5 + 6 + 7 + 8.
    shares = [(r["step"], r["seconds"], r["share"]) for r in of_kind(timing, "clustering")]
    assert shares == [(4, 6, round(6 / 16, 4)), (8, 6, round(6 / 32, 4))]
