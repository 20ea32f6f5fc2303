"""Embedded pictures: a gallery, which is embedded once, and the queries."""

import contextlib
import dataclasses
import os
import pathlib
import stat
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from la_tf.data.base import DataError, Subset
from la_tf.data.checks import BadImage, find_bad_images
from la_tf.data.image_headers import PictureError, count_pixels
from la_tf.data.pipeline import EVAL_BATCH_SIZE
from la_tf.embedding.embedding_model import EmbeddingError, EmbeddingModel
from la_tf.errors import first_line
from la_tf.search.cache import EmbeddingCache, cache_file, default_cache_dir
from la_tf.search.picture_files import PictureFiles, printable

MAX_MEGAPIXELS = 150  # decoded and in float32, such a picture takes 2 GB
_A_SAVE = 2 * EVAL_BATCH_SIZE  # pictures
_UNIT_TOLERANCE = 1e-3
_SHOWN = 3  # names in a message

FileId = tuple[int, int]  # device and inode: the same file under every name


@dataclasses.dataclass(frozen=True)
class PictureFile:
    """A picture file.

    Attributes:
      path: for the system.
      label: the path for people, see `PictureFiles.describe`.
      file: tells the file from all others.
    """

    path: pathlib.Path
    label: str
    file: FileId


@dataclasses.dataclass(frozen=True)
class EmbeddedFiles:
    """Embedded pictures.

    Attributes:
      pictures: N of them.
      vectors: [N, D] float32 unit rows, in their order.
    """

    pictures: tuple[PictureFile, ...]
    vectors: np.ndarray


@dataclasses.dataclass(frozen=True)
class Gallery(EmbeddedFiles):
    """The pictures of a folder.

    Attributes:
      num_new: how many of them had to be embedded; the others were in the cache.
      left_out: the files that are no picture after all.
      cache: the file that keeps the embeddings.
    """

    num_new: int
    left_out: tuple[BadImage, ...]
    cache: pathlib.Path


def open_gallery(
    model: EmbeddingModel,
    files: PictureFiles,
    cache_dir: str | None = None,
    say: Callable[[str], None] = print,
) -> Gallery:
    """Embeds the pictures of a folder, or what has changed since the last time.

    A file is known again by its path, its size and the time of its last change. What is embedded
    is saved every few batches, so that after a kill the next call goes on. Pictures that cannot be
    decoded are left out, and so are those above `MAX_MEGAPIXELS`.

    Args:
      model: see `run_model` and `export_model`.
      files: of a folder.
      cache_dir: where caches are; default `default_cache_dir`.
      say: takes sentences on what is left out and on a cache that was damaged.

    Raises:
      DataError: it is no folder, or no picture can be embedded.
      EmbeddingError: the cache cannot be written, or the model does not give unit vectors.
    """
    if not os.path.isdir(files.name):
        raise DataError(f"{files.name} is a file: name the folder to search.")
    folder = default_cache_dir() if cache_dir is None else pathlib.Path(cache_dir).expanduser()
    cache = EmbeddingCache(cache_file(folder, files.name, model.identity), say)
    with contextlib.closing(cache):
        found, bad = _look_up(files)
        names = {row: files.name_below(row) for row in found}
        # From before the files are read: what changes meanwhile is another file next time.
        stamps = {row: (status.st_size, status.st_mtime_ns) for row, status in found.items()}
        cache.forget_others(set(names.values()))
        vectors = {row: cache.get(names[row], stamps[row]) for row in found}
        new = [row for row, vector in vectors.items() if vector is None]

        def keep(rows: Sequence[int], embedded: np.ndarray) -> None:
            cache.add([names[row] for row in rows], [stamps[row] for row in rows], embedded)
            vectors.update(zip(rows, embedded, strict=True))

        broken = _embed(model, files, new, keep)
    embedded = _collect(files, found, vectors, [*bad, *broken], say)
    return Gallery(
        embedded.pictures,
        embedded.vectors,
        num_new=len(new) - len(broken),
        left_out=(*bad, *broken),
        cache=cache.path,
    )


def embed_queries(
    model: EmbeddingModel,
    files: PictureFiles,
    gallery: EmbeddedFiles,
    say: Callable[[str], None] = print,
) -> EmbeddedFiles:
    """Embeds the pictures to search for; those that the gallery holds are not embedded again.

    Args:
      model: that of the gallery.
      files: a picture or those of a folder.
      gallery: see `open_gallery`.
      say: takes a sentence on what is left out.

    Raises:
      DataError: no picture can be embedded.
      EmbeddingError: the model does not give unit vectors.
    """
    found, bad = _look_up(files)
    known = {p.file: v for p, v in zip(gallery.pictures, gallery.vectors, strict=True)}
    vectors = {row: known.get(_file_id(status)) for row, status in found.items()}
    new = [row for row, vector in vectors.items() if vector is None]

    def keep(rows: Sequence[int], embedded: np.ndarray) -> None:
        vectors.update(zip(rows, embedded, strict=True))

    broken = _embed(model, files, new, keep)
    return _collect(files, found, vectors, [*bad, *broken], say)


def _look_up(files: PictureFiles) -> tuple[dict[int, os.stat_result], list[BadImage]]:
    """What the system says of each regular file, and the others, which are never opened.

    To open a pipe would wait for its other end, and to read a device may never end.
    """
    found, bad = {}, []
    for row in range(len(files)):
        try:
            status = files.path(row).stat()
        except OSError as error:  # a link to nothing, for example
            bad.append(BadImage(row, files.describe(row), error.strerror))
        else:
            if stat.S_ISREG(status.st_mode):
                found[row] = status
            else:
                bad.append(BadImage(row, files.describe(row), "is no regular file"))
    return found, bad


def _file_id(status: os.stat_result) -> FileId:
    return status.st_dev, status.st_ino


def _embed(
    model: EmbeddingModel,
    files: PictureFiles,
    rows: Sequence[int],
    keep: Callable[[Sequence[int], np.ndarray], None],
) -> list[BadImage]:
    """Embeds some files, hands parts of them to `keep`, and returns those that it left out."""
    bad = []
    bar = tqdm(
        total=len(rows), unit=" images", unit_scale=True, dynamic_ncols=True, disable=None
    )  # None: where there is no terminal
    with bar:
        for start in range(0, len(rows), _A_SAVE):
            part = rows[start : start + _A_SAVE]
            refused = [b for b in (_refuse(files, row) for row in part) if b]
            good, vectors, broken = _embed_part(model, files, _without(part, refused))
            if good:
                keep(good, vectors)
            bad += [*refused, *broken]
            bar.update(len(part))
    return bad


def _embed_part(
    model: EmbeddingModel, files: PictureFiles, rows: list[int]
) -> tuple[list[int], np.ndarray | None, list[BadImage]]:
    """Which of the files could be embedded, their vectors, and the others."""
    broken = []
    while rows:
        try:
            vectors = np.concatenate(list(model.batches(Subset(files, rows))))
        except tf.errors.OpError as error:
            # Only now: to decode every picture twice takes longer than this does once.
            bad = find_bad_images(files, rows)
            if not bad:
                raise EmbeddingError(
                    f"embedding stopped between {files.describe(rows[0])} and "
                    f"{files.describe(rows[-1])}: {first_line(error)}."
                ) from error
            rows = _without(rows, bad)
            broken += bad
        else:
            _require_unit(vectors)
            return rows, vectors, broken
    return [], None, broken


def _refuse(files: PictureFiles, row: int) -> BadImage | None:
    """What is wrong with a file before anything decodes it."""
    try:
        count_pixels(files.path(row).read_bytes(), MAX_MEGAPIXELS)
    except OSError as error:
        return BadImage(row, files.describe(row), error.strerror)
    except PictureError as error:
        return BadImage(row, files.describe(row), str(error))
    return None


def _without(rows: Sequence[int], bad: Sequence[BadImage]) -> list[int]:
    left_out = {image.index for image in bad}
    return [row for row in rows if row not in left_out]


def _require_unit(vectors: np.ndarray) -> None:
    """Raises EmbeddingError if products of the vectors are not cosines."""
    lengths = np.linalg.norm(vectors, axis=1)
    if not (np.abs(lengths - 1) < _UNIT_TOLERANCE).all():
        raise EmbeddingError(
            f"the model gives vectors of length {lengths.min():.3g} to {lengths.max():.3g}, not 1: "
            "name a run or an export of tools/train.py."
        )


def _collect(
    files: PictureFiles,
    found: dict[int, os.stat_result],
    vectors: dict[int, np.ndarray | None],
    bad: Sequence[BadImage],
    say: Callable[[str], None],
) -> EmbeddedFiles:
    """What could be embedded, in the order of the files; says what could not."""
    rows = [row for row in found if vectors[row] is not None]
    folder = printable(files.name)
    if not rows:
        others = f", the first of {len(bad)} files of {folder}" if len(bad) > 1 else ""
        raise DataError(
            f"there is no picture to embed: {bad[0].name} ({bad[0].reason}){others}. JPEG, PNG, "
            "GIF and BMP can be embedded."
        )
    if bad:
        named = ", ".join(f"{image.name} ({image.reason})" for image in bad[:_SHOWN])
        more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        say(f"{len(bad)} of the {len(files)} files of {folder} left out: {named}{more}.")
    pictures = [PictureFile(files.path(r), files.describe(r), _file_id(found[r])) for r in rows]
    return EmbeddedFiles(tuple(pictures), np.stack([vectors[row] for row in rows]))
