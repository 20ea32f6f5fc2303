"""The page of a search: one file with all pictures, which needs neither network nor script."""

import functools
import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageOps

from la_tf.analysis.html import data_uri, html_template
from la_tf.data.image_headers import FORMATS
from la_tf.errors import UserError
from la_tf.files import replace_file
from la_tf.search.gallery import PictureFile
from la_tf.search.nearest import SearchResult
from la_tf.search.picture_files import printable

MAX_QUERIES = 100
MAX_MATCHES = 50
THUMBNAIL = 176  # pixels
_SMALL = 96  # pixels; the pixels of a smaller picture stay visible
_MARK = '<meta name="generator" content="la_tf search">'
_HEAD_BYTES = 1024  # of a page; the mark is among them


class PageError(UserError, RuntimeError):
    """A page that cannot be written; the message says why and what to do."""


class PageTile(NamedTuple):
    """A picture on the page; the query has no similarity, and not every picture a thumbnail."""

    name: str
    address: str  # file:
    thumbnail: str | None  # data:
    small: bool  # shown with its pixels visible
    similarity: float | None = None


def require_output(path: str) -> None:
    """Refuses, before the work, a path that the page cannot be written to.

    Raises:
      PageError: it is a folder or a file that is no such page, or its folder cannot be written.
    """
    output = pathlib.Path(path).expanduser()
    if output.is_dir():
        raise PageError(f"{output} is a folder: name a file for the page with --output.")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.exists():
            with output.open("rb") as file:
                if _MARK.encode() not in file.read(_HEAD_BYTES):
                    raise PageError(
                        f"{output} is a file of something else, and is not overwritten: name "
                        "another --output."
                    )
    except OSError as error:
        raise _cannot_write(output, error) from error
    if not os.access(output.parent, os.W_OK):
        raise PageError(f"{output.parent} cannot be written: name another --output.")


def write_page(
    path: str,
    results: Sequence[SearchResult],
    gallery: str,
    size: int,
    model: str,
    pairs: bool = False,
) -> str:
    """Writes the results of a search as one HTML file, or replaces the page of an earlier search.

    It shows up to `MAX_QUERIES` queries with up to `MAX_MATCHES` pictures each, as thumbnails that
    link to the files, and names the gallery, its number of pictures, `size`, and the model. With
    `pairs` the results are those of `duplicates`.

    Returns:
      What of the results the page leaves out, as a sentence; empty if it shows all.

    Raises:
      PageError: the file cannot be written, or is something else's.
    """
    require_output(path)
    output = pathlib.Path(path).expanduser()
    thumbnail = functools.cache(_thumbnail)  # a picture may be found for many queries

    folder = os.path.join(printable(gallery), "")

    def tile(picture: PictureFile, below: str = "", similarity: float | None = None) -> PageTile:
        address, name = picture.path.absolute().as_uri(), picture.label.removeprefix(below)
        return PageTile(name, address, *thumbnail(picture.path), similarity)

    shown = [
        (
            tile(r.query, folder if pairs else ""),
            [tile(m.picture, folder, m.similarity) for m in r.matches[:MAX_MATCHES]],
        )
        for r in results[:MAX_QUERIES]
    ]
    limits = _limits(results, "pairs" if pairs else "queries")
    page = html_template("la_tf.search", "search.html").render(
        mark=_MARK,
        shown=shown,
        limits=limits,
        gallery=gallery,
        size=size,
        model=model,
        pairs=pairs,
    )
    try:
        replace_file(output, page.encode(errors="replace"))
    except OSError as error:
        raise _cannot_write(output, error) from error
    return limits


def _limits(results: Sequence[SearchResult], name: str) -> str:
    parts = []
    if len(results) > MAX_QUERIES:
        parts.append(f"the first {MAX_QUERIES} of {len(results):,} {name}")
    if (most := max((len(r.matches) for r in results), default=0)) > MAX_MATCHES:
        parts.append(f"the first {MAX_MATCHES} of {most:,} pictures found for each")
    return f"The page shows {' and '.join(parts)}." if parts else ""


def _thumbnail(path: pathlib.Path) -> tuple[str | None, bool]:
    """The picture, upright, as a data: address, and whether it is small."""
    try:
        with warnings.catch_warnings():
            # Pictures of a dangerous size are not embedded, and so are not on the page.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as picture:
                small = max(picture.size) < _SMALL
                picture.draft("RGB", (THUMBNAIL, THUMBNAIL))  # a JPEG is decoded at about this size
                return data_uri(ImageOps.exif_transpose(picture), THUMBNAIL), small
    except Exception:  # Pillow fails in many ways on files that TensorFlow decodes
        return None, False


def _cannot_write(output: pathlib.Path, error: OSError) -> PageError:
    return PageError(
        f"the page {output} cannot be written: {error.strerror}. Name another --output."
    )
