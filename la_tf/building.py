"""From configuration to a network and to a compiled model."""

import tensorflow as tf

from la_tf.config import Config, ConfigError
from la_tf.model import LocalAggregation
from la_tf.networks import build_network
from la_tf.schedules import learning_rate


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
            network.bn_momentum,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None


def build_model(config: Config, num_examples: int, steps_per_epoch: int) -> LocalAggregation:
    """Network, bank and optimizer of a recipe; under a strategy, call it in its scope.

    Args:
      config: resolved, see `config.resolve`.
      num_examples: N.
      steps_per_epoch: turns epochs into steps.

    Returns:
      A compiled model whose optimizer has its variables, ready for `fit` or a checkpoint.

    Raises:
      ConfigError: the network does not exist or does not take images of this size.
    """
    network = network_of(config)
    model = LocalAggregation(
        network,
        num_examples,
        objective=config.objective,
        num_clusterings=config.clustering.num_clusterings,
        warm_start_steps=config.schedule.ir_epochs * steps_per_epoch,
        weight_decay=config.optimizer.weight_decay,
        block_size=config.numerics.block_size,
        seed=config.schedule.seed,
    )
    optimizer = tf.keras.optimizers.SGD(
        learning_rate(config.optimizer, steps_per_epoch), momentum=config.optimizer.momentum
    )
    model.compile(optimizer, jit_compile=config.numerics.jit_compile)
    optimizer.build(network.trainable_variables)
    return model
