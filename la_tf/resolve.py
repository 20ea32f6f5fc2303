"""The numbers that a recipe leaves open, and the bounds of those it gives."""

import dataclasses
import math

from la_tf.config import Config, ConfigError

PAPER_NUM_EXAMPLES = 1_281_167  # ImageNet's training images, the N of section 4
PAPER_NUM_CLUSTERS = 30_000  # m of AlexNet and the ResNets, section 4.1
SMALL_DATA_CLUSTER_SIZE = 5  # members a cluster, see `default_num_clusters`


def default_num_clusters(num_examples: int) -> int:
    """m in proportion to N, for data that no recipe names.

    The paper's 30,000 clusters hold 43 of ImageNet's images each; the authors advise m in
    proportion to N. Small data want smaller clusters still: on 10,000 CIFAR-10 images, clusters of
    5 members kept what instance recognition had reached and clusters of 33 did not. Between the
    two, the size of a cluster grows with N.
    """
    paper_size = PAPER_NUM_EXAMPLES / PAPER_NUM_CLUSTERS
    size = min(
        paper_size, max(SMALL_DATA_CLUSTER_SIZE, paper_size * num_examples / PAPER_NUM_EXAMPLES)
    )
    return max(2, round(num_examples / size))


def default_k(num_examples: int) -> int:
    """The paper's k = 4096 where it fits, else a quarter of N, so that background means nearby."""
    return max(1, min(4096, num_examples // 4))


def resolve(config: Config, num_examples: int) -> tuple[Config, list[str]]:
    """Fills every open number from the size of the training set and checks the bounds.

    Args:
      config: the recipe as the user gave it.
      num_examples: N, training images.

    Returns:
      The effective configuration, and one sentence for each number that had to be changed.

    Raises:
      ConfigError: the recipe cannot be trained on N images.
    """
    notes = []
    objective, clustering = config.objective, config.clustering
    if num_examples < config.data.batch_size:
        raise ConfigError(
            f"{num_examples} training images are fewer than one batch of "
            f"{config.data.batch_size}: add images or lower --batch_size."
        )
    k = default_k(num_examples) if objective.k is None else objective.k
    if k > num_examples:
        notes.append(f"k = {k} background neighbours exceed N = {num_examples}: using k = N.")
        k = num_examples
    m = clustering.num_clusters
    m = default_num_clusters(num_examples) if m is None else m
    if m > num_examples:
        raise ConfigError(
            f"--num_clusters={m} is more than the {num_examples} training images; "
            f"{default_num_clusters(num_examples)} is this library's choice for that many."
        )
    _check_bounds(config, k, m)
    return (
        dataclasses.replace(
            config,
            objective=dataclasses.replace(objective, k=k),
            clustering=dataclasses.replace(clustering, num_clusters=m),
        ),
        notes,
    )


def _check_bounds(config: Config, k: int, m: int) -> None:
    positive = {
        "k": k,
        "num_clusters": m,
        "num_clusterings": config.clustering.num_clusterings,
        "batch_size": config.data.batch_size,
        "image_size": config.data.image_size,
        "dim": config.network.dim,
        "tau": config.objective.tau,
        "epochs": config.schedule.epochs,
        "learning_rate": config.optimizer.learning_rate,
        "nce_negatives": config.objective.nce_negatives,
        "kmeans_iterations": config.clustering.kmeans_iterations,
        "crop_area_min": config.augment.crop_area_min,
        "keep_checkpoints": config.run.keep_checkpoints,
        "num_devices": 1 if config.run.num_devices is None else config.run.num_devices,
        "log_every_steps": config.report.log_every_steps,
        "eval_every_epochs": config.report.eval_every_epochs,
    }
    for name, value in positive.items():
        if not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"--{name}={value} must be a positive number.")
    for name, value in {
        "mix": config.objective.mix,
        "crop_area_min": config.augment.crop_area_min,
        "greyscale_probability": config.augment.greyscale_probability,
        "bn_momentum": config.network.bn_momentum,
        "momentum": config.optimizer.momentum,
    }.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"--{name}={value} must lie between 0 and 1.")
    for name, value in {
        "cluster_every_steps": config.clustering.cluster_every_steps,
        "checkpoint_every_steps": config.run.checkpoint_every_steps,
        "checkpoint_every_minutes": config.run.checkpoint_every_minutes,
        "plateau_patience": config.optimizer.plateau_patience,
        "holdout": config.data.holdout,
        "weight_decay": config.optimizer.weight_decay,
        "jitter": config.augment.jitter,
        "hue_jitter": config.augment.hue_jitter,
    }.items():
        if not (value >= 0 and math.isfinite(value)):
            raise ConfigError(f"--{name}={value} must not be negative.")
    if not 0 <= config.schedule.seed < 2**32:
        raise ConfigError(f"--seed={config.schedule.seed} must lie between 0 and {2**32 - 1}.")
    if not config.augment.crop_aspect >= 1:
        raise ConfigError(f"--crop_aspect={config.augment.crop_aspect} must be 1 or more.")
    drops = config.optimizer.drop_epochs
    if list(drops) != sorted(set(drops)):
        raise ConfigError(f"--drop_epochs={drops} must rise.")
    if drops and config.optimizer.plateau_patience:
        raise ConfigError("--drop_epochs and --plateau_patience exclude each other: give one.")
    if config.numerics.jit_compile and config.numerics.deterministic:
        raise ConfigError(
            "XLA has no deterministic gradient of max-pooling: add --nodeterministic to "
            "--jit_compile, and resuming is no longer exact to the bit."
        )
    if not 0 <= config.schedule.ir_epochs <= config.schedule.epochs:
        raise ConfigError(
            f"--ir_epochs={config.schedule.ir_epochs} must lie between 0 and "
            f"--epochs={config.schedule.epochs}."
        )
