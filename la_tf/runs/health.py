"""Is this run normal? Reference values at the start, warnings on the way, a stop when it broke."""

import math
from collections.abc import Callable
from typing import Any

from la_tf.config import Config
from la_tf.errors import UserError
from la_tf.resolve import background_neighbours, clusters

# Spread of the embeddings below this share of 1/sqrt(D) is called a collapse, and more images than
# this share without a close neighbour in their background mean that k or m do not fit the data.
COLLAPSED_SPREAD = 0.1
MANY_EMPTY_CLOSE = 0.5
# Training makes this similarity about 0. Above it, pictures look alike to search and kNN.
NEARLY_CONSTANT = 0.9

EXPORTED = "exported"  # kind of the record on the network as an export has it


class TrainingDiverged(UserError, RuntimeError):
    """The loss is no longer a number; the message names the steps between which it happened."""


def diverged(what: str, first: int, last: int) -> TrainingDiverged:
    """The error to raise when `what` is not finite after step `last` and was after step `first`."""
    return TrainingDiverged(
        f"{what} became infinite or not a number between step {first} and step {last}. No "
        "checkpoint was written of it. Start anew in another --run_dir with a lower "
        "--learning_rate or a higher --tau."
    )


def expected_values(config: Config, num_examples: int) -> list[str]:
    """What a healthy run shows at its start, as sentences for the console.

    Args:
      config: of the run.
      num_examples: N.
    """
    if config.method.method != "local_aggregation":
        return [_expected_of_a_baseline(config)]
    k = background_neighbours(config.objective.k, num_examples)
    h = config.clustering.num_clusterings
    members = num_examples / clusters(config.clustering.num_clusters, num_examples)
    lines = []
    if config.schedule.ir_epochs:
        lines.append(
            "IR loss: above ln N at first, while an image is no nearer to its own row than to "
            f"others, then below ln N = {math.log(num_examples):.2f} and falling."
            if config.objective.ir_loss == "softmax"
            else "IR loss (NCE): falls from the first epoch on."
        )
    if config.schedule.ir_epochs < config.schedule.epochs and k > members:
        # Similarities all equal give log(k / c); close neighbours are nearer than that, once the
        # warm start has given the bank some order.
        lines.append(
            f"LA loss: starts around or below ln(k / c) = {math.log(k / members):.2f}, with "
            f"c = N / m = {members:.0f} members a cluster, H = {h} of which are joined."
        )
    elif config.schedule.ir_epochs < config.schedule.epochs:
        lines.append(
            f"LA loss: k = {k} is no more than the {members:.0f} members of a cluster, so that all "
            "of the background can be close and the loss 0: raise --k or --num_clusters."
        )
    return lines


def _expected_of_a_baseline(config: Config) -> str:
    """The same for `--method`s other than Local Aggregation, whose configuration is resolved."""
    if config.method.method == "supervised":
        return "supervised loss: starts near the logarithm of the number of classes, then falls."
    m = config.clustering.num_clusters
    return (
        f"DeepCluster loss: starts near ln m = {math.log(m):.2f} in every round, since the layer "
        "on top is new, and falls within it."
    )


class HealthMonitor:
    """Watches the records of the training loss; says once when a run is far from healthy."""

    def __init__(self, dim: int, say: Callable[[str], None]):
        """Compares with 1/sqrt(dim), the spread of an even sphere; `say` takes warnings."""
        self._even_spread = 1.0 / math.sqrt(dim)
        self._say = say
        self._said: set[str] = set()
        self._in_training = "not known"

    def __call__(self, record: dict[str, Any]) -> None:
        """Takes any record of a run.

        Raises:
          TrainingDiverged: the loss is not finite.
        """
        if record["kind"] == EXPORTED and record["similarity"] > NEARLY_CONSTANT:
            self._warn(
                f"constant at {record['step']}",  # that of the end is said in any case
                f"step {record['step']}: the embeddings of the exported network are nearly "
                f"constant: two training images have a similarity of {record['similarity']:.3f} in "
                "the mean. In training, where each batch is normalised by itself, their spread is "
                f"{self._in_training}. Search and kNN will hardly tell images apart. Train longer, "
                "or, where only this spread is high, lower --bn_momentum.",
            )
        if record["kind"] != "train":
            return
        if not math.isfinite(record["loss"]):
            raise diverged("the loss", record["step"] - record["steps"], record["step"])
        share = record["spread"] / self._even_spread
        self._in_training = f"{share:.0%} of that of an even sphere"
        if share < COLLAPSED_SPREAD:
            self._warn(
                "collapse",
                f"step {record['step']}: the embeddings have nearly collapsed into one point: "
                f"their spread is {record['spread']:.4f}, an even sphere has "
                f"{self._even_spread:.4f}. Lower --learning_rate or lengthen --ir_epochs.",
            )
        if record.get("empty_close", 0) > MANY_EMPTY_CLOSE:
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
