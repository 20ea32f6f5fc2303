"""Learning curves: the series that are read from a run's logs."""

import math
import xml.etree.ElementTree as ElementTree

import pytest

from la_tf.analysis import curves
from la_tf.analysis.part import Unavailable
from la_tf.config import ClusteringConfig, Config, NetworkConfig, ObjectiveConfig, ScheduleConfig
from la_tf.runs.log import RunLog, read_log

N, STEPS_PER_EPOCH = 1000, 10
CONFIG = Config(
    network=NetworkConfig(dim=16),
    clustering=ClusteringConfig(num_clusters=50),
    schedule=ScheduleConfig(epochs=4, ir_epochs=2),
)


@pytest.fixture
def logs(tmp_path):
    metrics = RunLog(tmp_path / "metrics.jsonl")
    metrics.write("knn", 0, 0, knn200=0.1, knn1=0.05)
    train = {"learning_rate": 0.03, "steps": 5, "empty_close": 0.0, "close_share": 0.0}
    for step, loss in ((5, 7.5), (10, 7.0), (15, 6.0), (20, 5.0)):
        metrics.write("train", step, 1, phase="IR", loss=loss, spread=step / 100, **train)
    metrics.write("clustering", 20, 3, inertia=9.0, smallest_cluster=2, largest_cluster=70)
    shares = {"close_in_background": 0.9, "own_in_background": 1.0, "background_purity": 0.125}
    shares["own_share"] = 0.75
    metrics.write("neighbors", 20, 3, close_purity=None, **shares)
    train |= {"empty_close": 0.25, "close_share": 0.125, "learning_rate": 0.003}
    metrics.write("train", 25, 3, phase="LA", loss=2.0, spread=0.2, **train)
    metrics.write(
        "clustering",
        30,
        4,
        inertia=8.0,
        smallest_cluster=1,
        largest_cluster=60,
        nmi_previous=0.75,
    )
    metrics.write("neighbors", 30, 4, close_purity=0.5, **shares)
    metrics.write("knn", 30, 3, knn200=0.5, knn1=0.4)
    metrics.close()
    timing = RunLog(tmp_path / "timing.jsonl")
    for step, speed in ((5, 100.0), (10, 120.0), (15, 1.0), (10, 130.0), (15, 140.0)):
        timing.write("throughput", step, 1, images_per_second=speed, data_wait_share=speed / 1000)
    timing.write("clustering", 20, 3, seconds=2.0)
    timing.close()
    return read_log(tmp_path / "metrics.jsonl"), read_log(tmp_path / "timing.jsonl")


def series(drawn) -> dict[str, list[tuple[list[float], list[float]]]]:
    return {panel.name: [(c.epochs, c.values) for c in panel.curves] for panel in drawn}


def test_every_series_is_what_the_logs_say(logs):
    drawn = curves.panels(*logs, CONFIG, N, STEPS_PER_EPOCH)
    to_the_switch = [0.5, 1.0, 1.5, 2.0]
    assert series(drawn) == {
        "loss": [(to_the_switch, [7.5, 7.0, 6.0, 5.0]), ([2.5], [2.0])],
        "knn": [([0.0, 3.0], [0.1, 0.5]), ([0.0, 3.0], [0.05, 0.4])],
        "spread": [([*to_the_switch, 2.5], [0.05, 0.1, 0.15, 0.2, 0.2])],
        "close": [([2.5], [0.125]), ([2.5], [0.25]), ([2.0, 3.0], [0.75, 0.75])],
        # Purity is of nothing where an image has no close neighbours.
        "neighbors": [([3.0], [0.5]), *(([2.0, 3.0], [share] * 2) for share in (0.125, 0.9, 1.0))],
        "nmi": [([3.0], [0.75])],
        "clusters": [([2.0, 3.0], [70, 60]), ([2.0, 3.0], [2, 1])],
        "inertia": [([2.0, 3.0], [9.0, 8.0])],
        "learning-rate": [([*to_the_switch, 2.5], [0.03, 0.03, 0.03, 0.03, 0.003])],
        # Steps 10 and 15 were done twice, by a run that was killed and by the one that went on.
        "throughput": [([0.5, 1.0, 1.5], [100.0, 130.0, 140.0])],
        "data-wait": [([0.5, 1.0, 1.5], [0.1, 0.13, 0.14])],
    }
    levels = {panel.name: list(panel.levels) for panel in drawn if panel.levels}
    assert levels == {"loss": [math.log(N)], "spread": [0.25, 0.0], "clusters": [20.0]}


def test_a_run_without_labels_and_local_aggregation_has_fewer_panels(logs):
    metrics = [r for r in logs[0] if r["kind"] == "train" and r["phase"] == "IR"]
    nce = Config(objective=ObjectiveConfig(ir_loss="nce"), clustering=CONFIG.clustering)
    drawn = curves.panels(metrics, [], nce, N, STEPS_PER_EPOCH)
    assert [panel.name for panel in drawn] == ["loss", "spread", "learning-rate"]
    assert drawn[0].levels == {}  # ln N says nothing of NCE


def test_drawings_say_what_they_show_and_where_the_objective_changed(logs):
    drawn = curves.panels(*logs, CONFIG, N, STEPS_PER_EPOCH)
    part = curves.curves_part(drawn, switch=2, last_epoch=3.0)
    assert "The line at epoch 2 marks the switch" in part.caption
    assert [plot.name for plot in part.plots] == [f"curves-{panel.name}" for panel in drawn]
    assert part.plots[0].alt == (
        "Training loss. Instance recognition (IR): 7.5 at epoch 0.5, 5 at epoch 2. "
        "Local Aggregation (LA): 2 at epoch 2.5, 2 at epoch 2.5."
    )
    for plot in part.plots:
        ElementTree.fromstring(plot.svg.encode())
    before = curves.curves_part(drawn[1:2], switch=5, last_epoch=3.0)
    assert "switch" not in before.caption


def test_a_run_that_logged_nothing_has_no_curves():
    with pytest.raises(Unavailable, match="nothing yet"):
        curves.curves_part(curves.panels([], [], CONFIG, N, STEPS_PER_EPOCH), 2, 0.0)


@pytest.mark.filterwarnings("error")
def test_a_run_before_its_first_step_has_its_first_evaluation_drawn(logs):
    drawn = curves.panels(logs[0][:1], [], CONFIG, N, STEPS_PER_EPOCH)
    (plot,) = curves.curves_part(drawn, switch=2, last_epoch=0.0).plots
    assert plot.alt.startswith("Held-out kNN accuracy. K = 200: 0.1 at epoch 0, 0.1 at epoch 0.")
