"""What objective and bank cost in a training step, compared with the one product they need."""

from collections.abc import Callable

import tensorflow as tf

from la_tf.benchmark.timing import Row, repeat
from la_tf.config import ClusteringConfig, NumericsConfig, ObjectiveConfig
from la_tf.model import LocalAggregation
from la_tf.neighbors import nearest_rows
from la_tf.runs import runtime

BATCH, DIM, K, CLUSTERINGS = 128, 128, 4096, 10  # section 4.1, the ResNets
CLUSTER_SIZE = 43  # members, as 30,000 clusters of ImageNet's images have


def measure(num_examples: int, repetitions: int, block_size: int = 0) -> list[Row]:
    """Times `LocalAggregation.train_step` behind a network that costs next to nothing.

    Args:
      num_examples: N.
      repetitions: how often.
      block_size: of the model, see `map_blocks`; the floor has no blocks.

    Returns:
      The product of a batch with the bank, the floor; the background neighbours by one `top_k` and
      as they are found here; and a whole step of either objective.
    """
    runtime.configure(NumericsConfig(), seed=0)  # as training does
    k = min(K, num_examples)
    model, aggregation = _stepper(num_examples, 0, block_size)
    memory = peak_memory(aggregation)
    _, recognition = _stepper(num_examples, 10**9, block_size)
    # Gathered, since a slice would share the bank's memory and keep it.
    views = tf.gather(model.bank.vectors, tf.range(BATCH))

    @tf.function(autograph=False)
    def product():
        return tf.matmul(views, model.bank.read(), transpose_b=True)

    @tf.function(autograph=False)
    def by_top_k():
        return tf.math.top_k(tf.matmul(views, model.bank.read(), transpose_b=True), k, sorted=False)

    @tf.function(autograph=False)
    def neighbours():
        return nearest_rows(views, model.bank.read(), k, block_size)

    floor = f"product [{BATCH}, {DIM}] x [{DIM}, {num_examples}]"
    whole, note = "Local Aggregation, whole step", ""
    if memory is not None:
        # Beside bank and labels, which were there, and the similarities.
        over = memory - 4 * num_examples * (block_size or BATCH)
        note = f"{over / 1e6:.0f} MB over bank, labels and similarities"
    seconds = repeat(
        {
            floor: product,
            "product and top_k": by_top_k,
            "background neighbours": neighbours,
            whole: aggregation,
            "instance recognition, whole step": recognition,
        },
        repetitions,
    )
    return [
        Row(name, times, None if name == floor else floor, note=note if name == whole else "")
        for name, times in seconds.items()
    ]


def peak_memory(function: Callable[[], object]) -> int | None:
    """Bytes that TensorFlow holds at most while a function runs, beyond what it held before.

    Returns:
      The bytes on the first GPU, or else in the memory of the host; None where this build of
      TensorFlow does not count them.
    """
    device = "GPU:0" if tf.config.list_logical_devices("GPU") else "CPU:0"
    try:
        before = tf.config.experimental.get_memory_info(device)["current"]
        tf.config.experimental.reset_memory_stats(device)
        function()
        return tf.config.experimental.get_memory_info(device)["peak"] - before
    except ValueError:  # only oneDNN's allocator counts on the CPU
        return None


def clustered_rows(num_rows: int, seed: int = 0) -> tf.Tensor:
    """Unit rows [num_rows, DIM] in clusters, as a trained bank has them, in no order."""
    centers = tf.math.l2_normalize(
        tf.random.stateless_normal([max(1, num_rows // CLUSTER_SIZE), DIM], [seed, 0]), axis=1
    )
    cluster = tf.random.stateless_uniform(
        [num_rows], [seed, 1], 0, tf.shape(centers)[0], dtype=tf.int32
    )
    # As far from the centre as two of them are from each other.
    noise = tf.random.stateless_normal([num_rows, DIM], [seed, 2], stddev=DIM**-0.5)
    return tf.math.l2_normalize(tf.gather(centers, cluster) + noise, axis=1)


def set_random_labels(model: LocalAggregation) -> None:
    """Gives every example a cluster of the usual size in each clustering, at random."""
    shape = model.cluster_labels.shape
    clusters = max(1, shape[0] // CLUSTER_SIZE)
    labels = tf.random.stateless_uniform(shape, [0, 3], 0, clusters, dtype=tf.int32)
    model.cluster_labels.assign(tf.cast(labels, tf.float32))


def _stepper(
    num_examples: int, warm_start_steps: int, block_size: int
) -> tuple[LocalAggregation, Callable[[], object]]:
    """A model with a bank and labels as of a trained one, and a function that takes one step."""
    vectors = tf.keras.Input([DIM])
    embeddings = tf.keras.layers.UnitNormalization()(
        tf.keras.layers.Dense(DIM, use_bias=False)(vectors)
    )
    model = LocalAggregation(
        tf.keras.Model(vectors, embeddings),
        num_examples,
        objective=ObjectiveConfig(k=min(K, num_examples)),
        clustering=ClusteringConfig(num_clusterings=CLUSTERINGS),
        warm_start_steps=warm_start_steps,
        block_size=block_size,
    )
    model.compile(tf.keras.optimizers.SGD(0.03, momentum=0.9))
    model.optimizer.build(model.network.trainable_variables)
    model.bank.vectors.assign(clustered_rows(num_examples))
    set_random_labels(model)
    step = tf.function(model.train_step, autograph=False)
    data = tf.range(BATCH), tf.gather(model.bank.vectors, tf.range(BATCH))
    return model, lambda: step(data)
