"""No number that a person may type at any tool ends in a traceback, a hang or a full memory."""

import json
import pathlib

import flag_answers
import pytest

HERE = pathlib.Path(__file__).resolve().parent
HUGE = "1" + 30 * "0"
STRANGE = ("-1", "0", "1e30", HUGE, "nan", "inf", "-inf", "text", "")


@pytest.fixture(scope="module")
def answers(program_server) -> dict[str, dict[str, dict[str, str | None]]]:
    program = program_server.start(HERE / "flag_answers.py", *STRANGE, cwd=HERE.parent)
    stdout, stderr = program.communicate(timeout=120)
    assert program.returncode == 0, stderr
    return json.loads(stdout)


def test_every_tool_is_asked(answers):
    assert list(answers) == flag_answers.TOOLS
    asked = {tool: len(flags) for tool, flags in answers.items()}
    assert asked["train"] > 30 and asked["finetune_voc"] >= 14 and asked["serve"] >= 6
    assert {tool for tool, count in asked.items() if not count} == {
        "compare",
        "export",
        "reproduce",
    }


@pytest.mark.parametrize("tool", flag_answers.TOOLS)
def test_numbers_are_bounded_on_both_sides(answers, tool):
    for flag, said in answers[tool].items():
        taken = {value for value, sentence in said.items() if sentence is None}
        allowed = {"0"}
        if flag == "task_index":
            allowed.add("-1")  # unknown
        if flag == "min_similarity":
            allowed.add("-1")  # all pairs
        if flag == "learning_rate":
            allowed = {"1e30", HUGE}  # training that diverges says so
        if flag == "drop_epochs":
            allowed = {""}  # none
        assert taken <= allowed, flag
        for value in set(said) - taken:
            assert flag in said[value] and "\n" not in said[value].strip(), (flag, value)


@pytest.mark.parametrize("given", ["0", "1e3", HUGE, "text"])
def test_lists_of_numbers_are_bounded_too(run_tool, tmp_path, given):
    for flag in (f"--sizes=128,{given}", f"--networks=alexnet:{given}"):
        code, _, stderr = run_tool("benchmark", flag, "--part=train", cwd=tmp_path)
        assert code == 1 and stderr.startswith(f"error: {flag.split('=')[0]} takes ")
        assert stderr.count("\n") == 1
    code, _, stderr = run_tool("reproduce", "--data=x", f"--seeds=0,{given}", cwd=tmp_path)
    assert (code == 1 and stderr.startswith("error: --seeds=0,")) or given == "0"
    assert stderr.count("\n") == 1
