"""Files and folders that are there whole or not at all, and locks on them."""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import shutil
import stat
import uuid
from collections.abc import Iterator
from typing import Any, BinaryIO, TextIO


def open_regular(path: str | bytes | os.PathLike) -> BinaryIO:
    """Opens a file to read its bytes, without a buffer, if it is one.

    Opening a pipe would wait for its other end, and reading a device may never end.

    Raises:
      OSError: there is no such file, or it is a folder, a pipe or a device; see `strerror`.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        what = "is a folder" if stat.S_ISDIR(mode) else "is no regular file"
        raise OSError(errno.EINVAL, what, path)
    return open(path, "rb", buffering=0)


_HELD = "lock"


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path to write a file to, which takes the place of `path` if the block ends well.

    Whoever opens `path` sees the old file or the new one, never a part.

    Raises:
      OSError: it cannot be written.
    """
    if not path.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    # Of no name that somebody else's file may have.
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def pattern_in(path: pathlib.Path) -> str | None:
    """The first character of a path, if any, that TensorFlow takes for a pattern of names.

    Its checkpoints and SavedModels are then looked for elsewhere.
    """
    return next((character for character in str(path) if character in "[*?\\"), None)


def replace_folder(new: pathlib.Path, target: pathlib.Path) -> None:
    """Puts a whole folder in the place of another; where that fails, the other one is back.

    The target may be a link; what it points to stays as it is.

    Raises:
      OSError: the folder cannot be moved.
    """
    old = target.with_name(f".{target.name}.old")
    if os.path.lexists(old) and not os.path.lexists(target):
        os.replace(old, target)  # a kill between the two moves below left the only copy there
    _remove(old)
    if os.path.lexists(target):
        os.replace(target, old)
    try:
        os.replace(new, target)
    except OSError:
        if os.path.lexists(old):
            os.replace(old, target)
        raise
    _remove(old)


def _remove(folder: pathlib.Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def temporary_folder(
    parent: pathlib.Path, prefix: str, keep_after: type[Exception] | tuple = ()
) -> Iterator[pathlib.Path]:
    """A new folder inside another one, which is made if need be; removed at the end.

    What killed processes left there is removed, and what living ones use is not.

    Args:
      parent: where.
      prefix: of the name of a folder around it, which is locked.
      keep_after: exceptions after which it stays, until the next one of this prefix is made.

    Raises:
      OSError: it cannot be made.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for folder in parent.iterdir():
        if folder.name.startswith(prefix):
            _remove_if_left(folder)
    outer = parent / f"{prefix}{uuid.uuid4().hex}"  # named first: Ctrl-C may come once it is made
    kept = False
    try:
        with _made_and_locked(outer):
            (outer / "new").mkdir()
            yield outer / "new"
    except keep_after:
        kept = True
        raise
    finally:
        if not kept:
            shutil.rmtree(outer, ignore_errors=True)


def _made_and_locked(folder: pathlib.Path) -> TextIO:
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            held = lock(folder / _HELD, wait=True)
            if (folder / _HELD).exists():
                return held
            held.close()  # another process has just taken it for what somebody left


def _remove_if_left(folder: pathlib.Path) -> None:
    """Removes a folder of `temporary_folder` that no process uses any more."""
    with contextlib.suppress(OSError):
        names = os.listdir(folder)
        if not names or _HELD in names:  # others' folders may have such a name
            with lock(folder / _HELD):
                shutil.rmtree(folder, ignore_errors=True)


def lock(path: pathlib.Path, *, wait: bool = False) -> TextIO:
    """Locks a file, which is made if need be, until it is closed or the process ends.

    Args:
      path: of the file; its content stays as it is.
      wait: wait for another process that has the lock, instead of raising.

    Returns:
      The open file: close it, or use it as a context, to let others have the lock.

    Raises:
      BlockingIOError: another process has the lock.
      OSError: the file cannot be made.
    """
    file = path.open("a", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        file.close()
        raise
    return file


def write_json(path: pathlib.Path, value: Any) -> None:
    """Replaces a JSON file in one step."""
    replace_file(path, (json.dumps(value, indent=2) + "\n").encode())


def replace_file(path: pathlib.Path, content: bytes | memoryview) -> None:
    """Writes a file in one step: whoever opens it sees the old one or the new one."""
    with replacing(path) as partial:
        partial.write_bytes(content)
