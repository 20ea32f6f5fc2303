"""How every tool ends when it is stopped: quietly, and with the exit code that a shell expects."""

import os
import pty
import re
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import ROOT

# Flags with which a tool goes on to import what it needs, and what of that comes first.
RUN = "--run_dir=nowhere"
LOADS = {
    "analyze": ([RUN], "tensorflow"),
    "benchmark": ([], "tensorflow"),
    "check_data": (["--data=digits"], "tensorflow"),
    "classify": ([RUN, "--data=digits"], "tensorflow"),
    "compare": (["nowhere"], "la_tf.results"),
    "detect": (["--export_dir=nowhere", f"--image={ROOT}"], "tensorflow"),
    "embed": ([RUN, "--output_dir=nowhere"], "tensorflow"),
    "evaluate": ([RUN], "tensorflow"),
    "export": ([RUN, "--export_dir=nowhere"], "tensorflow"),
    "finetune_voc": (["--init=random", "--network=vgg16", "--voc_dir=nowhere"], "tensorflow"),
    "make_tfrecords": (["--data=digits", "--output_dir=nowhere"], "tensorflow"),
    "reproduce": (["--data=digits"], "tensorflow"),
    "search": ([RUN, "--gallery=nowhere", "--query=nowhere"], "tensorflow"),
    "serve": (["--export_dir=nowhere"], "tensorflow"),
    "train": (["--data=digits"], "tensorflow"),
}

# Sends the signal of Ctrl-C, or of a closed terminal, where a module is about to be imported.
INTERRUPTED = """
import importlib.abc, os, runpy, signal, sys
module, *sys.argv = sys.argv[1:]

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == module:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Finder())
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(*command, **options) -> tuple[int, str, str]:
    """Exit code and outputs of a Python program."""
    usual = {
        **{"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True},
        # Ctrl-C is ignored in a background job of a shell, and by what that starts.
        "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    }
    process = subprocess.run([sys.executable, *command], **usual | options)
    return process.returncode, process.stdout, process.stderr


def test_all_tools_are_here():
    files = (path for path in (ROOT / "tools").glob("*.py") if "__main__" in path.read_text())
    assert {path.stem for path in files} == LOADS.keys()


@pytest.mark.parametrize("name", LOADS)
def test_ctrl_c_while_a_tool_is_imported_ends_it_without_a_traceback(name):
    flags, module = LOADS[name]
    for place in ("absl.flags", module):
        found = run("-c", INTERRUPTED, place, f"tools/{name}.py", *flags)
        assert found == (130, "", "stopped.\n"), place


@pytest.mark.parametrize("name", LOADS)
def test_a_tool_whose_reader_is_gone_ends_without_a_word(name):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as closed:
        found = run(f"tools/{name}.py", "--help", stdout=closed)
    assert found == (141, None, "")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--run_dri=x"], "there is no flag --run_dri (did you mean run_dir?)"),
        (["--qqqqqqqq"], "there is no flag --qqqqqqqq"),
        (["--flagfile=none.flags"], "flagfile none.flags: No such file or directory"),
        ([], "give --run_dir"),
    ],
)
def test_a_wrong_command_line_is_told_in_words(flags, sentence):
    assert run("tools/evaluate.py", *flags) == (1, "", f"error: {sentence}; see --help.\n")


def test_an_output_that_cannot_be_written_is_one_sentence():
    with open("/dev/full", "w") as full:
        code, _, stderr = run("tools/compare.py", "--help", stdout=full)
        assert code == 1
        assert stderr == "error: the output cannot be written: No space left on device.\n"
        assert run("tools/compare.py", stderr=full)[0] == 1


# Ends without what Python does at a normal end, such as to write what is still in its buffers.
TORN = """
import os, sys
sys.path.insert(0, "tools")
import command_line

def main():
    print("a line")
    os._exit(0)

command_line.run(main)
"""


def test_a_line_is_written_at_once():
    """A log file is read while the run goes on."""
    assert run("-c", TORN) == (0, "a line\n", "")


@pytest.mark.parametrize("closed", [1, 2])
def test_a_tool_runs_without_an_output(closed):
    code, *outputs = run(
        *("tools/compare.py", "--help"),
        preexec_fn=lambda: os.close(closed),
        stdin=subprocess.DEVNULL,
    )
    assert code == 0 and ("--format" in outputs[0]) == (closed == 2)


# A tool that listens to SIGHUP, as training and the server do, and prints for longer than its
# reader stays.
LISTENING = """
import signal, sys
sys.path.insert(0, "tools")
import command_line
told = []
signal.signal(signal.SIGHUP, lambda *_: told.append("left in order"))

def main():
    print("ready", flush=True)
    sys.stdin.readline()
    while not told:
        print("a line", flush=True)
    print("lost", flush=True)
    print(*told, file=sys.stderr)

command_line.run(main)
"""


def start(code: str, output) -> subprocess.Popen:
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdin=pipe, stdout=output, stderr=pipe)


def test_a_tool_that_saves_before_it_leaves_does_so_when_its_reader_is_gone():
    process = start(LISTENING, subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    process.stdout.close()
    process.stdin.write("go\n")
    process.stdin.flush()
    assert process.stderr.read() == "left in order\n"
    assert process.wait() == 0


def test_a_terminal_that_is_gone_ends_nobody_who_ignores_that():
    ours, theirs = pty.openpty()
    code = LISTENING.replace("while not told", "for _ in range(3)")
    process = start(code, theirs)
    os.close(theirs)
    assert os.read(ours, 99) == b"ready\r\n"
    os.close(ours)
    process.stdin.write("go\n")
    process.stdin.flush()
    assert process.stderr.read() == "\n"
    assert process.wait() == 0


def test_ctrl_c_in_the_work_says_what_the_same_command_does():
    code = LISTENING.replace("sys.stdin.readline()", "signal.raise_signal(signal.SIGINT)")
    assert run("-c", code)[::2] == (130, "stopped; the same command goes on from there.\n")


def test_an_error_that_names_a_file_is_one_sentence(tmp_path):
    code = LISTENING.replace("sys.stdin.readline()", f"open({str(tmp_path / ('x' * 300))!r})")
    status, _, stderr = run("-c", code)
    assert status == 1 and re.fullmatch(r"error: /.*/x{300} cannot be used: .* long\.\n", stderr)


EMPTY = [
    ("export", "export_dir"),
    ("embed", "output_dir"),
    ("detect", "image"),
    ("detect", "output"),
    ("search", "gallery"),
    ("make_tfrecords", "output_dir"),
    ("check_data", "data"),
    ("compare", "output"),
]


@pytest.mark.parametrize("name, flag", EMPTY)
def test_an_empty_path_is_not_taken_for_the_folder_that_one_is_in(name, flag):
    code, stdout, stderr = run(f"tools/{name}.py", *LOADS[name][0], f"--{flag}=")
    assert (code, stdout) == (1, "")
    assert stderr == f"error: --{flag} is empty: give it a value, or leave it out.\n"


FAILING = """
import sys
import command_line

def main():
    import tensorflow as tf
    raise eval(sys.argv[1])

command_line.run(main)
"""


@pytest.mark.parametrize(
    "error, sentence",
    [
        (
            "OSError(28, 'No space left on device')",
            "a file cannot be used: No space left on device.",
        ),
        (
            "tf.errors.ResourceExhaustedError(None, None, 'data/x; No space left on device')",
            "data/x; No space left on device.",
        ),
        (
            "tf.errors.InvalidArgumentError(None, None, 'Input is empty. [Op:DecodeImage]')",
            "Input is empty. If an image is damaged, tools/check_data.py names it.",
        ),
    ],
)
def test_failures_of_disks_and_of_tensorflow_are_sentences(
    program_server, tmp_path, monkeypatch, error, sentence
):
    shutil.copy(ROOT / "tools" / "command_line.py", tmp_path)
    (tmp_path / "tool.py").write_text(FAILING)
    process = program_server.start(tmp_path / "tool.py", error, cwd=ROOT)
    assert process.communicate() == ("", f"error: {sentence}\n") and process.returncode == 1


def test_signals_that_the_caller_ignores_are_left_alone(hangup_is_heard):
    everything = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    ignored = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    code = "from la_tf.stop_signals import stop_signals; print([int(s) for s in stop_signals()])"
    assert set(eval(run("-c", code)[1])) == everything
    assert set(eval(run("-c", ignored + code)[1])) == everything - {signal.SIGHUP}
