"""Runs a tool that trains up to its first step, and keeps what a kill would leave on the way.

  python tests/snapshots.py RUN_DIR SNAPSHOTS TOOL [FLAGS]

Python announces each opening for writing, rename, unlink, mkdir and so on to audit hooks. Before
each of them under RUN_DIR, that folder is copied as it stands to "SNAPSHOTS/NUMBER EVENT": a kill
there would leave exactly that. After the first step the process is killed.
"""

import os
import pathlib
import runpy
import shutil
import signal
import sys

from la_tf import quiet

quiet.quiet()

from la_tf.callbacks.checkpointing import Checkpointing  # noqa: E402

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
_IN_FOLDER = {"os.remove", "os.rmdir"}  # whose second argument is the descriptor of a folder
_WRITES = os.O_WRONLY | os.O_RDWR
_SMALL = 1 << 16  # larger files are replaced and never changed, so that a link serves as well


def copy_file(file: str, copy: str) -> None:
    if os.path.getsize(file) > _SMALL:
        os.link(file, copy)
    else:
        shutil.copyfile(file, copy)


class Snapshots:
    """An audit hook; what it does itself is not looked at."""

    def __init__(self, run_dir: str, folder: pathlib.Path):
        self.run_dir, self.folder = run_dir, folder
        self.count, self.busy = 0, False

    def __call__(self, event: str, arguments: tuple) -> None:
        changes = event in _CHANGES or (event == "open" and arguments[2] & _WRITES)
        if self.busy or not changes or not os.path.isdir(self.run_dir):
            return
        path = os.fsdecode(arguments[0])
        if event in _IN_FOLDER and arguments[1] != -1:  # as shutil.rmtree calls them
            path = os.path.join(os.readlink(f"/proc/self/fd/{arguments[1]}"), path)
        if os.path.abspath(path).startswith(self.run_dir):
            self.busy = True
            name = f"{self.count:03d} {event} {os.path.basename(path)}"
            shutil.copytree(self.run_dir, self.folder / name, copy_function=copy_file)
            self.count, self.busy = self.count + 1, False


if __name__ == "__main__":
    run_dir, folder, *sys.argv = sys.argv[1:]
    sys.addaudithook(Snapshots(run_dir, pathlib.Path(folder)))
    Checkpointing.on_train_batch_end = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
