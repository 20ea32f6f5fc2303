"""From the last feature map to unit embeddings (sections 3.1 and 4.1)."""

import itertools
import math
import operator
from collections.abc import Sequence

import tensorflow as tf

from la_tf.memory import require_memory
from la_tf.networks.layers import KERNEL_INITIALIZER, NORM_EPSILON, NORM_MOMENTUM


def embedding_head(
    features: tf.Tensor,
    dim: int,
    fc_units: Sequence[int] = (),
    sync_bn: bool = False,
    bn_momentum: float = NORM_MOMENTUM,
) -> tf.Tensor:
    """Feature maps to points on the unit sphere of D dimensions.

    With `fc_units`: flattened, then fc6, fc7 and so on, each without bias, with batch normalisation
    and ReLU. Without: averaged over the pixels. Then a linear layer with bias, 'embedding', and L2
    normalisation, both float32 under any precision policy, since exp(1 / tau) magnifies their
    rounding.

    Args:
      features: [B, h, w, C]; h and w must be known where there are `fc_units`.
      dim: D, length of an embedding.
      fc_units: widths of the fully connected layers.
      sync_bn: batch statistics over all replicas instead of each its own.
      bn_momentum: how much of the moving statistics one step keeps.

    Returns:
      Embeddings [B, D] float32 with unit rows.

    Raises:
      RunError: the weights would not fit in memory.
    """
    inputs = math.prod(features.shape[1:]) if fc_units else features.shape[-1]
    widths = (inputs, *fc_units, dim)
    require_memory(
        4 * sum(itertools.starmap(operator.mul, itertools.pairwise(widths))),
        f"an embedding head from {' x '.join(map(str, features.shape[1:]))} features to {dim} "
        "dimensions",
        "lower --dim or --image_size",
    )
    if fc_units:
        x = tf.keras.layers.Flatten(name="flatten")(features)  # [B, h * w * C]
    else:
        x = tf.keras.layers.GlobalAveragePooling2D(dtype="float32", name="global_pool")(features)
    for number, units in enumerate(fc_units, start=6):
        x = tf.keras.layers.Dense(
            units, use_bias=False, kernel_initializer=KERNEL_INITIALIZER, name=f"fc{number}"
        )(x)
        x = tf.keras.layers.BatchNormalization(
            momentum=bn_momentum, epsilon=NORM_EPSILON, synchronized=sync_bn, name=f"fc{number}_bn"
        )(x)
        x = tf.keras.layers.ReLU(name=f"fc{number}_relu")(x)
    x = tf.keras.layers.Dense(dim, dtype="float32", name="embedding")(x)  # [B, D]
    return tf.keras.layers.UnitNormalization(dtype="float32", name="unit")(x)
