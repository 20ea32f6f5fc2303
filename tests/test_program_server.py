"""Programs that are forked behave as those that are started."""

import json
import pathlib
import signal
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parent.parent
TOOLS = sorted(
    path.stem for path in (ROOT / "tools").glob("*.py") if "__main__" in path.read_text()
)

PROGRAM = """
import json, os, signal, sys, time
print(json.dumps([sys.argv, os.getcwd(), sys.path[0], os.getpid(), __name__, __file__]))
print(os.environ["LA_TF_TEST"], file=sys.stderr)
how = sys.argv[1]
if how == "wait":
    sys.stdout.flush()
    signal.pause()
sys.exit(int(how) if how.isdigit() else how)
"""


@pytest.fixture
def program(tmp_path, monkeypatch, program_server):
    monkeypatch.setenv("LA_TF_TEST", "a \N{SNOWMAN}")
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    return lambda how: program_server.start(file, how, cwd=tmp_path)


@pytest.mark.parametrize("tool", TOOLS)
def test_help_is_the_same(run_tool, tool):
    started = run_tool(tool, "--help", fresh=True)
    assert started[0] == 0 and started[1] and started[2] == ""
    assert run_tool(tool, "--help") == started


def test_arguments_environment_and_streams_are_the_programs_own(program, tmp_path):
    process = program("3")
    stdout, stderr = process.communicate()
    assert (process.returncode, stderr) == (3, "a \N{SNOWMAN}\n")
    file = str(tmp_path / "program.py")
    assert json.loads(stdout) == [
        [file, "3"],
        str(tmp_path),
        str(tmp_path),
        process.pid,
        "__main__",
        file,
    ]


def test_a_last_sentence_is_on_stderr(program):
    process = program("no more")
    assert process.communicate()[1].endswith("no more\n") and process.poll() == 1


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_program_and_only_it(program, signum):
    process, other = program("wait"), program("wait")
    assert process.stdout.readline() and other.stdout.readline()
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0)
    process.send_signal(signum)
    _, stderr = process.communicate()
    assert process.returncode == process.wait() == -signum
    assert ("KeyboardInterrupt" in stderr) == (signum == signal.SIGINT)
    assert other.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        other.communicate(timeout=0)
    assert other.wait() == -signal.SIGKILL
