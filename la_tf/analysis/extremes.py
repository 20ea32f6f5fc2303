"""The nearest pairs of images, near-duplicates often, and the images farthest from all others."""

import numpy as np

from la_tf.analysis.images import EmbeddedImages, RunImages, file_name
from la_tf.analysis.part import Group, Part, Strip, Unavailable
from la_tf.analysis.retrieval import strips_of
from la_tf.data.base import sample_rows
from la_tf.evaluation.knn import nearest_others, nearest_pairs

PAIRS = 8
OUTLIERS = 6
NEIGHBOURS = 10  # how near an image is to them says how far out it lies
SHOWN = 5  # of those
MAX_ROWS = 10_000  # among which pairs are looked for, and which are compared with all others


def extremes_part(images: RunImages, gallery: EmbeddedImages) -> Part:
    """Nearest pairs and outliers, each as a sheet; of many images, those of a seeded sample.

    Raises:
      Unavailable: there is only one image.
    """
    vectors, source, seed = gallery.vectors, gallery.source, images.run.config.schedule.seed
    if len(vectors) < 2:
        raise Unavailable("A single image has no neighbours.")
    rows = sample_rows(len(vectors), MAX_ROWS, seed)
    similarities, pairs = nearest_pairs(vectors[rows], PAIRS)
    pairs = rows[pairs]
    tiles = images.tiles(source, pairs.ravel())
    nearest = [
        Strip(
            f"{s:.3f}: {file_name(source, a)} and {file_name(source, b)}",
            tuple(tile._replace(similarity=float(s)) for tile in tiles[2 * i : 2 * i + 2]),
        )
        for i, ((a, b), s) in enumerate(zip(pairs, similarities, strict=True))
    ]
    count = min(NEIGHBOURS, len(vectors) - 1)
    similarities, found = nearest_others(vectors[rows], rows, vectors, count)
    mean = similarities.mean(axis=1)
    farthest = np.argsort(mean, kind="stable")[:OUTLIERS]
    words = [
        f"{file_name(source, row)}, mean similarity {similarity:.3f}"
        for row, similarity in zip(rows[farthest], mean[farthest], strict=True)
    ]
    shown = found[farthest, :SHOWN], similarities[farthest, :SHOWN]
    outliers = strips_of(images, source, rows[farthest], words, source, *shown)
    sampled = ""
    if len(rows) < len(vectors):
        sampled = f" Pairs, and the farthest, are of a sample of {len(rows):,} images."
    return Part(
        f"Among {gallery.words}: the two images of a pair are the most similar of all, and often "
        "the same photograph twice, which tools/search.py --duplicates finds in any folder. The "
        f"farthest images have the lowest mean similarity to their {count} nearest, of which the "
        f"first {min(count, SHOWN)} are shown: what is rare in the set, damaged, or does not "
        f"belong to it.{sampled}",
        groups=(Group("Nearest pairs", tuple(nearest)), Group("Farthest images", outliers)),
    )
