"""The 1,797 handwritten digits that come with scikit-learn: real images without a download."""

import functools
import io

import numpy as np
import tensorflow as tf

from la_tf.data.base import Source, split_holdout

SIDE = 32  # pixels; the originals have 8
NUM_HELD_OUT = 360  # a fifth


class DigitsSource(Source):
    """All 1,797 digits as 32x32 greyscale PNG, in scikit-learn's order."""

    def __init__(self):
        # Imported here: only this source needs them.
        from PIL import Image
        from sklearn.datasets import load_digits

        digits = load_digits()
        encoded = []
        for image in digits.images:  # [8, 8], 0..16
            pixels = np.round(image * (255 / 16)).astype(np.uint8)
            picture = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            encoded.append(buffer.getvalue())
        names = tuple(str(name) for name in digits.target_names)
        super().__init__("digits", len(encoded), digits.target, names)
        self._encoded = tf.constant(encoded)

    def describe(self, i: int) -> str:
        """Its place in the data set."""
        return f"digits[{i}]"

    def load(self, index: tf.Tensor) -> tf.Tensor:
        """Gathers from memory."""
        return tf.gather(self._encoded, index)


@functools.cache
def digits_parts() -> tuple[Source, Source]:
    """1,437 digits to train on and 360 held out, always the same ones."""
    return split_holdout(DigitsSource(), NUM_HELD_OUT, seed=0)
