"""A map in the plane of the classes with the highest and the lowest accuracy (Figure 4)."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import smacof
from sklearn.metrics import pairwise_distances, recall_score

from la_tf.analysis import plots
from la_tf.analysis.images import EmbeddedImages, RunImages
from la_tf.analysis.part import Part, Plot, Unavailable
from la_tf.analysis.retrieval import Classified
from la_tf.data.base import sample_rows

CLASSES = 3  # with the highest accuracy, and as many with the lowest
IMAGES_PER_CLASS = 100
SAME = 1e-6  # a distance of unit vectors that is rounding in float32
PICTURES = 14  # on a map
PICTURE_SIDE = 0.1  # as a share of the map's side, with a margin


def extreme_classes(accuracies: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` classes of highest and of lowest accuracy, both by falling accuracy.

    Classes whose accuracy is not a number are left out; of equal ones the lower number comes first.

    Raises:
      Unavailable: fewer than 2 * count classes have an accuracy.
    """
    known = np.flatnonzero(~np.isnan(accuracies))
    if len(known) < 2 * count:
        raise Unavailable(
            f"{2 * count} classes with training and held-out images are needed; there "
            f"{'is 1' if len(known) == 1 else f'are {len(known)}'}."
        )
    order = known[np.argsort(-accuracies[known], kind="stable")]
    return order[:count], order[-count:]


def planar_map(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """Metric multi-dimensional scaling: points in the plane with the distances of vectors [P, D].

    The dissimilarity is the Euclidean distance. SMACOF starts from the principal components, which
    for this dissimilarity are the classical scaling; nothing is random.

    Returns:
      Points [P, 2], and Kruskal's stress-1: 0 when all distances are kept.

    Raises:
      Unavailable: all vectors are the same.
    """
    distances = pairwise_distances(vectors.astype(np.float64))
    if distances.max() < SAME:
        raise Unavailable("All embeddings are the same: they have collapsed, and have no map.")
    start = PCA(2, svd_solver="full").fit_transform(vectors.astype(np.float64))
    points, _ = smacof(distances, n_components=2, init=start, n_init=1)
    planar = pairwise_distances(points)
    return points, float(np.sqrt(((distances - planar) ** 2).sum() / (planar**2).sum()))


def spread_out(points: np.ndarray, gap: float, count: int) -> np.ndarray:
    """Chooses at most `count` of the points [P, 2] at which pictures of side `gap` do not overlap.

    The point nearest to the mean is the first, each further one the furthest from those before it.

    Returns:
      The numbers of the points.
    """
    chosen = [int(np.linalg.norm(points - points.mean(axis=0), axis=1).argmin())]
    while len(chosen) < count:
        # Pictures are squares: what counts is the larger of the two differences.
        apart = np.abs(points[:, np.newaxis] - points[chosen]).max(axis=2).min(axis=1)
        furthest = int(apart.argmax())
        if apart[furthest] < gap:
            break
        chosen.append(furthest)
    return np.array(chosen)


def mds_part(images: RunImages, queries: EmbeddedImages, found: Classified) -> Part:
    """Figure 4: maps of the classes whose held-out images are classified best and worst.

    Raises:
      Unavailable: there are fewer than six classes, or the embeddings have collapsed.
    """
    labels, names = images.train.labels, images.train.class_names
    truth, classes = queries.source.labels, np.arange(len(names))
    # A class's accuracy is its recall; not a number for a class without images.
    accuracies = recall_score(
        truth, found.predicted, labels=classes, average=None, zero_division=np.nan
    )
    accuracies[~np.isin(classes, labels)] = np.nan
    halves = extreme_classes(accuracies, CLASSES)
    seed = images.run.config.schedule.seed
    rows = np.concatenate([_of_class(labels, c, seed) for c in np.concatenate(halves)])
    points, stress = planar_map(images.embed(images.train, rows))
    low, high = points.min(axis=0), points.max(axis=0)
    side = 1.15 * float((high - low).max())
    limits = (low + high)[:, np.newaxis] / 2 + [-side / 2, side / 2]
    drawn = []
    for kind, half in zip(("high", "low"), halves, strict=True):
        in_half = np.flatnonzero(np.isin(labels[rows], half))
        pictured = in_half[spread_out(points[in_half], PICTURE_SIDE * side, PICTURES)]
        shown = images.pictures(images.train, rows[pictured])
        mapped = [
            plots.MapClass(
                f"{names[c]} ({accuracies[c]:.0%})",
                points[labels[rows] == c],
                [
                    (points[i], picture)
                    for i, picture in zip(pictured, shown, strict=True)
                    if labels[rows[i]] == c
                ],
            )
            for c in half
        ]
        title = f"Classes of {kind} accuracy"
        alt = f"{title}, as points in the plane: {', '.join(c.label for c in mapped)}."
        drawn.append(Plot(f"mds-{kind}", plots.planar_map(title, mapped, limits), alt))
    return Part(
        f"Up to {IMAGES_PER_CLASS} training images, drawn at random, of each of the {CLASSES} "
        f"classes with the highest and the {CLASSES} with the lowest held-out accuracy (in "
        f"brackets; {found.rows.shape[1]} nearest neighbours). One metric multi-dimensional "
        f"scaling of all {len(points)} (SMACOF): distances in the plane stand for Euclidean "
        "distances between the unit vectors of the images' centre crops. Stress-1 is "
        f"{stress:.2f}; 0 would keep every distance. Both panels have the same axes. Some points "
        "are shown as their images.",
        tuple(drawn),
    )


def _of_class(labels: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Numbers of up to `IMAGES_PER_CLASS` images of a class."""
    rows = np.flatnonzero(labels == number)
    return rows[sample_rows(len(rows), IMAGES_PER_CLASS, seed, stream=int(number))]
