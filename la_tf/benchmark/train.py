"""Images per second of whole training steps, compared with supervised steps of the same network."""

from collections.abc import Callable

import tensorflow as tf

from la_tf.benchmark.step import BATCH, K, set_random_labels
from la_tf.benchmark.timing import Row, repeat
from la_tf.building import build_model
from la_tf.config import (
    ClusteringConfig,
    Config,
    DataConfig,
    NetworkConfig,
    NumericsConfig,
    ObjectiveConfig,
    ScheduleConfig,
)
from la_tf.model import LocalAggregation
from la_tf.networks import build_network
from la_tf.runs import runtime

CLASSES = 1000  # of the supervised step


def measure(
    network: str,
    image_size: int,
    sizes: tuple[int, ...],
    numerics: NumericsConfig,
    *,
    batch_size: int = BATCH,
    repetitions: int = 5,
) -> list[Row]:
    """Times steps on one batch that is always the same, so that no step waits for data.

    Args:
      network: its name.
      image_size: S.
      sizes: the N of each bank.
      numerics: precision and compilation. XLA compiles the whole supervised step, but only the
        network of the others.
      batch_size: B.
      repetitions: how often.

    Returns:
      A supervised step, the floor, and for each N a step of each objective.
    """
    runtime.configure(numerics, seed=0)
    views = tf.random.stateless_normal([batch_size, image_size, image_size, 3], [0, 0])
    batch, title = (tf.range(batch_size), views), f"{network} at {image_size}"
    floor = f"{title}, supervised"
    functions = {floor: _supervised(network, image_size, views, numerics)}
    for size in sizes:
        for objective, ir_epochs in (("IR", 1), ("LA", 0)):
            model = random_model(network, image_size, batch_size, size, numerics, ir_epochs)
            functions[f"{title}, {objective}, N = {size}"] = _step(model, batch)
    seconds = repeat(functions, repetitions)
    return [
        Row(name, times, None if name == floor else floor, batch_size)
        for name, times in seconds.items()
    ]


def _supervised(
    network: str, image_size: int, views: tf.Tensor, numerics: NumericsConfig
) -> Callable[[], object]:
    """A step of cross-entropy on top of the embedding network, as Keras takes it."""
    embed = build_network(network, image_size)
    # In float32, as the embeddings are.
    logits = tf.keras.layers.Dense(CLASSES, dtype="float32")(embed.output)
    model = tf.keras.Model(embed.input, logits)
    model.compile(
        tf.keras.optimizers.SGD(0.03, momentum=0.9),
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=numerics.jit_compile,
    )
    labels = tf.range(views.shape[0]) % CLASSES
    return _step(model, (views, labels))


def random_model(
    network: str,
    image_size: int,
    batch_size: int,
    num_examples: int,
    numerics: NumericsConfig,
    ir_epochs: int = 0,
) -> LocalAggregation:
    """A model before its first step, but with labels, at random, of clusters of the usual size.

    Args are those of `measure`, with the N of one bank, and `ir_epochs`: 0 for steps of Local
    Aggregation, 1 for instance recognition.
    """
    config = Config(
        data=DataConfig(image_size=image_size, batch_size=batch_size),
        network=NetworkConfig(network=network),
        objective=ObjectiveConfig(k=min(K, num_examples)),
        clustering=ClusteringConfig(num_clusterings=3),
        schedule=ScheduleConfig(epochs=1, ir_epochs=ir_epochs),
        numerics=numerics,
    )
    model = build_model(config, num_examples, steps_per_epoch=10**6)
    set_random_labels(model)
    return model


def _step(model: tf.keras.Model, batch: tuple[tf.Tensor, tf.Tensor]) -> Callable[[], object]:
    step = model.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors(batch).repeat())
    return lambda: tf.nest.map_structure(lambda value: value.numpy(), step(batches))
