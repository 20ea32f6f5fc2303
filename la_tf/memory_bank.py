"""The memory bank of section 3.3: a running average of every image's embedding."""

import tensorflow as tf


class MemoryBank(tf.Module):
    """N unit vectors, each the normalised running average of one image's embeddings.

    Under a distribution strategy every replica holds a whole copy, and `update` must be given the
    same rows, those of the global batch, in every replica: then the copies never differ.

    Attributes:
      vectors: [N, D] float32 non-trainable variable, unit rows.
      mix: t of Eq. 5, the weight of the new embedding.
    """

    def __init__(self, size: int, dim: int, mix: float = 0.5, seed: int = 0):
        """Starts from random unit vectors (section 3.3), a function of the seed.

        Args:
          size: N.
          dim: D.
          mix: t of Eq. 5.
          seed: seed of the initial rows.
        """
        super().__init__(name="memory_bank")
        self.mix = mix
        # A closure, so that under a strategy each copy is made in place.
        self.vectors = tf.Variable(
            lambda: tf.math.l2_normalize(
                tf.random.stateless_normal([size, dim], seed=[seed, 0]), axis=1
            ),
            trainable=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            name="vectors",
        )

    def read(self) -> tf.Tensor:
        """All rows as they are now, [N, D], without a copy; inside `tf.function`.

        What reads these rows should be done before `update` writes, by a control dependency: else
        TensorFlow copies the whole bank first, to keep them as they are.
        """
        # Once a variable was scattered to, TensorFlow copies it whenever it is read: all of the
        # bank, every step. In a replica, `handle` is that replica's own copy.
        tf.raw_ops.DisableCopyOnRead(resource=self.vectors.handle)
        return tf.raw_ops.ReadVariableOp(resource=self.vectors.handle, dtype=self.vectors.dtype)

    def update(self, indices: tf.Tensor, embeddings: tf.Tensor) -> tf.Tensor:
        """Eq. 5: row i <- (1 - t) * row i + t * v_i, then back onto the unit sphere.

        The paper does not mention the normalisation; the official code has it. Rows of other
        examples are not touched. If an index comes twice, one of its embeddings wins.

        Args:
          indices: [B] row numbers.
          embeddings: [B, D] float32 unit rows.

        Returns:
          [B, D] the new rows.
        """
        rows = mixed_rows(tf.gather(self.vectors, indices), embeddings, self.mix)
        # In a replica, `handle` is that replica's own copy: no communication, no second bank.
        tf.raw_ops.ResourceScatterUpdate(
            resource=self.vectors.handle, indices=indices, updates=rows
        )
        return rows


def mixed_rows(old: tf.Tensor, new: tf.Tensor, mix: float) -> tf.Tensor:
    """The right-hand side of Eq. 5, normalised: [B, D] old rows and embeddings to new rows."""
    return tf.math.l2_normalize((1.0 - mix) * old + mix * new, axis=1)
