"""Libraries in C are heard only where the process dies."""

import subprocess
import sys

import pytest

# Lines to the descriptor itself, as libjpeg writes them, and one of Python's own.
CODE = """
import os, signal, sys
from la_tf.serving import last_words
with last_words.of_libraries():
    for number in range(100):
        os.write(2, b"complaint %d\\n" % number)
    print("own", file=sys.stderr)
    print("printed")
    {end}
    print("own, later", file=sys.stderr)
os.write(2, b"after\\n")
"""
ABORT = "os.write(2, b'why\\n'); os.abort()"


def run(end: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", CODE.format(end=end)]
    return subprocess.run(command, capture_output=True, text=True)


def test_complaints_of_a_process_that_ends_in_order_are_not_shown():
    process = run("pass")
    assert (process.returncode, process.stdout) == (0, "printed\n")
    assert process.stderr == "own\nown, later\nafter\n"


def test_an_exception_is_shown():
    process = run("raise RuntimeError('this')")
    assert process.stderr.endswith("RuntimeError: this\n") and "complaint" not in process.stderr


@pytest.mark.parametrize("end", [ABORT, "os._exit(3)"])
def test_the_last_lines_of_a_process_that_dies_are_shown(end):
    process = run(end)
    assert process.returncode in (-6, 3)
    lines = process.stderr.splitlines()
    expected = [f"complaint {number}" for number in range(100)] + ["why"] * (end == ABORT)
    assert lines == ["own", *expected[-20:]]
