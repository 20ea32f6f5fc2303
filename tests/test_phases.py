"""The objective of a step, written out."""

from la_tf.phases import phase_after


def test_instance_recognition_ends_with_the_last_step_of_the_warm_start():
    assert [phase_after(step, 2) for step in range(5)] == ["untrained", "IR", "IR", "LA", "LA"]
    assert phase_after(1, 0) == "LA"


def test_a_baseline_has_one_objective():
    for method, objective in (("deepcluster", "DeepCluster"), ("supervised", "supervised")):
        assert [phase_after(step, 0, method) for step in range(2)] == ["untrained", objective]
