"""What makes two data sets the same: which images, in which order, with which labels."""

import hashlib
from typing import Any

import numpy as np

from la_tf.data.base import Source


def identify(source: Source, labels: np.ndarray | None = None) -> dict[str, Any]:
    """The size and a digest of a data set, ready for JSON; the pixels do not enter it.

    A folder that all names begin with does not count, so a data set may move between machines.

    Args:
      source: N images.
      labels: [N, ...] what else is known of them; default the source's own labels.
    """
    names = [source.key(i) for i in range(source.num_examples)]
    base = len(_common_folder(names))
    return {
        "examples": source.num_examples,
        "fingerprint": fingerprint(
            [name[base:] for name in names], source.labels if labels is None else labels
        ),
    }


def fingerprint(names: list[str], labels: np.ndarray | None) -> str:
    """A short digest of names, their order and their labels."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode(errors="surrogateescape") + b"\0")
    if labels is not None:
        digest.update(labels.astype("<i4").tobytes())
    return digest.hexdigest()[:16]


def _common_folder(names: list[str]) -> str:
    first, last = min(names), max(names)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    return first[: first.rfind("/", 0, length) + 1]
