"""The Python of docs/python.md runs, from top to bottom."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.slow


def test_the_python_of_the_page_runs(tmp_path, program_server):
    page = (ROOT / "docs" / "python.md").read_text()
    script = tmp_path / "page.py"
    script.write_text("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)))
    process = program_server.start(script, cwd=tmp_path)
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert "end of LA" in stdout and "(1437, 128)" in stdout
    assert "Epoch 10/10" in stdout and (tmp_path / "embedding.keras").exists()


def test_an_own_backbone_takes_ten_lines():
    page = (ROOT / "docs" / "python.md").read_text().split("## A backbone of your own")[1]
    first = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    assert len(first.splitlines()) <= 10
