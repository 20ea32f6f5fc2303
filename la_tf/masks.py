"""Local Aggregation by masks over the whole bank, where N is not many times k.

There, lists of k rows cost more than all N similarities do: to be found, to have their labels
looked up, to be summed. So B_i and its close neighbours are masks over the N similarities of one
example, which stay in a core's cache from the first pass to the last, and the gradient is a
product with the whole bank. XLA makes one loop of each pass. GPUs are faster with lists.
"""

import tensorflow as tf

from la_tf.blocks import map_blocks, map_pieces
from la_tf.vectors import floor_of_largest, fold

# N, in multiples of k, up to which masks are for. Up to twice that they are still a tenth faster
# than lists, but their weights are a second [B, N].
_MAX_ROWS_OF_K = 16


def masks_pay(num_examples: int, k: int) -> bool:
    """Whether masks are the faster way to a loss of these N and k on this machine."""
    return num_examples <= _MAX_ROWS_OF_K * k and not tf.config.list_logical_devices("GPU")


def masked_local_aggregation(
    embeddings: tf.Tensor,
    indices: tf.Tensor,
    bank: tf.Tensor,
    cluster_labels: tf.Tensor,
    k: int,
    tau: float,
    block_size: int = 0,
) -> tuple[tf.Tensor, tf.Tensor]:
    """`local_aggregation_loss` of `nearest_rows` and `close_neighbors`, without their lists.

    Args:
      embeddings: [B, D] unit rows.
      indices: [B] the examples i.
      bank: [N, D] unit rows, taken as constant.
      cluster_labels: [N, H] label of every example in every clustering.
      k: number of background neighbours, at most N.
      tau: temperature.
      block_size: embeddings to compare with the bank at once, see `map_blocks`; 0 is all.

    Returns:
      Losses [B], and how many of each example's background neighbours are close, [B] int32.
    """
    bank, cluster_labels = tf.convert_to_tensor(bank), tf.convert_to_tensor(cluster_labels)
    labels = tf.transpose(cluster_labels)  # [H, N]

    def loss_and_gradient(block: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        embeddings, own_labels = block  # [B, D], [B, H]
        similarities = tf.matmul(embeddings, bank, transpose_b=True)  # [B, N]
        losses, meets, weights = map_pieces(
            lambda *piece: _of_examples(*piece, labels, k, tau), similarities, own_labels
        )
        # The gradient is computed here, so that no [B, N] is kept for the backward pass.
        return losses, meets, tf.matmul(weights, bank)  # [B], [B], [B, D]

    @tf.custom_gradient
    def losses_and_meets(embeddings: tf.Tensor):
        losses, meets, directions = map_blocks(
            loss_and_gradient,
            # Else a tape in eager mode would want the derivatives of what XLA compiles, too.
            (tf.stop_gradient(embeddings), tf.gather(cluster_labels, indices)),
            block_size,
            (tf.float32, tf.int32, tf.float32),
        )
        return (losses, meets), lambda upstream, _: upstream[:, tf.newaxis] * directions

    return losses_and_meets(tf.convert_to_tensor(embeddings))


@tf.function(jit_compile=True, autograph=False)
def _of_examples(
    similarities: tf.Tensor, own_labels: tf.Tensor, labels: tf.Tensor, k: int, tau: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """[B, N], [B, H] and [H, N] to losses [B], sizes of the meets [B] and gradients [B, N]."""
    return tf.map_fn(
        lambda example: _of_example(*example, labels, k, tau),
        (similarities, own_labels),
        fn_output_signature=(tf.float32, tf.int32, tf.float32),
    )


def _of_example(
    similarities: tf.Tensor, own_labels: tf.Tensor, labels: tf.Tensor, k: int, tau: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Eq. 3 of one example: loss, size of the meet, and d loss / d similarities [N]."""
    background = _largest(similarities, k)  # B_i
    close = tf.zeros_like(background)
    for clustering, own in zip(tf.unstack(labels), tf.unstack(own_labels), strict=True):
        close |= tf.equal(clustering, own)
    close &= background  # C_i and B_i
    meet = fold(tf.reduce_sum, lambda part: tf.cast(part, tf.int32), close)

    largest = fold(tf.reduce_max, tf.identity, similarities)
    exps = tf.where(background, tf.exp((similarities - largest) / tau), 0.0)
    of_background = fold(tf.reduce_sum, tf.identity, exps)
    of_close = fold(tf.reduce_sum, lambda *part: tf.where(*part, 0.0), close, exps)
    loss = tf.math.log(of_background) - tf.math.log(of_close)
    gradient = exps * (1.0 / of_background - tf.where(close, 1.0 / of_close, 0.0)) / tau
    # As in `local_aggregation_loss`, an empty meet has no loss.
    return tf.where(meet > 0, loss, 0.0), meet, tf.where(meet > 0, gradient, 0.0)


def _largest(values: tf.Tensor, k: int) -> tf.Tensor:
    """Which of [N] values are the k largest; ties at the k-th place go to the lower columns."""
    floor, reaching = floor_of_largest(values, k)
    # Not below, instead of at least, the floor: NaN passes too, and shows in the loss.
    among = ~(values < floor)

    def first_ties() -> tf.Tensor:
        ties = tf.equal(values, floor)
        excess = tf.cumsum(tf.cast(ties, tf.int32), reverse=True) <= reaching - k
        return among & ~(ties & excess)

    return tf.cond(reaching > k, first_ties, lambda: among)
