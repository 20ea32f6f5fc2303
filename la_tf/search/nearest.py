"""The nearest pictures of a gallery, to others or among themselves."""

import collections
import dataclasses

from la_tf.evaluation.knn import nearest, nearest_pairs
from la_tf.search.gallery import EmbeddedFiles, PictureFile


@dataclasses.dataclass(frozen=True)
class Match:
    """A picture of the gallery that was found, and its cosine similarity to the query."""

    picture: PictureFile
    similarity: float


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What was found for one picture, the most similar first."""

    query: PictureFile
    matches: tuple[Match, ...]


def search(queries: EmbeddedFiles, gallery: EmbeddedFiles, num_results: int) -> list[SearchResult]:
    """Finds the most similar pictures to each query, exactly: `num_results`, or all there are.

    Where the gallery holds the file of a query, under any name, that picture is left out.

    Returns:
      A result for each query, in their order.
    """
    rows_of = collections.defaultdict(set)
    for row, picture in enumerate(gallery.pictures):
        rows_of[picture.file].add(row)
    own = [rows_of.get(query.file, set()) for query in queries.pictures]
    # More than asked for, to make up for those that are left out.
    count = min(num_results + max(map(len, own)), len(gallery.pictures))
    found = nearest(queries.vectors, gallery.vectors, count)
    results = []
    for query, left_out, similarities, rows in zip(queries.pictures, own, *found, strict=True):
        matches = [
            Match(gallery.pictures[row], float(similarity))
            for similarity, row in zip(similarities, rows, strict=True)
            if row not in left_out
        ]
        results.append(SearchResult(query, tuple(matches[:num_results])))
    return results


def duplicates(
    gallery: EmbeddedFiles, num_pairs: int, min_similarity: float = -1.0
) -> list[SearchResult]:
    """Finds the most similar pairs of pictures, exactly; a file under two names is no pair.

    Args:
      gallery: what to compare, each picture with each.
      num_pairs: how many pairs, or all there are.
      min_similarity: of a pair.

    Returns:
      A result with one match for each pair, the most similar first.
    """
    first_of = {}
    for row, picture in enumerate(gallery.pictures):
        first_of.setdefault(picture.file, row)
    rows = list(first_of.values())
    similarities, pairs = nearest_pairs(gallery.vectors[rows], num_pairs, min_similarity)
    pictures = [gallery.pictures[row] for row in rows]
    return [
        SearchResult(pictures[first], (Match(pictures[second], float(similarity)),))
        for similarity, (first, second) in zip(similarities, pairs, strict=True)
    ]
