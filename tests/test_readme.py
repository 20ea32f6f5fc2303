"""The pages say what is there: commands, flags, files, links and Python."""

import dataclasses
import pathlib
import re

import pytest

from la_tf.config import Config

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = sorted(
    str(page.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "detection/*.md")
    for page in ROOT.glob(pattern)
)
OPTIONS = {f.name for s in dataclasses.fields(Config) for f in dataclasses.fields(s.type)}
# Flags of programs that are not ours.
FOREIGN = {"help", "flagfile", "logdir"}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def commands(page: str) -> list[str]:
    joined = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip()]


def flags_of(tool: str) -> set[str]:
    """What a tool defines: every option of Config if it takes recipes, and its own."""
    text = (ROOT / "tools" / f"{tool}.py").read_text()
    own = set(re.findall(r"DEFINE_\w+\(\s*\"(\w+)\"", text))
    return own | (OPTIONS if "define_config_flags" in text else set()) | FOREIGN


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_make_target_exists(page):
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = re.findall(r"\bmake (\w+)", "\n".join(commands(page)))
    assert used and set(used) <= targets


def test_every_command_names_a_tool_and_flags_that_exist():
    shown = set()
    for command in (command for page in PAGES for command in commands(page)):
        for tool in re.findall(r"tools/(\w+)\.py", command):
            assert (ROOT / "tools" / f"{tool}.py").exists(), command
            assert set(re.findall(r"--(\w+)", command)) <= flags_of(tool), command
            shown.add(tool)
    tools = (ROOT / "tools").glob("*.py")
    assert shown == {tool.stem for tool in tools if "__main__" in tool.read_text()}


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_in_the_text_exists(page):
    known = OPTIONS | FOREIGN
    for tool in (ROOT / "tools").glob("*.py"):
        known |= flags_of(tool.stem)
    used = set(re.findall(r"(?<![\w-])--(\w+)", (ROOT / page).read_text()))
    assert used <= known | {f"no{option}" for option in OPTIONS}


@pytest.mark.parametrize("page", PAGES)
def test_every_file_in_the_text_exists(page):
    text = (ROOT / page).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in link]
    links += re.findall(r'src="([^"]+)"', text)
    paths = re.findall(r"`((?:la_tf|tests|configs|tools)/[\w./]*)`", text)
    flagfiles = re.findall(r"configs/\w+\.flags", text)
    folder = (ROOT / page).parent
    for file in (*(folder / link for link in links), *(ROOT / name for name in paths + flagfiles)):
        assert file.exists(), file


def test_every_page_can_be_reached_from_the_readme():
    reached, ahead = set(), {ROOT / "README.md"}
    while ahead:
        page = ahead.pop()
        reached.add(page)
        linked = re.findall(r"\]\(([^)#:]+\.md)", page.read_text())
        ahead |= {(page.parent / link).resolve() for link in linked} - reached
    assert {ROOT / page for page in PAGES} == reached


def test_every_recipe_is_on_a_page():
    text = "".join(
        (ROOT / page).read_text() for page in ("docs/hardware.md", "detection/README.md")
    )
    for recipe in (ROOT / "configs").glob("*.flags"):
        assert f"configs/{recipe.name}" in text


def equation_functions() -> list[str]:
    """'module.function' of every row of the equation table."""
    text = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\|[^|]+\| \[`([\w.]+)`\]\((la_tf/[\w/]+\.py)\)", text, re.M)
    for name, file in rows:
        assert ("la_tf." + name).startswith(file.removesuffix(".py").replace("/", ".") + "."), name
    return [name for name, _ in rows]


@pytest.mark.slow
def test_training_and_evaluation_call_every_function_in_the_equation_table(
    tmp_path, tiny_run, program_server
):
    """What the table names is what runs, not a copy of it."""
    functions, run_dir, reached = equation_functions(), f"--run_dir={tmp_path}/run", set()
    assert len(functions) >= 15
    many = ("--limit=0", "--batch_size=128")  # images enough for lists of neighbours
    for tool, *flags in (
        ("train", *tiny_run, *many, "--epochs=2", "--ir_epochs=1", "--write_report", run_dir),
        ("evaluate", "--protocol=linear", "--epochs=1", run_dir),
    ):
        watcher = ROOT / "tests" / "reached_functions.py"
        process = program_server.start(watcher, ",".join(functions), tool, *flags, cwd=ROOT)
        stdout, stderr = process.communicate()
        assert process.returncode == 0, stderr
        reached |= set(stdout.split("reached:")[1].split())
    assert reached == set(functions)


def test_the_tree_names_every_file_of_the_library_and_every_folder():
    (tree,) = re.findall(r"```\n(.*?)```", (ROOT / "docs/code.md").read_text(), re.S)
    # An entry is a line at the left, or two from the left, with the further ones below it.
    entries = re.findall(r"^(?:  )?\w.*\n(?: {3,}.*\n)*", tree, re.M)
    folders = {e.split("/")[0].strip(): e for e in entries if re.match(r" *\w+/", e)}
    for folder, entry in folders.items():
        place = ROOT / "la_tf" / folder if entry.startswith("  ") else ROOT / folder
        assert place.is_dir(), folder
        if entry.startswith("  ") or folder == "detection":
            missing = {f.stem for f in place.glob("[!_]*.py")} - set(re.findall(r"\w+", entry))
            assert not missing, folder
    files = {n for e in entries if re.match(r"  \w+\.py", e) for n in re.findall(r"\w+\.py", e)}
    assert files == {f.name for f in (ROOT / "la_tf").glob("[!_]*.py")}
    assert {f.parent.name for f in (ROOT / "la_tf").glob("*/__init__.py")} < folders.keys()
