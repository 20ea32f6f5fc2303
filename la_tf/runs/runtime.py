"""The machine underneath: strategy, precision, determinism, and a report of all of it."""

import contextlib
import os
import pathlib
import platform
import re
import subprocess
from importlib import metadata
from typing import Any, NotRequired, TypedDict

import tensorflow as tf
from official.common import distribute_utils

from la_tf.config import Config, ConfigError, NumericsConfig, RunConfig
from la_tf.faiss_library import faiss
from la_tf.runs import processor
from la_tf.stored import StoredFileError, parse_json

MAX_SIMILARITIES = 2**31 - 1  # of softmax and top_k on GPUs, which count in int32

REPORTED_PACKAGES = (
    "tensorflow",
    "keras",
    "tensorflow-addons",
    "tf-models-official",
    "faiss-gpu",
    "faiss-cpu",
    "numpy",
    "scikit-learn",
)


def configure(numerics: NumericsConfig, seed: int) -> None:
    """Sets precision, determinism and the seed of the initial weights, for the whole process."""
    grow_gpu_memory()
    tf.keras.utils.set_random_seed(seed)
    if numerics.deterministic:
        # Else TensorFlow scatters on the host, and copies the whole bank there and back, a step.
        # The rows of every scatter are distinct, so that its order does not matter.
        os.environ.setdefault("TF_DISABLE_SCATTER_OP_DETERMINISM", "1")
        tf.config.experimental.enable_op_determinism()
    tf.keras.mixed_precision.set_global_policy(
        "mixed_bfloat16" if numerics.mixed_precision else "float32"
    )
    # TensorFlow's default is TensorFloat-32 where a GPU has it, and no operation can be left out.
    tf.config.experimental.enable_tensor_float_32_execution(numerics.tf32)


def grow_gpu_memory() -> None:
    """Has TensorFlow take memory of GPUs as it needs it, since Faiss shares them for k-means.

    Once it has started they stay as they are.
    """
    for gpu in tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, True)


def start_xla() -> None:
    """Has XLA compile for the first time, which it says on stderr whatever the log level is.

    Call after `make_strategy`, since it touches the devices. GPUs need no XLA.
    """
    if tf.config.list_logical_devices("GPU"):
        return
    stderr = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        tf.function(lambda: tf.zeros([]), jit_compile=True, autograph=False)()
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def make_strategy(run: RunConfig) -> tf.distribute.Strategy:
    """The distribution strategy a run asked for, by its name in TF Model Garden.

    Without a GPU, `num_devices` makes as many logical CPU devices. Call before TensorFlow has
    touched its devices.

    Raises:
      ConfigError: more devices than there are, or workers that are not fully described.
    """
    gpus = tf.config.list_physical_devices("GPU")
    grow_gpu_memory()
    if run.strategy == "multi_worker_mirrored":
        return _multi_worker_strategy(run, len(gpus))
    count = run.num_devices or max(1, len(gpus))
    if gpus and count > len(gpus):
        raise ConfigError(f"--num_devices={count}, but this machine shows {len(gpus)} GPUs.")
    if run.strategy == "one_device":
        if count > 1 and run.num_devices:
            raise ConfigError("--strategy=one_device takes one device: leave out --num_devices.")
        return distribute_utils.get_distribution_strategy("one_device", num_gpus=len(gpus[:1]))
    if gpus:
        return distribute_utils.get_distribution_strategy("mirrored", num_gpus=count)
    set_logical_cpus(count)
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(count)])


def require_replicas(config: Config, count: int, num_examples: int) -> None:
    """Refuses what cannot be shared by `count` replicas.

    Args:
      config: resolved.
      count: replicas.
      num_examples: N.

    Raises:
      ConfigError: the batch has no equal parts or blocks, a replica's part of it has too many
        similarities, or XLA does not go with the rest.
    """
    if config.data.batch_size % count:
        raise ConfigError(
            f"--batch_size={config.data.batch_size} cannot be divided evenly over {count} replicas."
        )
    images, block = config.data.batch_size // count, config.numerics.block_size
    if block and images % block:
        raise ConfigError(
            f"--block_size={block} does not divide the {images} images that a replica has of a "
            "batch."
        )
    if (block or images) * num_examples > MAX_SIMILARITIES:
        fitting = range(1, 1 + max(1, MAX_SIMILARITIES // num_examples))
        largest = max(size for size in fitting if images % size == 0)
        raise ConfigError(
            f"the similarities of {block or images} images to {num_examples} are more than the "
            f"2^31 that TensorFlow can count on a GPU: give --block_size={largest} or less."
        )
    if config.numerics.jit_compile and config.network.sync_bn and count > 1:
        raise ConfigError(
            "--jit_compile and --sync_bn exclude each other: XLA cannot gather the statistics of "
            "several replicas."
        )


def set_logical_cpus(count: int) -> None:
    """Splits the CPU into at least `count` logical devices, as replicas without GPUs."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    if len(tf.config.get_logical_device_configuration(cpu) or [None]) < count:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * count
        )


def _multi_worker_strategy(run: RunConfig, num_gpus: int) -> tf.distribute.Strategy:
    if "TF_CONFIG" not in os.environ and not (run.worker_hosts and run.task_index >= 0):
        raise ConfigError(
            "--strategy=multi_worker_mirrored needs --worker_hosts and --task_index, or TF_CONFIG."
        )
    if run.num_devices:
        raise ConfigError(
            "--num_devices does not apply to several workers: each uses all GPUs it sees, and "
            "CUDA_VISIBLE_DEVICES hides some."
        )
    _require_cluster(run)
    distribute_utils.configure_cluster(run.worker_hosts, run.task_index)
    return distribute_utils.get_distribution_strategy("multi_worker_mirrored", num_gpus=num_gpus)


class _Cluster(TypedDict):
    cluster: dict[str, list[str]]
    task: NotRequired[dict[str, Any]]


def _require_cluster(run: RunConfig) -> None:
    """Refuses a description of workers that TensorFlow cannot use, or would wait for.

    Raises:
      ConfigError: it is of TF_CONFIG, which has the last word, or of the options.
    """
    if given := os.environ.get("TF_CONFIG"):
        try:
            parse_json(given, _Cluster)
        except StoredFileError as error:
            raise ConfigError(f"TF_CONFIG does not describe the workers: {error}.") from None
        return
    hosts = run.worker_hosts.split(",")
    if wrong := [host for host in hosts if not re.fullmatch(r"\S+:[0-9]{1,5}", host)]:
        raise ConfigError(f"--worker_hosts names '{wrong[0]}': give host:port of every worker.")
    if run.task_index >= len(hosts):
        raise ConfigError(
            f"--task_index={run.task_index} is beyond the {len(hosts)} workers of --worker_hosts: "
            f"give 0 to {len(hosts) - 1}."
        )


def describe_devices(strategy: tf.distribute.Strategy) -> str:
    """How many replicas on what, for people."""
    count = strategy.num_replicas_in_sync
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    return f"one {kind}" if count == 1 else f"{count} {kind} replicas"


def has_unused_gpu() -> bool:
    """Whether Faiss sees a GPU and TensorFlow, whose notices are silenced, does not."""
    return faiss.get_num_gpus() > 0 and not tf.config.list_physical_devices("GPU")


def faiss_gpus(strategy: tf.distribute.Strategy) -> range:
    """The GPUs for k-means in this process: as many as it trains on, of those that Faiss sees.

    The one GPU that Faiss sees and TensorFlow does not is one of them.
    """
    return range(min(faiss.get_num_gpus(), local_replicas(strategy)))


def local_replicas(strategy: tf.distribute.Strategy) -> int:
    """How many of the replicas are of this process; TensorFlow has the same number in each."""
    return strategy.num_replicas_in_sync // num_workers(strategy)


def num_workers(strategy: tf.distribute.Strategy) -> int:
    """How many processes train together."""
    resolver = strategy.cluster_resolver
    if resolver is None:
        return 1
    return max(1, sum(map(len, resolver.cluster_spec().as_dict().values())))


def worker_index(strategy: tf.distribute.Strategy) -> int:
    """The place of this process among those that train together; the chief, if any, is 0."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type or resolver.task_type == "chief":
        return 0
    return resolver.task_id + len(resolver.cluster_spec().as_dict().get("chief", []))


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the run's files; of several workers, the first does."""
    return worker_index(strategy) == 0


def environment() -> dict[str, Any]:
    """Versions, processor, devices and the code's commit, for the record."""
    versions = {}
    for package in REPORTED_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        **processor.describe(),
        "gpus": [
            tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
            for gpu in tf.config.list_physical_devices("GPU")
        ],
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """The commit of this checkout, with + if files differ from it; None outside a checkout."""
    here = pathlib.Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
