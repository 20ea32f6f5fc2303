"""Every hyperparameter, its default, and where in the paper it comes from.

The paper is Zhuang, Zhai and Yamins, "Local Aggregation for Unsupervised Learning of Visual
Embeddings", ICCV 2019. "official" marks a value that only the authors' released code states.

A `Config` is a tree of frozen dataclasses. Every leaf name is unique, so that a command line can
offer each as a flag of the same name, and every number carries the range that it must lie in.
`None` means "the library decides from the data": `resolve.py` holds how.
"""

import dataclasses
from typing import Any

_MANY = 2**31 - 1  # no limit but that of 32 bits


class ConfigError(ValueError):
    """A configuration that cannot be trained; the message says what to change."""


def _option(default: Any, help_text: str, section: str = "", **limits: tuple):
    """A dataclass field with its help text and paper section, and choices (prefixes) or range."""
    limits = {"choices": (), "prefixes": (), "within": ()} | limits
    metadata = {"help": help_text, "section": section, **limits}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class MethodConfig:
    """What is trained, and what only the baselines have; all else is the same for each."""

    method: str = _option(
        "local_aggregation",
        "Local Aggregation, or a baseline: DeepCluster, which predicts the clusters of its own "
        "features, or supervised training on the labels. The baselines leave out the warm start "
        "(--ir_epochs), tau and k; DeepCluster makes one clustering, of --num_clusters.",
        "Table 1",
        choices=("local_aggregation", "deepcluster", "supervised"),
    )
    pca_dim: int = _option(
        256,
        "DeepCluster: dimensions to which features are whitened before k-means, D at most.",
        "Caron et al. 2018",
        within=(1, 2**16),
    )
    top_rate: float | None = _option(
        None,
        "DeepCluster: learning rate of the layer on top, as a multiple of the network's; default "
        "4096 / D, with which a step moves the logits of D features as far as of fc7's 4096.",
        within=(1e-6, 1e6),
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are cut into batches."""

    data: str = _option(
        "digits",
        "Training images: a folder (DIR, or DIR/train beside DIR/val or DIR/test; class subfolders "
        "are optional), a folder of TFRecords from tools/make_tfrecords.py, tfds:NAME, or digits.",
    )
    val_data: str | None = _option(
        None, "Held-out images for kNN, in any form --data takes. Default: DIR/val or DIR/test."
    )
    holdout: int = _option(
        0,
        "Without held-out images: keep this many of the training images out, chosen by --seed.",
        within=(0, _MANY),
    )
    limit: int = _option(
        0,
        "Train on this many of the training images, chosen by --seed; 0 is all.",
        within=(0, _MANY),
    )
    skip_bad_images: bool = _option(
        False, "Leave out files that cannot be decoded, and count them, instead of stopping."
    )
    max_megapixels: float = _option(
        150.0, "Millions of pixels in an image; a larger one counts as bad.", within=(0.001, 170)
    )
    image_size: int = _option(
        224, "Side of the square views, in pixels.", "section 4.1", within=(1, 4096)
    )
    batch_size: int = _option(
        128, "Images a step, over all replicas.", "section 4.1", within=(1, 2**20)
    )


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """The random view of an image; every default is the official code's."""

    crop_area_min: float = _option(
        0.2, "Smallest share of the area in a random crop.", "official", within=(1e-6, 1)
    )
    crop_aspect: float = _option(
        4 / 3, "Crops have aspect ratios in [1/this, this].", "official", within=(1, 100)
    )
    greyscale_probability: float = _option(
        0.2, "Share of views without colour.", "official", within=(0, 1)
    )
    jitter: float = _option(
        0.4,
        "Brightness, contrast and saturation are scaled by 1 +- this.",
        "official",
        within=(0, 1),
    )
    hue_jitter: float = _option(
        0.4, "Hue is turned by +- this share of the circle.", "official", within=(0, 1)
    )
    flip: bool = _option(True, "Mirror half of the views left to right.", "official")


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """The embedding function f_theta."""

    network: str = _option(
        "alexnet",
        "Architecture; keras:NAME is one of tf.keras.applications, garden:NAME a backbone of TF "
        "Model Garden, each with its parameters behind commas, as in keras:MobileNetV2,alpha=0.5.",
        "section 4.1",
        choices=("alexnet", "vgg16", "resnet18", "resnet50", "smallnet"),
        prefixes=("garden:", "keras:"),
    )
    dim: int = _option(128, "D, the length of an embedding.", "section 4.1", within=(1, 2**16))
    sync_bn: bool = _option(False, "Batch statistics over all replicas instead of each its own.")
    bn_momentum: float | None = _option(
        None,
        "How much of the moving batch statistics a step keeps; default the official 0.997, or less "
        "in short runs, which would otherwise end with the statistics they began with.",
        "official",
        within=(0, 1),
    )


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """Equations 1 to 5."""

    tau: float = _option(
        0.07, "Temperature of the softmax.", "Eq. 1, section 4.1", within=(1e-3, 1e3)
    )
    k: int | None = _option(
        None,
        "Background neighbours, N at most; default 4096, or N/4 on smaller data.",
        "section 4.1",
        within=(1, _MANY),
    )
    background: str = _option(
        "nearest",
        "Background neighbours: the k nearest, the clusters of three coarse clusterings, or all.",
        "Table 4",
        choices=("nearest", "clusters", "all"),
    )
    mix: float = _option(
        0.5, "t, the weight of the new embedding in the bank.", "Eq. 5", within=(0, 1)
    )
    ir_loss: str = _option(
        "softmax",
        "Instance recognition by exact softmax, or by noise-contrastive estimation as official.",
        "section 4.1",
        choices=("softmax", "nce"),
    )
    nce_negatives: int = _option(
        4096, "Noise samples a step for --ir_loss=nce.", "official", within=(1, 2**24)
    )


@dataclasses.dataclass(frozen=True)
class ClusteringConfig:
    """How the close neighbours are found (section 3.1)."""

    # Labels are float32, which holds whole numbers up to 2^24 exactly.
    num_clusters: int | None = _option(
        None,
        "m, clusters in one k-means, N at most; default in proportion to N.",
        "section 4.1",
        within=(1, 2**24),
    )
    num_clusterings: int = _option(
        3, "H, independent k-means runs.", "section 4.1", within=(1, 1000)
    )
    close: str = _option(
        "clusters",
        "Close neighbours: the clusters that hold an image, the image itself, or the nearest.",
        "Table 5",
        choices=("clusters", "self", "nearest"),
    )
    close_k: int | None = _option(
        None,
        "k', close neighbours of --close=nearest, k at most; default N/m, as many as a cluster.",
        "section 5.2",
        within=(1, _MANY),
    )
    combine: str = _option(
        "union",
        "Close is what shares a cluster in any of the H clusterings, or in each.",
        "section 3.1",
        choices=("union", "intersection"),
    )
    clusterer: str = _option(
        "kmeans",
        "How close neighbours are clustered; DBSCAN, which finds m by itself and makes one "
        "clustering, compares all images with each other: for small data.",
        "section 5.2",
        choices=("kmeans", "dbscan"),
    )
    dbscan_eps: float | None = _option(
        None,
        "DBSCAN: the largest distance of neighbours on the unit sphere; default the distance at "
        "which half of the images are cores.",
        within=(1e-6, 2),
    )
    dbscan_min_samples: int = _option(
        5,
        "DBSCAN: images within that distance that make an image a core of a cluster.",
        within=(2, _MANY),
    )
    cluster_every_steps: int = _option(
        0,
        "Cluster again after this many steps; 0 is once an epoch.",
        "supplement C",
        within=(0, _MANY),
    )
    cluster_input: str = _option(
        "bank",
        "What is clustered: the memory bank, or fresh embeddings of centre crops.",
        "supplement C",
        choices=("bank", "center_crops"),
    )
    kmeans_iterations: int = _option(
        20, "Lloyd iterations of one k-means.", "official", within=(1, 10_000)
    )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Stochastic gradient descent with momentum (section 4.1)."""

    learning_rate: float = _option(
        0.03, "Initial learning rate.", "section 4.1", within=(1e-30, 1e30)
    )
    momentum: float = _option(0.9, "Momentum.", "section 4.1", within=(0, 1))
    weight_decay: float = _option(
        1e-4,
        "lambda; its gradient is lambda * theta, on kernels only.",
        "Eq. 4, section 4.1",
        within=(0, 100),
    )
    drop_epochs: tuple[int, ...] = _option(
        (), "Epochs before which the learning rate falls tenfold.", "section 4.1", within=(1, 10**6)
    )
    plateau_patience: int = _option(
        0,
        "Instead of --drop_epochs: fall tenfold when held-out kNN has not improved in this many "
        "evaluations, twice at most; 0 is off.",
        "section 4.1",
        within=(0, 10**6),
    )


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """How long each objective is trained, and from which seed."""

    epochs: int | None = _option(
        None,
        "Epochs in total, instance recognition included; default 200, or as --views says.",
        "section 4.1",
        within=(1, 10**6),
    )
    views: int | None = _option(
        None,
        "Instead of --epochs: how many views the network is to see in all, of each image 400 at "
        "most. Of the epochs that makes, 60 % are instance recognition and the learning rate falls "
        "after 85 %, unless --ir_epochs and --drop_epochs say otherwise.",
        within=(1, 10**12),
    )
    ir_epochs: int | None = _option(
        None,
        "Epochs of instance recognition as warm start; default 10, or as --views says.",
        "section 4.1",
        within=(0, 10**6),
    )
    ir_until_plateau: bool = _option(
        False,
        "End instance recognition as soon as its loss has levelled off, after --ir_epochs at the "
        "latest; --epochs and --drop_epochs stay as they are.",
        "section 4.1",
    )
    seed: int = _option(
        0, "All randomness is a function of (seed, epoch, index).", within=(0, 2**32 - 1)
    )


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """What metrics.jsonl holds."""

    log_every_steps: int = _option(
        50, "Steps between records of the training loss.", within=(1, _MANY)
    )
    eval_every_epochs: int = _option(
        1, "Epochs between kNN evaluations, when there are labels.", within=(1, 10**6)
    )
    baselines: bool = _option(
        False,
        "Also evaluate raw pixels and the untrained network, all against centre crops of the "
        "training images. Costs a few passes over them: for small data.",
    )


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Where and on what a run happens, and what it begins with."""

    run_dir: str | None = _option(None, "Directory of the run; default runs/<data>-<network>.")
    warm_start: str | None = _option(
        None,
        "A run whose instance recognition this one takes over instead of repeating it, up to the "
        "newest checkpoint at the end of an epoch. Images, seed and options must be the same, but "
        "for what matters later alone.",
    )
    extend: str | None = _option(
        None,
        "A finished run, all of whose state this one takes over, to train on up to --epochs. "
        "Options that are not given are that run's; --epochs and later --drop_epochs may change.",
    )
    init_from: str | None = _option(
        None,
        "A run, or an export's weights.npz, with whose network this one begins instead of random "
        "weights, on any images and any schedule. Bank, labels and optimizer begin anew.",
    )
    callbacks: str | None = _option(
        None,
        "Keras callbacks of your own, as module:function, several with commas: each function is "
        "called with the Config and the run directory, and returns a callback or a list of them.",
    )
    strategy: str = _option(
        "mirrored",
        "tf.distribute strategy, by its name in TF Model Garden.",
        choices=("mirrored", "one_device", "multi_worker_mirrored"),
    )
    num_devices: int | None = _option(
        None,
        "GPUs to use (default all), or logical CPU devices where there is no GPU (default 1).",
        within=(1, 128),
    )
    worker_hosts: str | None = _option(
        None, "multi_worker_mirrored: host:port of every worker, comma-separated."
    )
    task_index: int = _option(
        -1, "multi_worker_mirrored: this worker's place in --worker_hosts.", within=(-1, 10**5)
    )
    checkpoint_every_steps: int = _option(
        0,
        "Steps between checkpoints; 0 is by time alone, or once an epoch with several workers.",
        within=(0, _MANY),
    )
    checkpoint_every_minutes: float = _option(
        10.0,
        "Minutes between checkpoints, in a single process; 0 is by steps alone.",
        within=(0, 1e6),
    )
    keep_checkpoints: int = _option(
        3, "How many of the newest checkpoints stay.", within=(1, 10**6)
    )
    write_report: bool = _option(True, "End with report.html, as tools/analyze.py writes it.")


@dataclasses.dataclass(frozen=True)
class NumericsConfig:
    """Precision and compilation; part of a run's identity, since they change the last bits."""

    mixed_precision: bool = _option(
        False, "Network in mixed_bfloat16; similarities, softmax and bank stay float32."
    )
    tf32: bool = _option(
        False,
        "Let GPUs that have TensorFloat-32 (Ampere and later) use it for every float32 product, "
        "similarities included: faster, with 10 bits of mantissa instead of 23.",
    )
    jit_compile: bool = _option(
        False,
        "Compile the network's passes with XLA; without --sync_bn, and with --nodeterministic.",
    )
    block_size: int = _option(
        0,
        "Images of a replica's batch that are compared with the bank at once, a divisor of their "
        "number; 0 is all. For a bank beside which B x N similarities do not fit.",
        within=(0, 2**20),
    )
    deterministic: bool = _option(True, "Only deterministic kernels, so that resuming is exact.")


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole recipe."""

    method: MethodConfig = MethodConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    network: NetworkConfig = NetworkConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    clustering: ClusteringConfig = ClusteringConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    numerics: NumericsConfig = NumericsConfig()
    report: ReportConfig = ReportConfig()
    run: RunConfig = RunConfig()
