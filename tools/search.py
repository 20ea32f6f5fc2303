"""Finds the pictures of a folder that are nearest to a picture, or to each other.

  python tools/search.py --run_dir=RUN --gallery=FOLDER --query=IMAGE
  python tools/search.py --export_dir=RUN/export --gallery=FOLDER --query=FOLDER --output=PAGE.html
  python tools/search.py --run_dir=RUN --gallery=FOLDER --duplicates --min_similarity=0.98

FOLDER is any folder of JPEG, PNG, GIF or BMP files; it needs no labels and no order. It is embedded
once: the embeddings are kept in --cache_dir, and a later search embeds only files that are new or
have another size or time of change. After a stop, the same command continues. A query that lies in
the gallery does not find itself. Similarities are cosines, 1 at most; the search is exact.
"""

import math
import sys

import command_line
import config_flags
from absl import flags

from la_tf.config import DataConfig

_RUN_DIR = flags.DEFINE_string("run_dir", None, "A run directory; its newest checkpoint is used.")
_EXPORT_DIR = flags.DEFINE_string("export_dir", None, "A SavedModel, or a run's folder export.")
_GALLERY = flags.DEFINE_string("gallery", None, "The folder to search, with all below it.")
_QUERY = flags.DEFINE_string("query", None, "A picture to search for, or a folder of them.")
_DUPLICATES = flags.DEFINE_bool(
    "duplicates", False, "Instead of a query: the most similar pairs of pictures in the folder."
)
_MIN_SIMILARITY = flags.DEFINE_float(
    "min_similarity",
    None,
    "With --duplicates: all pairs that are at least so similar, up to 10,000 without "
    "--num_results.",
    lower_bound=-1,
    upper_bound=1,
)
flags.register_validator(
    _MIN_SIMILARITY, lambda given: given is None or math.isfinite(given), "give a number"
)  # NaN is within all bounds
_NUM_RESULTS = flags.DEFINE_integer(
    "num_results",
    None,
    "How many pictures to find for each query, or pairs; default 10.",
    lower_bound=1,
    upper_bound=10**6,
)
_MAX_MEGAPIXELS = config_flags.define_option(
    "max_megapixels", DataConfig.max_megapixels, "Larger pictures, in millions, are left out."
)
_OUTPUT = flags.DEFINE_string("output", "search.html", "The page to write, with the pictures.")
_CACHE_DIR = flags.DEFINE_string(
    "cache_dir", None, "Where embeddings are kept; default $XDG_CACHE_HOME/la_tf/search."
)

_RESULTS = 10
_MANY_PAIRS = 10_000  # most with --min_similarity alone


def main() -> None:
    """Searches."""
    _parse(sys.argv)
    _search()


def _parse(argv: list[str]) -> None:
    command_line.parse(argv, __doc__)
    if (_RUN_DIR.value is None) == (_EXPORT_DIR.value is None):
        command_line.fail("give one of --run_dir and --export_dir.")
    if _GALLERY.value is None or (_QUERY.value is None) != _DUPLICATES.value:
        command_line.fail(
            "give --gallery, the folder to search, and either --query, what to search for, or "
            "--duplicates."
        )
    if _MIN_SIMILARITY.value is not None and not _DUPLICATES.value:
        command_line.fail("--min_similarity needs --duplicates.")


def _search() -> None:
    # TensorFlow takes seconds to import: only once the flags are known to be right.
    from la_tf.search.gallery import embed_queries, open_gallery
    from la_tf.search.nearest import duplicates, search
    from la_tf.search.page import require_output, write_page
    from la_tf.search.picture_files import PictureFiles, printable

    require_output(_OUTPUT.value)
    files = PictureFiles(_GALLERY.value)
    wanted = None if _DUPLICATES.value else PictureFiles(_QUERY.value)
    model, large = _model(), {"max_megapixels": _MAX_MEGAPIXELS.value}
    gallery = open_gallery(model, files, _CACHE_DIR.value, **large)
    least, count = _MIN_SIMILARITY.value, _NUM_RESULTS.value or _RESULTS
    if wanted is not None:
        results = search(embed_queries(model, wanted, gallery, **large), gallery, count)
    elif least is None:
        results = duplicates(gallery, count)
    else:
        results = duplicates(gallery, _NUM_RESULTS.value or _MANY_PAIRS, least)
    size = len(gallery.pictures)
    name = _RUN_DIR.value or _EXPORT_DIR.value
    limits = write_page(_OUTPUT.value, results, files.name, size, name, pairs=wanted is None)
    if wanted is None:
        _print_pairs(results)
    else:
        _print_matches(results, printable(files.name))
    print(
        f"{size} pictures, {gallery.num_new} of them embedded now; the embeddings are kept in "
        f"{printable(str(gallery.cache))}"
    )
    print(f"{printable(_OUTPUT.value)} written. {limits}".rstrip())


def _print_matches(results: list, folder: str) -> None:
    for result in results:
        print(result.query.label)
        for rank, match in enumerate(result.matches, start=1):
            print(f"{rank:5}  {match.similarity:6.3f}  {match.picture.label}")
        if not result.matches:
            print(f"{folder} holds no other picture.")


def _print_pairs(results: list) -> None:
    for rank, result in enumerate(results, start=1):
        (match,) = result.matches
        print(f"{rank:5}  {match.similarity:6.3f}  {result.query.label}")
        print(f"{'':15}{match.picture.label}")
    if not results:
        print("no two pictures are as similar as that.")
    if len(results) == _MANY_PAIRS and not _NUM_RESULTS.value:
        print(
            f"there may be more than these {_MANY_PAIRS:,} pairs: give --num_results to get them."
        )


def _model():
    """The model that the flags name."""
    from la_tf.embedding.embedding_model import export_model, run_model
    from la_tf.runs.trained_run import open_run

    if _RUN_DIR.value is not None:
        return run_model(open_run(_RUN_DIR.value))
    return export_model(_EXPORT_DIR.value)


if __name__ == "__main__":
    command_line.run(main)
