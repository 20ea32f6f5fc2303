"""Images and their nearest neighbours in the embedding (Figure 3)."""

import dataclasses

import numpy as np

from la_tf.analysis.images import EmbeddedImages, RunImages, file_name
from la_tf.analysis.part import Group, Part, Strip, Unavailable
from la_tf.data.base import Source, sample_rows
from la_tf.evaluation.knn import nearest, nearest_others, votes

STRIPS = 3  # of a kind, as in the paper
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


def highest(scores: np.ndarray, labels: np.ndarray, eligible: np.ndarray, count: int) -> np.ndarray:
    """The `count` queries of highest score [Q], from as many classes as possible.

    Only `eligible` ones, bool [Q], are chosen. Every class gives one before any gives a second; of
    equal ones the first comes first.

    Returns:
      Numbers of queries by falling score.
    """
    candidates = np.flatnonzero(eligible)
    candidates = candidates[np.argsort(-scores[candidates], kind="stable")]
    rank_in_class = np.empty(len(candidates), int)
    for label in np.unique(labels[candidates]):
        of_class = labels[candidates] == label
        rank_in_class[of_class] = np.arange(of_class.sum())
    chosen = candidates[np.argsort(rank_in_class, kind="stable")[:count]]
    return chosen[np.argsort(-scores[chosen], kind="stable")]


def labelled_part(
    images: RunImages, gallery: EmbeddedImages, queries: EmbeddedImages, found: Classified
) -> Part:
    """Figure 3 of held-out images, `queries`: successes and failures, and how sure they were."""
    labels, names = queries.source.labels, queries.source.class_names
    right, confidence = found.predicted == labels, found.confidence
    groups = []
    for heading, scores, eligible in (
        ("Most confident successes", confidence, right),
        ("Least confident failures", -confidence, ~right),
        ("Most confident failures", confidence, ~right),
    ):
        rows = highest(scores, labels, eligible, STRIPS)
        words = [
            f"True class {names[labels[row]]}, predicted {names[found.predicted[row]]}, "
            f"confidence {confidence[row]:.2f}"
            for row in rows
        ]
        neighbours = found.rows[rows, :NEIGHBOURS], found.similarities[rows, :NEIGHBOURS]
        strips = strips_of(images, queries.source, rows, words, gallery.source, *neighbours)
        groups.append(Group(heading, strips))
    return Part(
        f"Left a held-out image, then its nearest neighbours in {gallery.words}, with similarity "
        f"falling. Of {queries.words}, {right.mean():.1%} are classified rightly by their "
        f"{found.rows.shape[1]} nearest neighbours; confidence is the share of the weighted votes "
        "that the predicted class has. As many classes are shown as fit. The paper shows failures "
        "of low confidence; those of high confidence say more about what the network takes for "
        "alike. ≠ marks a neighbour of another class than the image's.",
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
    words = [file_name(source, row) for row in rows]
    strips = strips_of(images, source, rows, words, gallery.source, found, similarities)
    return Part(
        f"Left a {kind} image, drawn at random, then its nearest neighbours in {gallery.words}, "
        "with similarity falling. Without labelled held-out images there are no successes and "
        "failures to choose from.",
        groups=(Group(f"A sample of {kind} images", strips),),
    )


def strips_of(
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
    found = images.tiles(gallery, neighbours.ravel())
    strips = []
    for i, query in enumerate(images.tiles(source, rows)):
        tiles = found[i * neighbours.shape[1] :]
        compared = (
            tile._replace(similarity=similarity, same=tile.name == query.name if known else None)
            for tile, similarity in zip(tiles, similarities[i].tolist(), strict=False)
        )
        strips.append(Strip(words[i], (query, *compared)))
    return tuple(strips)
