"""What the close and background neighbours of a run are: they decide whether LA can help."""

import numpy as np
import tensorflow as tf

from la_tf.neighborhoods import background_of_all
from la_tf.objective import set_log_prob

_AT_ONCE = 2**24  # similarities of images to all N, which are compared in H clusterings


def neighbor_quality(
    model: tf.keras.Model,
    rows: np.ndarray,
    embeddings: np.ndarray,
    labels: np.ndarray | None = None,
) -> dict[str, float | None]:
    """Describes the neighbours of some images as the next step would find them.

    All but `own_share` count the neighbours of all these images together, so that a large cluster
    counts for more than a small one.

    Args:
      model: a `LocalAggregation` whose clusters are set.
      rows: [R] numbers of some training images.
      embeddings: [R, D] their embeddings, unit rows.
      labels: [N] classes of all training images, if known.

    Returns:
      close_neighbors: how many an image has on average, itself left out.
      close_in_background: share of the close neighbours that the background holds.
      own_in_background: share of the images whose own row is in their background.
      own_share: P(i | v) / P(C and B | v) of Eq. 3, the mean over the images whose C and B meet.
        The gradient weighs the close rows by their probabilities, so near 1 the neighbours have
        hardly a part in it, and Local Aggregation trains as instance recognition does.
      close_purity, background_purity: with labels, share of the neighbours, the image itself left
        out, that have its class.
      A share of nothing is None.
    """
    bank = tf.convert_to_tensor(model.bank.vectors)
    counts = np.zeros(8)
    block = max(1, _AT_ONCE // bank.shape[0])
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        counts += _counts(model, rows[part], embeddings[part], bank, labels)
    close, close_alike, within, own, background, background_alike, shares, meet = map(float, counts)
    quality = {
        "close_neighbors": close / len(rows),
        "close_in_background": _share(within, close),
        "own_in_background": own / len(rows),
        "own_share": _share(shares, meet),
    }
    if labels is not None:
        quality["close_purity"] = _share(close_alike, close)
        quality["background_purity"] = _share(background_alike, background)
    return quality


def _counts(model, rows, embeddings, bank, labels) -> np.ndarray:
    """Counts over some images.

    Returns:
      Close neighbours, those of the image's class, those in the background; images whose own row
      is in the background; background neighbours, those of the image's class; the sum of the own
      rows' shares, images that have such a share.
    """
    indices, queries = tf.constant(rows, tf.int64), tf.constant(embeddings)
    found = model.find_background(queries, indices, bank)
    background = np.zeros((len(rows), bank.shape[0]), bool)
    columns = np.broadcast_to(found.rows, found.similarities.shape)
    members = True if found.members is None else found.members.numpy()
    np.put_along_axis(background, columns, members, axis=1)
    everything = background_of_all(queries, indices, bank)
    close = model.find_close(indices, everything).numpy()
    itself = np.arange(len(rows)), rows
    own = background[itself].sum()
    logits = everything.similarities / model.objective.tau
    shares = _own_shares(logits, close & background, itself)
    close[itself] = background[itself] = False
    alike = False if labels is None else labels == labels[rows, np.newaxis]
    return np.array(
        [
            *(close.sum(), (close & alike).sum(), (close & background).sum()),
            *(own, background.sum(), (background & alike).sum()),
            *(shares.sum(), len(shares)),
        ]
    )


def _own_shares(logits: tf.Tensor, members: np.ndarray, itself) -> np.ndarray:
    """P(i | v) / P(A | v) for the images whose A, `members` [R, N], is not empty."""
    log_shares = logits.numpy()[itself] - set_log_prob(logits, members).numpy()
    return np.where(members[itself], np.exp(log_shares), 0.0)[members.any(axis=1)]


def _share(part: float, whole: float) -> float | None:
    """None, not NaN, where there is nothing to count: JSON has no NaN."""
    return part / whole if whole else None
