"""Is this run normal? Reference values at the start, warnings on the way, a stop when it broke."""

import math
from collections.abc import Callable
from typing import Any

from la_tf.config import Config

# Spread of the embeddings below this share of 1/sqrt(D) is called a collapse, and more images than
# this share without a close neighbour in their background mean that k or m do not fit the data.
COLLAPSED_SPREAD = 0.1
MANY_EMPTY_CLOSE = 0.5


class TrainingDiverged(RuntimeError):
    """The loss is no longer a number; the message names the steps between which it happened."""


def require_finite(loss: float, step: int, steps: int) -> None:
    """Stops a run whose mean loss over the last `steps` steps is not a number.

    Raises:
      TrainingDiverged: naming the interval of steps.
    """
    if not math.isfinite(loss):
        raise TrainingDiverged(
            f"the loss became {loss} between step {step - steps} and step {step}: lower "
            "--learning_rate or raise --tau, or go back to an older checkpoint; no checkpoint was "
            "written since."
        )


def expected_values(config: Config, num_examples: int) -> list[str]:
    """What a healthy run shows at its start, as sentences for the console.

    Args:
      config: resolved, so that k and m are numbers.
      num_examples: N.
    """
    k, h = config.objective.k, config.clustering.num_clusterings
    members = num_examples / config.clustering.num_clusters
    lines = []
    if config.schedule.ir_epochs:
        lines.append(
            "IR loss: above ln N at first, while all embeddings are still alike, then below "
            f"ln N = {math.log(num_examples):.2f} and falling."
            if config.objective.ir_loss == "softmax"
            else "IR loss (NCE): falls from the first epoch on."
        )
    if config.schedule.ir_epochs < config.schedule.epochs:
        # Similarities all equal give log(k / c); close neighbours are nearer than that.
        lines.append(
            f"LA loss: starts below ln(k / c) = {math.log(max(1.0, k / members)):.2f}, with "
            f"c = N / m = {members:.0f} members a cluster, H = {h} of which are joined."
        )
    return lines


class HealthMonitor:
    """Watches the records of the training loss; says once when a run is far from healthy."""

    def __init__(self, dim: int, say: Callable[[str], None]):
        """Compares with 1/sqrt(dim), the spread of an even sphere; `say` takes warnings."""
        self._even_spread = 1.0 / math.sqrt(dim)
        self._say = say
        self._said: set[str] = set()

    def __call__(self, record: dict[str, Any]) -> None:
        """Takes any record of a run.

        Raises:
          TrainingDiverged: the loss is not finite.
        """
        if record["kind"] != "train":
            return
        require_finite(record["loss"], record["step"], record["steps"])
        share = record["spread"] / self._even_spread
        if share < COLLAPSED_SPREAD:
            self._warn(
                "collapse",
                f"step {record['step']}: the embeddings have nearly collapsed into one point: "
                f"their spread is {record['spread']:.4f}, an even sphere has "
                f"{self._even_spread:.4f}. Lower --learning_rate or lengthen --ir_epochs.",
            )
        if record["empty_close"] > MANY_EMPTY_CLOSE:
            self._warn(
                "empty",
                f"step {record['step']}: {record['empty_close']:.0%} of the images have no close "
                "neighbour in their background and teach nothing. Raise --k or lower "
                "--num_clusters.",
            )

    def _warn(self, kind: str, sentence: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            self._say(sentence)
