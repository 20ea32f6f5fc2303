"""Images and their nearest neighbours in the embedding (Figure 3)."""

import dataclasses
import pathlib

import numpy as np

from la_tf.analysis.images import EmbeddedImages, RunImages
from la_tf.analysis.part import Group, Part, Strip, Tile, Unavailable
from la_tf.data.base import Source, sample_rows
from la_tf.evaluation.knn import nearest, nearest_others, votes

STRIPS = 4  # successes, and as many failures
SAMPLED_STRIPS = 6  # without labels
NEIGHBOURS = 8  # in a strip


@dataclasses.dataclass(frozen=True)
class Classified:
    """What the weighted k-nearest-neighbour classifier says of Q queries.

    Attributes:
      predicted: [Q] classes.
      confidence: [Q] the predicted class's share of the weighted votes, in (0, 1].
      rows: [Q, k] rows of the gallery, the most similar first.
      similarities: [Q, k] falling.
    """

    predicted: np.ndarray
    confidence: np.ndarray
    rows: np.ndarray
    similarities: np.ndarray


def classify(
    queries: np.ndarray,
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    num_classes: int,
    tau: float,
    k: int = 200,
) -> Classified:
    """Predicts the class of each query [Q, D] as `knn_accuracy` does, and how certain that is.

    The k nearest rows of the gallery [N, D] vote, clipped to N, with the temperature tau.
    """
    similarities, rows = nearest(queries, gallery, min(k, len(gallery)))
    scores = votes(similarities, gallery_labels[rows], num_classes, tau)
    shares = scores / scores.sum(axis=1, keepdims=True)
    return Classified(shares.argmax(axis=1), shares.max(axis=1), rows, similarities)


def most_confident(
    confidence: np.ndarray, labels: np.ndarray, eligible: np.ndarray, count: int
) -> np.ndarray:
    """The `count` queries of highest confidence [Q], from as many classes as possible.

    Only `eligible` ones, bool [Q], are chosen. Every class gives one before any gives a second; of
    equal ones the first comes first.

    Returns:
      Numbers of queries by falling confidence.
    """
    candidates = np.flatnonzero(eligible)
    candidates = candidates[np.argsort(-confidence[candidates], kind="stable")]
    rank_in_class = np.empty(len(candidates), int)
    for label in np.unique(labels[candidates]):
        of_class = labels[candidates] == label
        rank_in_class[of_class] = np.arange(of_class.sum())
    chosen = candidates[np.argsort(rank_in_class, kind="stable")[:count]]
    return chosen[np.argsort(-confidence[chosen], kind="stable")]


def labelled_part(
    images: RunImages, gallery: EmbeddedImages, queries: EmbeddedImages, found: Classified
) -> Part:
    """Figure 3: the most confident successes and failures among held-out images, `queries`."""
    labels, names = queries.source.labels, queries.source.class_names
    right = found.predicted == labels
    groups = []
    for kind, eligible in (("successes", right), ("failures", ~right)):
        rows = most_confident(found.confidence, labels, eligible, STRIPS)
        words = [
            f"True class {names[labels[row]]}, predicted {names[found.predicted[row]]}, "
            f"confidence {found.confidence[row]:.2f}"
            for row in rows
        ]
        neighbours = found.rows[rows, :NEIGHBOURS], found.similarities[rows, :NEIGHBOURS]
        strips = _strips(images, queries.source, rows, words, gallery.source, *neighbours)
        groups.append(Group(f"Most confident {kind}", strips))
    return Part(
        f"Left a held-out image, then its nearest neighbours in {gallery.words}, with similarity "
        f"falling. Of {queries.words}, {right.mean():.1%} are classified rightly by their "
        f"{found.rows.shape[1]} nearest neighbours; confidence is the share of the weighted votes "
        "that the predicted class has. As many classes are shown as fit. The paper's failures are "
        "of low confidence; these are the ones the network is surest of.",
        groups=tuple(group for group in groups if group.strips),
    )


def sampled_part(images: RunImages, gallery: EmbeddedImages) -> Part:
    """Figure 3 without classes: a seeded sample of images and their neighbours.

    Held-out images where there are any, else training images, which are not their own neighbours.

    Raises:
      Unavailable: there is only one image.
    """
    seed = images.run.config.schedule.seed
    if images.heldout is not None:
        kind, source = "held-out", images.heldout
        rows = sample_rows(len(source), SAMPLED_STRIPS, seed)
        count = min(NEIGHBOURS, len(gallery.vectors))
        similarities, found = nearest(images.embed(source, rows), gallery.vectors, count)
    else:
        kind, source = "training", gallery.source
        rows = sample_rows(len(source), SAMPLED_STRIPS, seed)
        count = min(NEIGHBOURS, len(gallery.vectors) - 1)
        if not count:
            raise Unavailable("A single image has no neighbours.")
        similarities, found = nearest_others(
            images.embed(source, rows), rows, gallery.vectors, count
        )
    words = [pathlib.PurePath(source.key(int(row))).name for row in rows]
    strips = _strips(images, source, rows, words, gallery.source, found, similarities)
    return Part(
        f"Left a {kind} image, drawn at random, then its nearest neighbours in {gallery.words}, "
        "with similarity falling. Without labelled held-out images there are no successes and "
        "failures to choose from.",
        groups=(Group(f"A sample of {kind} images", strips),),
    )


def _strips(
    images: RunImages,
    source: Source,
    rows: np.ndarray,
    words: list[str],
    gallery: Source,
    neighbours: np.ndarray,
    similarities: np.ndarray,
) -> tuple[Strip, ...]:
    """A strip for each of `rows`, with neighbours and similarities [R, n]."""
    known = source.labels is not None and gallery.labels is not None
    found = _tiles(images, gallery, neighbours.ravel())
    strips = []
    for i, query in enumerate(_tiles(images, source, rows)):
        tiles = found[i * neighbours.shape[1] :]
        compared = tuple(
            tile._replace(similarity=similarity, same=tile.name == query.name if known else None)
            for tile, similarity in zip(tiles, similarities[i].tolist(), strict=False)
        )
        strips.append(Strip(words[i], query, compared))
    return tuple(strips)


def _tiles(images: RunImages, source: Source, rows: np.ndarray) -> list[Tile]:
    """Images with their classes."""
    if not len(rows):
        return []
    names = [""] * len(rows)
    if source.labels is not None:
        names = [source.class_names[label] for label in source.labels[rows]]
    return list(map(Tile, images.pictures(source, rows), names))
