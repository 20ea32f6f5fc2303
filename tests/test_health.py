"""What a run is told about itself."""

import math

import pytest

from la_tf.config import Config
from la_tf.resolve import resolve
from la_tf.runs.health import HealthMonitor, TrainingDiverged, expected_values


@pytest.fixture
def said():
    return []


@pytest.fixture
def monitor(said):
    return HealthMonitor(dim=100, say=said.append)  # an even spread is 0.1


def record(**values):
    normal = {"kind": "train", "step": 50, "steps": 10, "loss": 2.0, "spread": 0.08}
    return {**normal, "empty_close": 0.0, **values}


def test_a_healthy_record_is_not_worth_a_word(monitor, said):
    monitor(record())
    monitor({"kind": "knn", "step": 1})
    assert said == []


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_with_the_interval(monitor, loss):
    with pytest.raises(TrainingDiverged, match="between step 40 and step 50"):
        monitor(record(loss=loss))


def test_a_collapse_is_said_once(monitor, said):
    for _ in range(3):
        monitor(record(spread=0.005))
    assert len(said) == 1 and "collapsed" in said[0] and "0.0050" in said[0]


def test_many_empty_close_sets_are_said_once(monitor, said):
    for _ in range(3):
        monitor(record(empty_close=0.8))
    assert len(said) == 1 and "80%" in said[0] and "--num_clusters" in said[0]


def test_constant_embeddings_of_the_exported_network_are_said_beside_those_of_training(
    monitor, said
):
    monitor(record(spread=0.08))
    monitor({"kind": "exported", "step": 60, "similarity": 0.5})
    assert said == []
    monitor({"kind": "exported", "step": 60, "similarity": 0.98765})
    (sentence,) = said
    assert sentence.startswith(
        "step 60: the embeddings of the exported network are nearly constant"
    )
    assert "0.988" in sentence and "80% of that of an even sphere" in sentence


def test_reference_values_are_those_of_the_formulas():
    config = resolve(Config(), 1_281_167)
    ir, la = expected_values(config, 1_281_167)
    assert "14.06" in ir  # ln N
    assert f"{math.log(4096 / (1_281_167 / 30_000)):.2f}" in la  # ln(k / c)
