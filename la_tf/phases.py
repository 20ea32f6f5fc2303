"""The objectives that a run goes through, by the names that tables and records have for them."""

UNTRAINED, IR, LA = "untrained", "IR", "LA"


def phase_after(step: int, warm_start_steps: int) -> str:
    """What a network was trained by last.

    Args:
      step: steps done.
      warm_start_steps: how many of a run's first steps are instance recognition.

    Returns:
      'IR' within the warm start, its last step included, 'LA' after it; 'untrained' before both.
    """
    if step == 0:
        return UNTRAINED
    return LA if step > warm_start_steps else IR
