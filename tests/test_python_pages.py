"""The Python of the pages and of the notebook runs, from top to bottom."""

import json
import pathlib
import re

import pytest

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def printed(script: pathlib.Path, code: str, program_server) -> str:
    """What the code prints where the digits are no more than 300."""
    fewer = code.replace('"digits", epochs=', '"digits", limit=300, epochs=')
    assert fewer != code
    script.write_text(fewer.replace("1437", "300"))
    process = program_server.start(script, cwd=script.parent)
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    return stdout


@pytest.mark.slow
def test_the_python_of_the_pages_runs(tmp_path, program_server):
    """In one folder, the training first: its export then stands for that of the digits."""
    moved = "import os\nos.rename('runs/python', 'runs/digits')"
    code = "\n".join([*blocks("python.md"), moved, *blocks("export.md")])
    stdout = printed(tmp_path / "pages.py", code, program_server)
    assert "end of LA" in stdout and "(300, 128)" in stdout and "(1, 128)" in stdout
    assert "Epoch 10/10" in stdout and (tmp_path / "embedding.keras").exists()


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, program_server):
    notebook = json.loads((DOCS / "tour.ipynb").read_text())
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    assert not any(c.get("outputs") for c in notebook["cells"])
    code = "\n".join(["import matplotlib\nmatplotlib.use('agg')", *cells])
    code = code.replace("epochs=16, ir_epochs=10", "epochs=2, ir_epochs=1")
    stdout = printed(tmp_path / "tour.py", code, program_server)
    assert "end of LA" in stdout and "(300, 128)" in stdout and "(1, 128)" in stdout


def test_an_own_backbone_takes_ten_lines():
    first = re.search(
        r"## A backbone of your own.*?```python\n(.*?)```", (DOCS / "python.md").read_text(), re.S
    )
    assert len(first[1].splitlines()) <= 10
