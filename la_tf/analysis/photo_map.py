"""A map in the plane of the images themselves, similar ones near each other."""

import numpy as np
from sklearn.manifold import TSNE
from sklearn.preprocessing import minmax_scale
from threadpoolctl import threadpool_limits

from la_tf.analysis.images import EmbeddedImages, RunImages
from la_tf.analysis.mds import SAME, spread_out
from la_tf.analysis.part import Part, Plot, Unavailable
from la_tf.analysis.sheets import photo_map
from la_tf.data.base import sample_rows

IMAGES = 500  # t-SNE takes a second
PICTURES = 150  # at most, of which each has its place
PICTURE_SIDE = 0.085  # as a share of the map's side: to be recognised on a telephone
PERPLEXITY = 30  # scikit-learn's; about how many neighbours of an image count
ITERATIONS = 500  # half of scikit-learn's: enough for so few
FEWEST = 4


def tsne(vectors: np.ndarray, seed: int) -> np.ndarray:
    """t-SNE of unit rows [P, D] (van der Maaten and Hinton, 2008): points [P, 2] that fill [0, 1].

    It starts from the principal components. The perplexity is at most a third of the points. One
    thread: sums of several would be rounded differently in every run.

    Raises:
      Unavailable: there are too few vectors, or all of them are the same.
    """
    if len(vectors) < FEWEST:
        raise Unavailable(f"A map needs {FEWEST} images at least; there are {len(vectors)}.")
    if np.ptp(vectors, axis=0).max() < SAME:
        raise Unavailable("All embeddings are the same: they have collapsed, and have no map.")
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    with threadpool_limits(1):
        points = TSNE(
            perplexity=perplexity, init="pca", max_iter=ITERATIONS, random_state=seed
        ).fit_transform(vectors)
    return minmax_scale(points)


def photo_map_part(images: RunImages, gallery: EmbeddedImages) -> Part:
    """The map of a seeded sample of the images, with as many pictures as find a place.

    Raises:
      Unavailable: there are too few images, or the embeddings have collapsed.
    """
    seed = images.run.config.schedule.seed
    rows = sample_rows(len(gallery.vectors), IMAGES, seed)
    # No picture reaches over the edge.
    points = PICTURE_SIDE / 2 + (1 - PICTURE_SIDE) * tsne(gallery.vectors[rows], seed)
    pictured = spread_out(points, PICTURE_SIDE, PICTURES)
    pictures = images.pictures(gallery.source, rows[pictured])
    others = np.delete(points, pictured, axis=0)
    svg = photo_map(others, points[pictured], pictures, PICTURE_SIDE)
    some = "All images" if len(rows) == len(gallery.vectors) else f"{len(rows):,} sampled images"
    return Part(
        f"{some} of {gallery.words}, placed by t-SNE: images that the network takes for alike lie "
        "near each other, while distances between far groups, and directions, mean little. "
        f"{len(pictured)} are shown as pictures, chosen so that none covers another; the others "
        "are dots, and some of those lie below pictures.",
        (
            Plot(
                "photos",
                svg,
                f"A map of {len(rows)} images, {len(pictured)} of them as pictures.",
                wide=True,
            ),
        ),
    )
