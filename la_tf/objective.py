"""Equations 1 to 3 of the paper and the instance-recognition loss of its warm start.

Everything here is a function of tensors, in float32: exp(1 / 0.07) = 1.6e6 overflows float16, so
the callers keep embeddings and bank in float32 even when the network computes in less. The bank
enters as a constant; gradients reach the network through the embeddings alone.
"""

import tensorflow as tf

from la_tf.blocks import map_blocks

_TINY = 2.0**-126  # the least normal float32


def instance_prob(embeddings: tf.Tensor, bank: tf.Tensor, tau: float) -> tf.Tensor:
    """Eq. 1: P(i | v) for every example i, a softmax over the bank.

    Args:
      embeddings: [B, D] unit rows, the v.
      bank: [N, D] unit rows.
      tau: temperature.

    Returns:
      [B, N] probabilities.
    """
    # Dividing [B, D] by tau instead of [B, N] saves a pass over the similarities.
    return tf.nn.softmax(tf.matmul(embeddings / tau, bank, transpose_b=True))


def set_log_prob(log_probs: tf.Tensor, members: tf.Tensor) -> tf.Tensor:
    """Eq. 2: log P(A | v), the log of the summed probabilities of a set's members.

    Args:
      log_probs: [B, K] log-probabilities, or logits: a common constant passes through.
      members: [B, K] bool, which of the K belong to A.

    Returns:
      [B]; -inf where A is empty.
    """
    return tf.reduce_logsumexp(tf.where(members, log_probs, -float("inf")), axis=1)


def local_aggregation_loss(
    similarities: tf.Tensor, close: tf.Tensor, tau: float, background: tf.Tensor | None = None
) -> tf.Tensor:
    """Eq. 3: -log P(C and B | v) / P(B | v).

    The normaliser of Eq. 1 stands in numerator and denominator and cancels, so only the k
    background similarities are needed and the sum over all N is never taken.

    Where C and B are disjoint, the loss and its gradient are 0. The official code returns the
    constant -log(1e-7) there, whose gradient is 0 as well.

    Args:
      similarities: [B, k] dot products of each embedding with its background neighbours' rows.
      close: [B, k] bool, which of these rows are close neighbours too.
      tau: temperature.
      background: [B, k] bool, which of these rows are background neighbours; default all.

    Returns:
      [B] losses, not negative.
    """
    logits = similarities / tau
    background = tf.ones_like(close) if background is None else background
    close &= background
    meet = tf.reduce_any(close, axis=1)  # [B]
    # A row without close neighbours takes the whole background as its set: the difference below and
    # its gradient are then exactly 0, and no infinity turns the gradient into NaN.
    members = tf.where(meet[:, tf.newaxis], close, background)
    loss = set_log_prob(logits, background) - set_log_prob(logits, members)
    return tf.where(meet, loss, tf.zeros_like(loss))


def instance_recognition_loss(
    embeddings: tf.Tensor,
    indices: tf.Tensor,
    bank: tf.Tensor,
    tau: float,
    block_size: int = 0,
) -> tf.Tensor:
    """The IR loss of the warm start (section 4.1): -log P(i | v_i) of Eq. 1.

    This is the exact softmax over all N. The official code approximates it by noise-contrastive
    estimation (`noise_contrastive_loss`), which saves nothing here: Local Aggregation needs the
    similarities to the whole bank anyway.

    Args:
      embeddings: [B, D] unit rows.
      indices: [B] which example each embedding belongs to.
      bank: [N, D] unit rows, taken as constant.
      tau: temperature.
      block_size: embeddings to compare with the bank at once, see `map_blocks`; 0 is all.

    Returns:
      [B] losses; ln N when all rows are equally similar.
    """
    bank = tf.convert_to_tensor(bank)

    def loss_and_gradient(block: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        embeddings, indices = block
        # Softmax, then the own probability: half the time of TensorFlow's cross-entropy.
        probs = instance_prob(embeddings, bank, tau)  # [B, N]
        own_prob = tf.gather(probs, indices, batch_dims=1)  # [B]
        # exp(-2 / tau) underflows float32 once 2 / tau exceeds 87; the gradient still holds.
        loss = -tf.math.log(tf.maximum(own_prob, _TINY))
        # The gradient is computed here, so that no [B, N] is kept for the backward pass.
        return loss, (tf.matmul(probs, bank) - tf.gather(bank, indices)) / tau  # [B], [B, D]

    @tf.custom_gradient
    def losses(embeddings: tf.Tensor):
        loss, direction = map_blocks(
            loss_and_gradient, (embeddings, indices), block_size, (tf.float32, tf.float32)
        )
        return loss, lambda upstream: upstream[:, tf.newaxis] * direction

    return losses(tf.convert_to_tensor(embeddings))


# The official code fixes the normaliser of Eq. 1 at this multiple of N, for tau = 0.07.
NCE_NORMALISER = 2.2455
NCE_EPSILON = 1e-7  # inside both logarithms, official


def noise_contrastive_loss(
    embeddings: tf.Tensor,
    indices: tf.Tensor,
    noise_indices: tf.Tensor,
    bank: tf.Tensor,
    tau: float,
) -> tf.Tensor:
    """The IR loss by noise-contrastive estimation, as the official code trains it.

    P(i | v) of Eq. 1 with the fixed normaliser Z = 2.2455 N is told from M uniform noise samples:
    h = P / (P + M / N), loss = -log h(i) - sum over the noise of log(1 - h).

    The official code draws M negatives for each image. Here the batch shares its M, which makes
    the noise term one matrix product and leaves its expectation the same.

    Args:
      embeddings: [B, D] unit rows.
      indices: [B] which example each embedding belongs to.
      noise_indices: [M] uniform draws from 0..N-1.
      bank: [N, D] unit rows, taken as constant.
      tau: temperature.

    Returns:
      [B] losses.
    """
    bank = tf.stop_gradient(bank)
    num_examples = tf.cast(tf.shape(bank)[0], tf.float32)
    num_noise = tf.cast(tf.size(noise_indices), tf.float32)
    normaliser = NCE_NORMALISER * num_examples
    noise_rate = num_noise / num_examples

    def posterior(similarities):
        probability = tf.exp(similarities / tau) / normaliser
        return probability / (probability + noise_rate)

    own = tf.reduce_sum(embeddings * tf.gather(bank, indices), axis=1)  # [B]
    noise = tf.matmul(embeddings, tf.gather(bank, noise_indices), transpose_b=True)  # [B, M]
    return -tf.math.log(posterior(own) + NCE_EPSILON) - tf.reduce_sum(
        tf.math.log(1.0 - posterior(noise) + NCE_EPSILON), axis=1
    )
