"""Files and folders are replaced whole, and locks keep other processes out."""

import itertools
import pathlib
import signal
import subprocess
import sys

import pytest

from la_tf import files
from la_tf.files import lock, replace_folder, replacing, temporary_folder


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    with pytest.raises(RuntimeError), replacing(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("path", ["", "/"])
def test_what_has_no_name_is_no_file(path):
    with pytest.raises(IsADirectoryError, match="Is a directory"), replacing(pathlib.Path(path)):
        pass


def test_a_lock_keeps_another_process_out_until_that_ends_even_by_a_kill(tmp_path):
    code = "import pathlib, sys; from la_tf.files import lock; f = lock(pathlib.Path(sys.argv[1]))"
    code += "; print('locked', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout.readline() == b"locked\n"
    with pytest.raises(BlockingIOError):
        lock(tmp_path / "lock")
    other.send_signal(signal.SIGKILL)
    other.communicate()
    with lock(tmp_path / "lock"), pytest.raises(BlockingIOError):
        lock(tmp_path / "lock")
    lock(tmp_path / "lock", wait=True).close()


def test_a_folder_that_cannot_be_replaced_is_still_there(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "old").touch()
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "missing", tmp_path / "1")
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["1", "1/old"]


def test_a_temporary_folder_is_removed_whatever_ends_its_use(tmp_path):
    parent = tmp_path / "parent"
    for error in (KeyError, ValueError):
        with pytest.raises(error), temporary_folder(parent, "own-", ValueError) as folder:
            (folder / "file").touch()
            with temporary_folder(parent, "own-") as other:
                assert (folder / "file").exists() and other != folder
            raise error
        assert folder.exists() == (error is ValueError)
    with temporary_folder(parent, "own-"):
        assert not folder.exists()  # it was kept until now
    assert list(parent.iterdir()) == []


def interrupt_at(line: int):
    """A tracer by which Ctrl-C comes before the n-th line that la_tf/files.py executes."""
    lines = itertools.count(1)

    def trace(frame, event, argument):
        ours = event == "line" and frame.f_code.co_filename == files.__file__
        if ours and next(lines) == line:
            raise KeyboardInterrupt
        return trace

    return trace


def test_an_interrupt_while_a_temporary_folder_is_made_leaves_none(tmp_path):
    outer_tracer = sys.gettrace()
    for line in range(1, 100):
        try:
            sys.settrace(interrupt_at(line))
            with temporary_folder(tmp_path, "own-"):
                sys.settrace(outer_tracer)
                break
        except KeyboardInterrupt:
            assert list(tmp_path.iterdir()) == []
        finally:
            sys.settrace(outer_tracer)
    assert 5 < line < 99


def folder_of(path: pathlib.Path, word: str) -> pathlib.Path:
    path.mkdir()
    (path / "word").write_text(word)
    return path


def test_what_a_kill_between_the_two_moves_left_is_restored_before_it_is_replaced(tmp_path):
    folder_of(tmp_path / ".1.old", "the only copy")
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "missing", tmp_path / "1")
    assert (tmp_path / "1" / "word").read_text() == "the only copy"
    replace_folder(folder_of(tmp_path / "new", "new"), tmp_path / "1")
    assert (tmp_path / "1" / "word").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_link_gives_way_and_what_it_points_to_stays(tmp_path):
    elsewhere = folder_of(tmp_path / "elsewhere", "linked")
    (tmp_path / "1").symlink_to("elsewhere")
    for word in ("new", "newer"):
        replace_folder(folder_of(tmp_path / "next", word), tmp_path / "1")
        assert (tmp_path / "1" / "word").read_text() == word
    assert (elsewhere / "word").read_text() == "linked"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "elsewhere"]
