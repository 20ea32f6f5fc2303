"""At what size the paper's tables are run: its own, or one of two that a laptop holds."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from la_tf.config import Config
from la_tf.recipes import recipe
from la_tf.resolve import PAPER_NUM_EXAMPLES


@dataclasses.dataclass(frozen=True)
class Scale:
    """A recipe in configs/, and the numbers of the paper in its proportions.

    Attributes:
      name: what `--scale` takes.
      recipe: the flagfile that every row starts from, without folder and ending.
      data: what is trained on unless `--data` says it; None where it must.
      options: what differs from the recipe in every row.
      num_examples: N, training images.
      cluster_size: images in a cluster where the paper has m = 10,000.
      k: background neighbours where the paper has 4096.
      often: steps between clusterings of the row "more_freq"; the paper's are 1000.
      deepcluster: what DeepCluster needs beside the base run's options.
      evaluation: flags of `tools/evaluate.py` for Table 1, beside the protocols.
      seeds: of the runs of each row, unless others are asked for.
    """

    name: str
    recipe: str
    data: str | None
    options: Mapping[str, Any]
    num_examples: int
    cluster_size: float
    k: int
    often: int
    deepcluster: Mapping[str, Any]
    evaluation: tuple[str, ...]
    seeds: tuple[int, ...]

    @property
    def base(self) -> Config:
        """The recipe with the options of this scale."""
        return recipe(self.recipe, **self.options)

    def clusters(self, thousands: int) -> int:
        """m for that many thousands of the paper's clusters."""
        return round(self.num_examples / self.cluster_size * thousands / 10)


IMAGENET = Scale(
    "imagenet",
    "resnet18",
    None,
    {},
    num_examples=PAPER_NUM_EXAMPLES,
    cluster_size=PAPER_NUM_EXAMPLES / 10_000,
    k=4096,
    often=1000,
    deepcluster={"num_clusters": 10_000},
    evaluation=(),
    seeds=(0,),
)

# 10,000 images of CIFAR-10. Clusters are far smaller than the paper's: with its proportions, 128
# images where it has m = 10,000, a cluster would hold an eighth of a class.
LAPTOP = Scale(
    "laptop",
    "cifar10",
    None,
    {
        **{"limit": 10_000, "k": 1000, "epochs": 84, "ir_epochs": 60, "drop_epochs": "75"},
        **{"log_every_steps": 78, "eval_every_epochs": 12},
        **{"mixed_precision": True, "write_report": False},
    },
    num_examples=10_000,
    cluster_size=10,
    k=1000,
    often=8,
    # The layer on top starts anew in each round, and has too few steps in one epoch of this size.
    deepcluster={"num_clusters": 100, "cluster_every_steps": 312},
    evaluation=("--cache_features", "--epochs=30"),
    seeds=(0, 1, 2),
)

# The digits that scikit-learn carries: nothing to download, minutes a row. With m = 120 where the
# paper has 10,000, a cluster holds 12 digits, a twelfth of a class.
DIGITS = Scale(
    "digits",
    "digits",
    "digits",
    {
        **{"log_every_steps": 11, "eval_every_epochs": 20, "baselines": False},
        **{"mixed_precision": True, "write_report": False},
    },
    num_examples=1437,
    cluster_size=12,
    k=256,
    often=3,
    deepcluster={"num_clusters": 100, "cluster_every_steps": 33},
    evaluation=("--cache_features", "--epochs=30"),
    seeds=(0, 1, 2),
)

SCALES = {scale.name: scale for scale in (DIGITS, LAPTOP, IMAGENET)}
