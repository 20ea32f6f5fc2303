"""What every source of images offers, and sources made from other sources."""

import abc
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from la_tf.errors import UserError

ENDS_BYTES = 4096  # enough for any file signature, and for padding after an end marker


class DataError(UserError, ValueError):
    """Images that cannot be used; the message is one sentence that says what to do."""


class Source(abc.ABC):
    """N encoded images under the dense, stable indices 0..N-1.

    Attributes:
      name: where the images are from, for messages.
      num_examples: N.
      labels: int32 [N] with values in [0, len(class_names)), or None without labels.
      class_names: one name a class, or None without labels.
      not_read: a sentence on pictures beside these that cannot be read, or nothing.
    """

    not_read = ""

    def __init__(
        self,
        name: str,
        num_examples: int,
        labels: np.ndarray | None = None,
        class_names: Sequence[str] | None = None,
    ):
        self.name = name
        self.num_examples = num_examples
        self.labels = None if labels is None else np.asarray(labels, np.int32)
        self.class_names = None if class_names is None else tuple(class_names)

    def __len__(self) -> int:
        return self.num_examples

    @abc.abstractmethod
    def describe(self, i: int) -> str:
        """The path or name of example i, for people."""

    def key(self, i: int) -> str:
        """Identifies example i; a folder with which all keys begin does not count."""
        return self.describe(i)

    @abc.abstractmethod
    def load(self, index: tf.Tensor) -> tf.Tensor:
        """The encoded bytes of one image, as a scalar string tensor; usable in a tf.data map.

        Args:
          index: scalar integer in [0, N).
        """

    def read(self, i: int) -> bytes:
        """The encoded bytes of example i.

        Raises:
          tf.errors.OpError, OSError or DataError: the bytes cannot be read.
        """
        return self.load(tf.constant(i, tf.int64)).numpy()

    def read_ends(self, i: int, count: int = ENDS_BYTES) -> tuple[bytes, bytes, int]:
        """The first and last `count` bytes of example i, and its size in bytes."""
        encoded = self.read(i)
        return encoded[:count], encoded[-count:], len(encoded)


class Subset(Source):
    """The examples `indices` of another source, under new dense indices."""

    def __init__(self, source: Source, indices: Sequence[int] | np.ndarray):
        indices = np.asarray(indices, np.int64).reshape(-1)
        if indices.size and not 0 <= indices.min() <= indices.max() < source.num_examples:
            raise DataError(
                f"a subset of {source.name} asks for indices outside 0..{source.num_examples - 1}."
            )
        super().__init__(
            source.name,
            len(indices),
            None if source.labels is None else source.labels[indices],
            source.class_names,
        )
        self.not_read = source.not_read
        self._source = source
        self._indices = indices
        self._index_tensor = tf.constant(indices)

    def describe(self, i: int) -> str:
        """The name that the other source gives it."""
        return self._source.describe(int(self._indices[i]))

    def key(self, i: int) -> str:
        return self._source.key(int(self._indices[i]))

    def load(self, index: tf.Tensor) -> tf.Tensor:
        """The bytes that the other source has."""
        return self._source.load(tf.gather(self._index_tensor, index))

    def read(self, i: int) -> bytes:
        """The bytes that the other source has."""
        return self._source.read(int(self._indices[i]))

    def read_ends(self, i: int, count: int = ENDS_BYTES) -> tuple[bytes, bytes, int]:
        """The ends that the other source has."""
        return self._source.read_ends(int(self._indices[i]), count)


def philox_order(count: int, seed: int, stream: int, purpose: int) -> np.ndarray:
    """A permutation of 0..count-1 that depends on the arguments and nothing else.

    It sorts raw Philox words, which NumPy keeps bit for bit from release to release;
    `Generator.permutation` comes without that promise. tf.random.experimental.index_shuffle would
    need no memory, but its epochs are too uneven where N is small: at N = 1437 the number of
    neighbours that stay neighbours varies over epochs 35 times as much as it does for permutations
    drawn uniformly.

    Args:
      count: how many numbers.
      seed: the run's seed.
      stream: which permutation of that seed, an epoch for example.
      purpose: keeps the uses of one seed apart.

    Returns:
      int64 [count].
    """
    # Through int64: of a list, NumPy would make float64 where a seed is negative.
    key = np.array([seed, stream], np.int64).view(np.uint64)
    bits = np.random.Philox(key=key, counter=[0, 0, 0, purpose])
    return np.argsort(bits.random_raw(count), kind="stable")


def sample_rows(num_examples: int, count: int, seed: int, stream: int = 0) -> np.ndarray:
    """Examples to look at, the same ones for the same seed; a larger sample contains a smaller one.

    Args:
      num_examples: N.
      count: how many; at most N are taken.
      seed: of the run.
      stream: another sample of the same seed.

    Returns:
      int64 [min(count, N)], different numbers from 0..N-1, rising.
    """
    return np.sort(philox_order(num_examples, seed, stream, purpose=2)[:count])


def split_holdout(source: Source, count: int, seed: int) -> tuple[Source, Source]:
    """Takes `count` examples out, the same ones for the same seed.

    Args:
      source: N examples.
      count: how many to hold out.
      seed: which ones.

    Returns:
      The N - count examples that stay and the `count` held out, both in the source's order.

    Raises:
      DataError: `count` does not leave at least one example on either side.
    """
    if not 0 < count < source.num_examples:
        raise DataError(
            f"--holdout={count} of the {source.num_examples} images of {source.name} leaves "
            f"nothing on one side: choose 1 to {source.num_examples - 1}."
        )
    order = philox_order(source.num_examples, seed, stream=0, purpose=1)
    stay, held_out = (Subset(source, np.sort(part)) for part in (order[count:], order[:count]))
    held_out.not_read = ""  # to be said once
    return stay, held_out


def align_labels(source: Source, reference: Source) -> Source:
    """Renumbers the labels of `source` so that a class has the number it has in `reference`.

    Args:
      source: held-out images.
      reference: training images.

    Returns:
      `source` with labels that index `reference.class_names`; `source` itself where one of the two
      has no labels.

    Raises:
      DataError: `source` has a class that `reference` lacks.
    """
    if source.class_names is None or reference.class_names is None:
        return source
    if source.class_names == reference.class_names:
        return source
    number = {name: i for i, name in enumerate(reference.class_names)}
    used = [source.class_names[label] for label in np.unique(source.labels)]
    if unknown := [name for name in used if name not in number]:
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise DataError(
            f"{len(unknown)} of the {len(used)} classes of {source.name} are not classes of "
            f"{reference.name} ({shown}): give both the same class names."
        )
    table = np.array([number.get(name, -1) for name in source.class_names], np.int32)
    aligned = Subset(source, np.arange(source.num_examples))
    aligned.labels, aligned.class_names = table[source.labels], reference.class_names
    return aligned
