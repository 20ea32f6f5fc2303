"""The numbers that a recipe leaves open, and what the numbers that it gives must keep."""

import dataclasses

from la_tf.config import Config, ConfigError
from la_tf.options import kind_of, option_value, sections_and_options

PAPER_NUM_EXAMPLES = 1_281_167  # ImageNet's training images, the N of section 4
PAPER_NUM_CLUSTERS = 30_000  # m of AlexNet and the ResNets, section 4.1
SMALL_DATA_CLUSTER_SIZE = 5  # members a cluster, see `default_num_clusters`
DEEPCLUSTER_NUM_CLUSTERS = 10_000  # m of Caron et al. 2018 on ImageNet
DEEPCLUSTER_FEATURES = 4096  # below its layer on top, of fc7
OFFICIAL_BN_MOMENTUM = 0.997  # 1/(1 - 0.997) = 333 steps are averaged
INITIAL_STATISTICS_LEFT = 0.01  # see `default_bn_momentum`
PAPER_EPOCHS, PAPER_IR_EPOCHS = 200, 10  # section 4.1
MOST_EPOCHS = 400  # of `epochs_of_views`
BEGINNINGS = ("warm_start", "extend", "init_from")  # options that say what a run begins with


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


def default_pseudo_classes(num_examples: int) -> int:
    """DeepCluster's m: the 10,000 of ImageNet in proportion to N, but 100, below which it fails."""
    m = round(DEEPCLUSTER_NUM_CLUSTERS * num_examples / PAPER_NUM_EXAMPLES)
    return min(num_examples, max(100, m))


def default_k(num_examples: int) -> int:
    """The paper's k = 4096 where it fits, else a quarter of N, so that background means nearby."""
    return max(1, min(4096, num_examples // 4))


def default_bn_momentum(steps: int) -> float:
    """How much of batch norm's moving statistics a step keeps, where no recipe says it.

    The initial statistics weigh 1 % after a tenth of these steps, unless the official momentum
    forgets them sooner. Where a tenth is so short that fewer than ten steps would be averaged, it
    is ten (0.9), as long as the initial statistics weigh no more than 1 % at the end.

    Args:
      steps: of the warm start, or of a run without one. The length of what follows does not count:
        a warm start is the same whatever is trained after it.
    """
    after_a_tenth = INITIAL_STATISTICS_LEFT ** (10 / steps)
    at_the_end = INITIAL_STATISTICS_LEFT ** (1 / steps)
    return round(min(OFFICIAL_BN_MOMENTUM, max(after_a_tenth, min(0.9, at_the_end))), 4)


def epochs_of_views(views: int, num_examples: int, batch_size: int) -> int:
    """Epochs, of whole batches, in which `views` of N images are seen, 1 to `MOST_EPOCHS`.

    Few images would be seen thousands of times, and instance recognition knows them by heart then.
    """
    seen = max(1, num_examples // batch_size) * batch_size
    return max(1, min(MOST_EPOCHS, round(views / seen)))


def background_neighbours(k: int | None, num_examples: int) -> int:
    """k for N images: as given, or the library's choice.

    Raises:
      ConfigError: it exceeds N.
    """
    return _given_or_chosen("k", k, default_k(num_examples), num_examples)


def clusters(m: int | None, num_examples: int) -> int:
    """m for N images: as given, or the library's choice.

    Raises:
      ConfigError: it exceeds N.
    """
    return _given_or_chosen("num_clusters", m, default_num_clusters(num_examples), num_examples)


def background_clusters(k: int, num_clusterings: int, num_examples: int) -> int:
    """m of `--background=clusters`: joined, the clusters hold about k images, as in Table 4."""
    return max(2, round(num_clusterings * num_examples / k))


def close_neighbours(given: int | None, m: int, k: int, num_examples: int) -> int:
    """k' of `--close=nearest`: as given, or as many as a cluster holds.

    Raises:
      ConfigError: it exceeds k.
    """
    if given is not None and given > k:
        raise ConfigError(f"--close_k={given} is more than the {k} background neighbours of --k.")
    return min(k, max(1, round(num_examples / m))) if given is None else given


def _given_or_chosen(option: str, given: int | None, choice: int, num_examples: int) -> int:
    if given is not None and given > num_examples:
        raise ConfigError(
            f"--{option}={given} is more than the {num_examples} training images; {choice} is this "
            "library's choice for that many."
        )
    return choice if given is None else given


def resolve(config: Config, num_examples: int) -> Config:
    """Fills every open number from the size of the training set and checks the bounds.

    Args:
      config: the recipe as the user gave it.
      num_examples: N, training images.

    Returns:
      The effective configuration; of it, `background_neighbours` and `clusters` give what it says.

    Raises:
      ConfigError: the recipe cannot be trained on N images.
    """
    check_bounds(config)
    config = _without_unused(_scheduled(config, num_examples))
    if num_examples < config.data.batch_size:
        raise ConfigError(
            f"{num_examples} training images are fewer than one batch of "
            f"{config.data.batch_size}: add images or lower --batch_size."
        )
    k = background_neighbours(config.objective.k, num_examples)
    if config.method.method == "deepcluster":
        choice = default_pseudo_classes(num_examples)
        m = _given_or_chosen("num_clusters", config.clustering.num_clusters, choice, num_examples)
    else:
        m = clusters(config.clustering.num_clusters, num_examples)
    close_k = config.clustering.close_k
    if config.clustering.close == "nearest":
        close_k = close_neighbours(close_k, m, k, num_examples)
    bn_momentum = config.network.bn_momentum
    if bn_momentum is None:
        epochs = config.schedule.ir_epochs or config.schedule.epochs
        bn_momentum = default_bn_momentum(epochs * (num_examples // config.data.batch_size))
    return dataclasses.replace(
        config,
        network=dataclasses.replace(config.network, bn_momentum=bn_momentum),
        objective=dataclasses.replace(config.objective, k=k),
        clustering=dataclasses.replace(config.clustering, num_clusters=m, close_k=close_k),
    )


def _scheduled(config: Config, num_examples: int) -> Config:
    """The lengths of both phases, and with `views` when the learning rate falls."""
    schedule, optimizer = config.schedule, config.optimizer
    epochs, ir_epochs = schedule.epochs, schedule.ir_epochs
    if epochs is None and schedule.views is not None:
        epochs = epochs_of_views(schedule.views, num_examples, config.data.batch_size)
        if ir_epochs is None:
            ir_epochs = round(0.6 * epochs)
        drop = round(0.85 * epochs)
        if not (optimizer.drop_epochs or optimizer.plateau_patience) and drop < epochs:
            optimizer = dataclasses.replace(optimizer, drop_epochs=(drop,))
    schedule = dataclasses.replace(
        schedule,
        epochs=PAPER_EPOCHS if epochs is None else epochs,
        ir_epochs=PAPER_IR_EPOCHS if ir_epochs is None else ir_epochs,
    )
    config = dataclasses.replace(config, schedule=schedule, optimizer=optimizer)
    check_bounds(config)
    return config


def _without_unused(config: Config) -> Config:
    """What a baseline leaves out of a recipe for Local Aggregation, set to what it does instead."""
    if config.method.method == "local_aggregation":
        return config
    config = dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, ir_epochs=0))
    if config.method.method == "deepcluster":
        clustering = dataclasses.replace(
            config.clustering,
            num_clusterings=1,
            cluster_input="center_crops",
            close="clusters",
            clusterer="kmeans",
        )
        method = config.method
        if method.top_rate is None:
            rate = DEEPCLUSTER_FEATURES / config.network.dim
            method = dataclasses.replace(method, top_rate=rate)
        config = dataclasses.replace(config, method=method, clustering=clustering)
    return config


def check_bounds(config: Config) -> None:
    """Checks all that can be known without the data; what is left open passes.

    Raises:
      ConfigError: an option out of its bounds, by name, or two that exclude each other.
    """
    for name, (section, option) in sections_and_options().items():
        value = getattr(getattr(config, section), name)
        try:
            option_value(option, value)
            if isinstance(value, str) and kind_of(option) is not str:
                raise ValueError("is text, which flags and recipes alone turn into values")
        except ValueError as error:
            raise ConfigError(f"--{name}={value} {error}.") from None
    drops = config.optimizer.drop_epochs
    if list(drops) != sorted(set(drops)):
        raise ConfigError(f"--drop_epochs={drops} must rise.")
    if drops and config.optimizer.plateau_patience:
        raise ConfigError("--drop_epochs and --plateau_patience exclude each other: give one.")
    clustering = config.clustering
    if clustering.clusterer == "dbscan" and clustering.num_clusterings > 1:
        raise ConfigError(
            f"--num_clusterings={clustering.num_clusterings} needs clusterings that differ, and "
            "DBSCAN has no random start: give --num_clusterings=1."
        )
    if config.numerics.jit_compile and config.numerics.deterministic:
        raise ConfigError(
            "XLA has no deterministic gradient of max-pooling: add --nodeterministic to "
            "--jit_compile, and resuming is no longer exact to the bit."
        )
    run = config.run
    beginnings = [f"--{name}" for name in BEGINNINGS if getattr(run, name) is not None]
    if len(beginnings) > 1:
        raise ConfigError(
            f"{' and '.join(beginnings)} exclude each other: a run begins with one of them."
        )
    if run.extend is not None and run.run_dir is None:
        raise ConfigError("--extend makes a new run: name its directory with --run_dir.")
    method = config.method.method
    if method != "local_aggregation" and run.warm_start is not None:
        raise ConfigError(f"--warm_start excludes --method={method}, which has no warm start.")
    epochs, ir_epochs = config.schedule.epochs, config.schedule.ir_epochs
    if method == "local_aggregation" and None not in (epochs, ir_epochs) and ir_epochs > epochs:
        raise ConfigError(f"--ir_epochs={ir_epochs} must not exceed --epochs={epochs}.")
