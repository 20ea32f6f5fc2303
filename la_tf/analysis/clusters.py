"""The clusters that the method is built on: the most compact and the least, as their members."""

import numpy as np

from la_tf.analysis.images import EmbeddedImages, RunImages
from la_tf.analysis.part import Group, Part, Strip, Unavailable

STRIPS = 4  # of the most compact clusters, and of the least
MEMBERS = 8  # shown of a cluster
SMALLEST = 4  # members; one to three images are easily compact


def compactness(vectors: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean cosine of a cluster's members to their normalised mean.

    Args:
      vectors: [N, D] unit rows.
      labels: [N] the cluster of each, from 0.

    Returns:
      The compactness [m] of each cluster, 1 where all its members are the same and not a number of
      an empty one, and the means [m, D].
    """
    sizes = np.bincount(labels)
    sums = np.stack([np.bincount(labels, column) for column in vectors.T], axis=1)
    with np.errstate(invalid="ignore"):
        means = sums / sizes[:, np.newaxis]
    # The products of a cluster's rows with the direction of their mean add up to the length of
    # their sum: their mean is the length of the mean.
    return np.linalg.norm(means, axis=1), means


def clusters_part(images: RunImages, gallery: EmbeddedImages) -> Part:
    """Sheets of some clusters of the last clustering.

    Raises:
      Unavailable: the run has not clustered, or these are other images than its own.
    """
    run = images.run
    labels = None if run.read_clusters is None else run.read_clusters()
    if labels is None or labels.min() < 0:
        raise Unavailable("The run has not clustered its images yet, or does not cluster any.")
    if not run.holds(images.train):
        raise Unavailable("The clusters are of the images of the run, which these are not.")
    labels, num_clusterings = labels[:, 0].astype(np.int64), labels.shape[1]
    compact, means = compactness(gallery.vectors, labels)
    order = np.flatnonzero(np.bincount(labels) >= SMALLEST)
    order = order[np.argsort(-compact[order], kind="stable")]
    if not len(order):
        raise Unavailable(f"No cluster of the last round has {SMALLEST} images or more.")
    groups = []
    for heading, chosen in (
        ("Most compact clusters", order[:STRIPS]),
        ("Least compact clusters", order[STRIPS:][::-1][:STRIPS]),
    ):
        strips = [
            _strip(images, gallery, np.flatnonzero(labels == cluster), means[cluster])
            for cluster in chosen
        ]
        groups.append(Group(heading, tuple(strips)))
    several = f", the first of its {num_clusterings} clusterings," if num_clusterings > 1 else ""
    return Part(
        f"Clusters of the last round{several} in {gallery.words}. Compactness is "
        "the mean cosine of the members to their normalised mean, by the rows that the bank has "
        f"now; clusters of fewer than {SMALLEST} images are left out. Up to {MEMBERS} members are "
        "shown, from the nearest to the mean, left, to the farthest, each with its cosine. Local "
        "Aggregation pulls the members of a cluster together: good ones hold what you would call "
        "alike.",
        groups=tuple(group for group in groups if group.strips),
    )


def _strip(
    images: RunImages, gallery: EmbeddedImages, members: np.ndarray, mean: np.ndarray
) -> Strip:
    """Some of a cluster's members, evenly from the nearest to its mean to the farthest."""
    compact = float(np.linalg.norm(mean))
    cosines = gallery.vectors[members] @ (mean / compact)
    order = np.argsort(-cosines, kind="stable")
    places = np.linspace(0, len(members) - 1, min(len(members), MEMBERS))
    shown = order[places.round().astype(int)]
    tiles = images.tiles(gallery.source, members[shown])
    return Strip(
        f"{len(members):,} images, compactness {compact:.3f}",
        tuple(
            tile._replace(similarity=cosine)
            for tile, cosine in zip(tiles, cosines[shown].tolist(), strict=True)
        ),
    )
