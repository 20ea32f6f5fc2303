"""A folder of image files, with or without class subfolders."""

import collections
import os

import numpy as np
import tensorflow as tf

from la_tf.data.base import ENDS_BYTES, DataError, Source
from la_tf.files import open_regular

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif")  # what TensorFlow decodes, in any case
# Of pictures too, which it does not decode.
_OTHER_PICTURES = (
    *(".webp", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".tif", ".tiff"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw"),
)


class FolderSource(Source):
    """The image files below a folder, in the byte-wise order of their relative paths.

    The order depends neither on the locale nor on the order in which the system lists files. Where
    every image lies in a subfolder, the first-level subfolder is its class. If any image lies
    outside of them, the subfolders are not classes, and no image has a label. Names that start with
    a dot are skipped; links are followed. Whatever else than a file has the name of an image is
    listed, so that it is named when the images are checked; `read` does not open it.
    """

    def __init__(self, folder: str):
        """Lists the folder.

        Args:
          folder: path of an existing folder.

        Raises:
          DataError: the folder is missing, cannot be listed or holds no images.
        """
        paths, others = _list_images(folder)
        if not paths:
            raise DataError(_nothing_found(folder, others))
        classes = [path.split(b"/", 1)[0] if b"/" in path else None for path in paths]
        labels = names = None
        if None not in classes:
            # Paths are sorted, but "a-b/" sorts before "a/": the classes need their own sort.
            distinct = sorted(set(classes))
            number = {name: i for i, name in enumerate(distinct)}
            labels = np.array([number[name] for name in classes], np.int32)
            names = tuple(_text(name) for name in distinct)
        super().__init__(folder, len(paths), labels, names)
        self.not_read = not_read(folder, others)
        root = os.fsencode(folder)
        self._paths = [os.path.join(root, path) for path in paths]
        self._path_tensor = tf.constant(self._paths)

    def describe(self, i: int) -> str:
        """The path of the file."""
        return _text(self._paths[i])

    def load(self, index: tf.Tensor) -> tf.Tensor:
        """Reads the file."""
        return tf.io.read_file(tf.gather(self._path_tensor, index))

    def read(self, i: int) -> bytes:
        """Reads the file, if it is a regular one."""
        with open_regular(self._paths[i]) as file:
            return file.read()

    def read_ends(self, i: int, count: int = ENDS_BYTES) -> tuple[bytes, bytes, int]:
        """Reads nothing but the ends of the file, if it is a regular one."""
        with open_regular(self._paths[i]) as file:
            size = os.fstat(file.fileno()).st_size
            head = os.pread(file.fileno(), count, 0)
            tail = os.pread(file.fileno(), count, max(0, size - count))
        return head, tail, size


def _list_images(folder: str) -> tuple[list[bytes], collections.Counter]:
    """Relative paths of images, sorted, and how many other files there are by extension."""
    images, others = [], collections.Counter()

    def visit(path: bytes, relative: bytes, above: frozenset) -> None:
        status = os.stat(path)
        identity = (status.st_dev, status.st_ino)
        if identity in above:  # a link to one of its own parents
            return
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith(b"."):
                    continue
                extension = os.path.splitext(_text(entry.name))[1].lower()
                is_folder, before = entry.is_dir(), len(images)
                if is_folder:
                    visit(entry.path, relative + entry.name + b"/", above | {identity})
                # A folder with the name of an image may well hold images.
                if extension in EXTENSIONS and len(images) == before:
                    images.append(relative + entry.name)
                elif not is_folder:
                    others[extension or "no extension"] += 1

    try:
        visit(os.fsencode(folder), b"", frozenset())
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be listed: {error.strerror}.") from error
    return sorted(images), others


def _text(path: bytes) -> str:
    # Not os.fsdecode: its surrogates for bytes that are no UTF-8 cannot be printed.
    return path.decode("utf-8", errors="replace")


def not_read(folder: str, others: collections.Counter) -> str:
    """A sentence on pictures that are left out; empty if there are none.

    Args:
      folder: where they are.
      others: how many files there are by extension, such as '.webp'; '.jpg' and the like do not
        matter.
    """
    found = [
        f"{n} {extension}" for extension, n in others.most_common() if extension in _OTHER_PICTURES
    ]
    if not found:
        return ""
    return f"not read in {folder}: {', '.join(found)}; convert them to JPEG or PNG."


def _nothing_found(folder: str, others: collections.Counter) -> str:
    found = ", ".join(f"{count} {extension}" for extension, count in others.most_common(5))
    convert = set(others) & set(_OTHER_PICTURES)
    remedy = "convert them to JPEG or PNG" if convert else "name the folder that holds them"
    return (
        f"{folder} holds no images ({' '.join(EXTENSIONS)} were looked for, "
        f"{'there is: ' + found if found else 'it is empty'}): {remedy}."
    )
