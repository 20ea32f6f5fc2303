"""The embedded pictures of a search: a gallery, which is embedded once, and the queries."""

import contextlib
import dataclasses
import os
import pathlib
import stat
from collections.abc import Callable, Sequence

import numpy as np

from la_tf.config import DataConfig
from la_tf.data.base import DataError
from la_tf.data.checks import BadImage, name_some
from la_tf.data.pipeline import EVAL_BATCH_SIZE
from la_tf.embedding.embedding_model import (
    EmbeddingError,
    EmbeddingModel,
    embed_readable,
    progress_bar,
)
from la_tf.search.cache import EmbeddingCache, cache_file, default_cache_dir
from la_tf.search.picture_files import PictureFiles, printable

_SAVE_EVERY = 2 * EVAL_BATCH_SIZE  # pictures
_UNIT_TOLERANCE = 1e-3

FileId = tuple[int, int]  # device and inode: the same file under every name


@dataclasses.dataclass(frozen=True)
class PictureFile:
    """A picture: its path, that path in messages, and what identifies it under all its names."""

    path: pathlib.Path
    label: str
    file: FileId


@dataclasses.dataclass(frozen=True)
class EmbeddedFiles:
    """N pictures, and float32 unit rows [N, D] in their order."""

    pictures: tuple[PictureFile, ...]
    vectors: np.ndarray


@dataclasses.dataclass(frozen=True)
class Gallery(EmbeddedFiles):
    """The pictures of a folder.

    Attributes:
      num_new: how many were embedded now; the others were in the cache.
      left_out: the files that could not be embedded.
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
    max_megapixels: float = DataConfig.max_megapixels,
) -> Gallery:
    """Embeds the pictures of a folder that are new or changed since the last time.

    A file is recognised by its path, its size and the time of its last change. Embeddings are
    saved every few batches, so that after a kill the next call continues. Pictures that cannot be
    decoded are left out, and so are those that are too large.

    Args:
      model: see `run_model` and `export_model`.
      files: of a folder.
      cache_dir: where caches are; default `default_cache_dir`.
      say: takes sentences on what is left out and on a cache that was damaged.
      max_megapixels: of a picture, in millions of pixels.

    Raises:
      DataError: `files` are not of a folder, or no picture can be embedded.
      EmbeddingError: the cache cannot be written, or the model does not give unit vectors.
    """
    if not os.path.isdir(files.name):
        raise DataError(f"{files.name} is a file: name the folder to search.")
    folder = default_cache_dir() if cache_dir is None else pathlib.Path(cache_dir).expanduser()
    cache = EmbeddingCache(cache_file(folder, files.name, model.identity), say)
    with contextlib.closing(cache):
        found, bad = _look_up(files)
        names = {row: files.name_below(row) for row in found}
        # Taken before the files are read: one that changes meanwhile is embedded again next time.
        stamps = {row: (status.st_size, status.st_mtime_ns) for row, status in found.items()}
        cache.forget_others(set(names.values()))
        vectors = {row: cache.get(names[row], stamps[row]) for row in found}
        num_known = sum(vector is not None for vector in vectors.values())

        def save(rows: Sequence[int], embedded: np.ndarray) -> None:
            cache.add([names[row] for row in rows], [stamps[row] for row in rows], embedded)

        bad += _embed_missing(model, files, vectors, max_megapixels, save)
    pictures, vectors = _collect(files, found, vectors, bad, say)
    return Gallery(pictures, vectors, len(pictures) - num_known, tuple(bad), cache.path)


def embed_queries(
    model: EmbeddingModel,
    files: PictureFiles,
    gallery: EmbeddedFiles,
    say: Callable[[str], None] = print,
    max_megapixels: float = DataConfig.max_megapixels,
) -> EmbeddedFiles:
    """Embeds the pictures to search for by the gallery's model, except those that it holds.

    Raises:
      DataError: no picture can be embedded.
      EmbeddingError: the model does not give unit vectors.
    """
    found, bad = _look_up(files)
    known = {p.file: v for p, v in zip(gallery.pictures, gallery.vectors, strict=True)}
    vectors = {row: known.get(_file_id(status)) for row, status in found.items()}
    bad += _embed_missing(model, files, vectors, max_megapixels)
    return EmbeddedFiles(*_collect(files, found, vectors, bad, say))


def _look_up(files: PictureFiles) -> tuple[dict[int, os.stat_result], list[BadImage]]:
    """The status of each regular file by its row, and the other files, which are never opened.

    Opening a pipe would wait for its other end, and reading a device may never end.
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


def _embed_missing(
    model: EmbeddingModel,
    files: PictureFiles,
    vectors: dict[int, np.ndarray | None],
    max_megapixels: float,
    save: Callable[[Sequence[int], np.ndarray], None] = lambda rows, embedded: None,
) -> list[BadImage]:
    """Fills in the vectors that are None, part by part, and returns the files that have none."""
    new, bad = [row for row, vector in vectors.items() if vector is None], []
    with progress_bar(len(new)) as bar:
        for start in range(0, len(new), _SAVE_EVERY):
            part = new[start : start + _SAVE_EVERY]
            good, embedded, broken = embed_readable(model, files, part, max_megapixels)
            if good:
                _require_unit(embedded)
                save(good, embedded)
                vectors.update(zip(good, embedded, strict=True))
            bad += broken
            bar.update(len(part))
    return bad


def _require_unit(vectors: np.ndarray) -> None:
    """Raises EmbeddingError unless dot products of the vectors are cosines."""
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
) -> tuple[tuple[PictureFile, ...], np.ndarray]:
    """Pictures and vectors in the order of the files; says which files were left out."""
    if files.not_read:
        say(printable(files.not_read))
    rows = [row for row in found if vectors[row] is not None]
    folder = printable(files.name)
    if not rows:
        others = f", the first of {len(bad)} files of {folder}" if len(bad) > 1 else ""
        raise DataError(
            f"there is no picture to embed: {bad[0].name} ({bad[0].reason}){others}. JPEG, PNG, "
            "GIF and BMP can be embedded."
        )
    if bad:
        say(f"{len(bad)} of the {len(files)} files of {folder} left out: {name_some(bad)}.")
    pictures = [PictureFile(files.path(r), files.describe(r), _file_id(found[r])) for r in rows]
    return tuple(pictures), np.stack([vectors[row] for row in rows])
