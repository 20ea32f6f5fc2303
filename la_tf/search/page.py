"""The page of a search: one file with all pictures in it, which needs no network and no script."""

import dataclasses
import functools
import os
import pathlib
import warnings
from collections.abc import Sequence

import jinja2
from PIL import Image, ImageOps

from la_tf.analysis.images import data_uri
from la_tf.data.image_headers import FORMATS
from la_tf.errors import UserError
from la_tf.files import replace_file
from la_tf.search.nearest import Match, SearchResult
from la_tf.search.picture_files import printable

MAX_QUERIES = 100
MAX_MATCHES = 50
THUMBNAIL = 176  # pixels
_SMALL = 96  # pixels below which a picture is shown pixel by pixel
_MARK = '<meta name="generator" content="la_tf search">'
_HEAD_BYTES = 1024  # of a page, with the mark in it


class PageError(UserError, RuntimeError):
    """A page that cannot be written; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Page:
    """A page on disk.

    Attributes:
      path: of the file.
      limits: what of the results it does not show, as a sentence; empty if it shows all.
    """

    path: pathlib.Path
    limits: str


@dataclasses.dataclass(frozen=True)
class PageTile:
    """A picture on the page.

    Attributes:
      name: its path, from the gallery on if it lies there.
      address: a file: address of the picture itself.
      thumbnail: a data: address, or None if the picture cannot be shown.
      small: whether its pixels are to be seen one by one.
      similarity: to the query; None for the query itself.
    """

    name: str
    address: str
    thumbnail: str | None
    small: bool
    similarity: float | None = None


def require_output(path: str) -> None:
    """Refuses, before the work, a place where the page cannot be written.

    Raises:
      PageError: there is a folder, or a file that is no such page, or its folder cannot be written.
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
    path: str, results: Sequence[SearchResult], gallery: str, size: int, model: str
) -> Page:
    """Writes the results of a search as one HTML file.

    It shows up to `MAX_QUERIES` queries with up to `MAX_MATCHES` pictures each, as thumbnails that
    link to the files.

    Args:
      path: of the file; a page of an earlier search is replaced.
      results: see `search`.
      gallery: the folder of the pictures, for people.
      size: how many pictures it holds.
      model: where the model is, for people.

    Raises:
      PageError: the file cannot be written, or is something else's.
    """
    require_output(path)
    output = pathlib.Path(path).expanduser()
    look = functools.cache(_thumbnail)  # the same picture may be near to many

    def tile(match: Match) -> PageTile:
        picture = match.picture
        name = picture.label.removeprefix(os.path.join(printable(gallery), ""))
        return PageTile(name, _address(picture.path), *look(picture.path), match.similarity)

    shown = [
        (
            PageTile(r.query.label, _address(r.query.path), *look(r.query.path)),
            [tile(match) for match in r.matches[:MAX_MATCHES]],
        )
        for r in results[:MAX_QUERIES]
    ]
    limits = _limits(results)
    page = _template().render(
        mark=_MARK, shown=shown, limits=limits, gallery=gallery, size=size, model=model
    )
    try:
        replace_file(output, page.encode(errors="replace"))
    except OSError as error:
        raise _cannot_write(output, error) from error
    return Page(output, limits)


def _limits(results: Sequence[SearchResult]) -> str:
    parts = []
    if len(results) > MAX_QUERIES:
        parts.append(f"the first {MAX_QUERIES} of {len(results):,} queries")
    if (most := max(len(result.matches) for result in results)) > MAX_MATCHES:
        parts.append(f"the first {MAX_MATCHES} of {most:,} pictures found for each")
    return f"The page shows {' and '.join(parts)}." if parts else ""


def _address(path: pathlib.Path) -> str:
    return path.absolute().as_uri()


def _thumbnail(path: pathlib.Path) -> tuple[str | None, bool]:
    """The picture as a person's viewer turns it, as a data: address, and whether it is small."""
    try:
        with warnings.catch_warnings():
            # Larger ones than are embedded are not on the page.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as picture:
                small = max(picture.size) < _SMALL
                picture.draft("RGB", (THUMBNAIL, THUMBNAIL))  # a JPEG is decoded at about this size
                return data_uri(ImageOps.exif_transpose(picture), THUMBNAIL), small
    except Exception:  # what TensorFlow decodes may break Pillow's readers in many ways
        return None, False


def _cannot_write(output: pathlib.Path, error: OSError) -> PageError:
    return PageError(
        f"the page {output} cannot be written: {error.strerror}. Name another --output."
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        # The looks are those of a run's report.
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader("la_tf.search"), jinja2.PackageLoader("la_tf.analysis")]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("search.html")
