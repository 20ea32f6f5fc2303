"""From configuration to a network and to a compiled model."""

import math

import numpy as np
import tensorflow as tf

from la_tf.banked_model import BankedModel
from la_tf.baselines.deepcluster import DeepCluster
from la_tf.baselines.supervised import Supervised
from la_tf.config import Config, ConfigError
from la_tf.data.augment import DEVIATION, MEAN
from la_tf.memory import require_memory
from la_tf.model import LocalAggregation
from la_tf.networks import build_network
from la_tf.resolve import OFFICIAL_BN_MOMENTUM
from la_tf.schedules import learning_rate

EMBEDDING = "embedding"  # the level above conv1 to conv5


def network_of(config: Config) -> tf.keras.Model:
    """The network of a recipe, untrained; under a strategy, call it in its scope.

    Raises:
      ConfigError: the network does not exist or does not take images of this size.
    """
    network = config.network
    try:
        return build_network(
            network.network,
            config.data.image_size,
            network.dim,
            network.sync_bn,
            # What is not resolved is not trained, and without training it has no effect.
            OFFICIAL_BN_MOMENTUM if network.bn_momentum is None else network.bn_momentum,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None


def with_preprocessing(network: tf.keras.Model, level: str = EMBEDDING) -> tf.keras.Model:
    """A network, or its layers up to a level, behind the normalisation of its images.

    It is made of Keras's own layers and, in ResNets, of TF Model Garden's blocks.

    Args:
      network: from `build_network`; its layers become those of the model.
      level: 'embedding', or one of conv1 to conv5, see `networks.readouts`.

    Returns:
      RGB images [B, S, S, 3] from 0 to 255, not normalised -> unit embeddings [B, D], or [B, h, w,
      C] of the level.

    Raises:
      ValueError: there is no such level.
    """
    backbone = network.get_layer("backbone")
    if level not in (levels := (EMBEDDING, *backbone.readout_layers)):
        raise ValueError(f"there is no level '{level}': choose one of {', '.join(levels)}.")
    images = tf.keras.Input(network.input_shape[1:], name="images")
    scale = [1 / (255 * d) for d in DEVIATION]
    offset = [-m / d for m, d in zip(MEAN, DEVIATION, strict=True)]
    x = tf.keras.layers.Rescaling(scale, offset, name="normalize")(images)
    if level != EMBEDDING:
        end, head = backbone.get_layer(backbone.readout_layers[level]).output, []
    else:
        end = backbone.output[max(backbone.output, key=int)]
        head = network.layers[network.layers.index(backbone) + 1 :]  # a chain
    x = tf.keras.Model(backbone.input, end, name="backbone")(x)
    for layer in head:
        x = layer(x)
    return tf.keras.Model(images, x, name=network.name)


def build_model(
    config: Config, num_examples: int, steps_per_epoch: int, labels: np.ndarray | None = None
) -> BankedModel:
    """Network, bank and optimizer of a recipe; under a strategy, call it in its scope.

    Args:
      config: resolved, see `resolve.resolve`.
      num_examples: N.
      steps_per_epoch: turns epochs into steps.
      labels: [N] classes, for `--method=supervised`.

    Returns:
      A compiled model whose optimizer has its variables, ready for `fit` or a checkpoint.

    Raises:
      ConfigError: the network does not exist or does not take images of this size.
      RunError: it would not fit in memory.
    """
    network = network_of(config)
    _require_room(config, network, num_examples)
    shared = {"weight_decay": config.optimizer.weight_decay, "seed": config.schedule.seed}
    if config.method.method == "supervised":
        model = Supervised(network, labels, mix=config.objective.mix, **shared)
    elif config.method.method == "deepcluster":
        model = DeepCluster(
            network,
            num_examples,
            num_clusters=config.clustering.num_clusters,
            top_rate=config.method.top_rate,
            mix=config.objective.mix,
            **shared,
        )
    else:
        model = LocalAggregation(
            network,
            num_examples,
            objective=config.objective,
            clustering=config.clustering,
            warm_start_steps=config.schedule.ir_epochs * steps_per_epoch,
            block_size=config.numerics.block_size,
            **shared,
        )
    optimizer = tf.keras.optimizers.SGD(
        learning_rate(config.optimizer, steps_per_epoch), momentum=config.optimizer.momentum
    )
    model.compile(optimizer, jit_compile=config.numerics.jit_compile)
    optimizer.build(model.optimized_weights)
    return model


def _require_room(config: Config, network: tf.keras.Model, num_examples: int) -> None:
    """Refuses what a step could not hold: of each part, no more than it takes at the very least.

    Without a GPU everything is in the memory of the machine, and of a batch that of one replica is
    counted; with one, bank and labels, which clustering copies there.

    Raises:
      RunError: they take more bytes than are free.
    """
    gigabytes = "{:.3g} GB of {}".format
    parts = {
        f"the memory bank ({num_examples} x {config.network.dim})": (
            4 * num_examples * config.network.dim
        ),
        "labels": 4 * num_examples * config.clustering.num_clusterings,
    }
    if not tf.config.list_physical_devices("GPU"):
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        images = max(1, config.data.batch_size // replicas)
        # As called in the network: `output` is that of the backbone alone, of images of any size.
        endpoints = network.get_layer("backbone").get_output_at(0)
        if config.method.method == "local_aggregation":
            compared = config.numerics.block_size or images
            parts["similarities"] = 4 * compared * num_examples
        parts |= {
            "gradient and momentum of the network": 8 * network.count_params(),
            f"feature maps of {images} images": images
            * sum(math.prod(maps.shape[1:]) * maps.dtype.size for maps in endpoints.values()),
        }
    listed = ", ".join(gigabytes(size / 1e9, what) for what, size in parts.items())
    require_memory(
        sum(parts.values()),
        f"this training ({listed})",
        "lower --batch_size, --image_size or --dim, or take fewer images",
    )
