"""The objectives that a run goes through, by the names that tables and records have for them."""

UNTRAINED, IR, LA = "untrained", "IR", "LA"
DEEPCLUSTER, SUPERVISED = "DeepCluster", "supervised"

# What follows the warm start, by --method. The baselines have no warm start.
OBJECTIVES = {"local_aggregation": LA, "deepcluster": DEEPCLUSTER, "supervised": SUPERVISED}


def phase_after(step: int, warm_start_steps: int, method: str = "local_aggregation") -> str:
    """What a network was trained by last.

    Args:
      step: steps done.
      warm_start_steps: how many of a run's first steps are instance recognition.
      method: one of `OBJECTIVES`.

    Returns:
      'IR' within the warm start, its last step included, 'LA' after it, or the method's objective;
      'untrained' before both.
    """
    if step == 0:
        return UNTRAINED
    return OBJECTIVES[method] if step > warm_start_steps else IR
