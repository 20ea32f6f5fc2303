"""The picture files of a folder, or a single one."""

import os
import pathlib

import tensorflow as tf

from la_tf.data.base import DataError, Source
from la_tf.data.folder import FolderSource


class PictureFiles(FolderSource):
    """The image files below a folder, as `FolderSource` finds them, or one file of any name."""

    def __init__(self, path: str):
        """Lists the files of a folder, or takes one file; `~` is the home folder.

        Raises:
          DataError: there is no such path, or a folder that cannot be listed or holds no images.
        """
        path = os.path.expanduser(path)
        if not os.path.exists(path):
            raise DataError(
                f"{printable(path)} does not exist: name a picture, or a folder of pictures."
            )
        if os.path.isdir(path):
            super().__init__(path)
            self._folder = os.path.join(os.fsencode(path), b"")
        else:
            Source.__init__(self, path, 1)
            self._paths = [os.fsencode(path)]
            self._path_tensor = tf.constant(self._paths)
            self._folder = os.path.join(os.path.dirname(self._paths[0]), b"")

    def describe(self, i: int) -> str:
        """The path of a file for people: `printable`, with bytes that are not UTF-8 replaced."""
        return printable(super().describe(i))

    def path(self, i: int) -> pathlib.Path:
        """The path of a file, to open it."""
        return pathlib.Path(os.fsdecode(self._paths[i]))

    def name_below(self, i: int) -> bytes:
        """The path of a file relative to the folder."""
        return self._paths[i].removeprefix(self._folder)


def printable(text: str) -> str:
    """A text in one line, with control characters and the like written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
