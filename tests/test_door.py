"""What `import la_tf` offers, and how quietly."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

import la_tf

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROJECT = ROOT / "pyproject.toml"
OFFERED = {
    *("ClusteringCallback", "Config", "Embedder", "LocalAggregation", "extended", "knn_accuracy"),
    *("network_from_weights", "networks", "open_run", "recipe", "train"),
}


def fresh(code: str, *arguments: str, **options) -> str:
    process = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, **options
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    return process.stdout


def test_importing_it_imports_nothing_else_and_says_nothing():
    code = (
        "import json, sys\nbefore = set(sys.modules)\nimport la_tf\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "la_tf.recipe('digits'); la_tf.Config()\n"
        "print(json.dumps([sorted(new), 'tensorflow' in sys.modules, 'numpy' in sys.modules]))"
    )
    new, tensorflow, numpy = json.loads(fresh(code, cwd=ROOT))
    assert set(new) - set(sys.stdlib_module_names) == {"la_tf"}
    assert not tensorflow and not numpy


def test_it_offers_what_it_lists():
    assert set(la_tf.__all__) == OFFERED and set(dir(la_tf)) >= OFFERED
    for name in OFFERED:
        assert name in la_tf.__doc__
        assert getattr(la_tf, name).__doc__
    assert la_tf.train.__module__ == "la_tf.trainer"
    assert la_tf.networks.build_network
    with pytest.raises(AttributeError, match="'la_tf' has no attribute 'trains'"):
        _ = la_tf.trains


def test_the_library_needs_what_the_requirements_pin():
    pinned = (ROOT / "requirements.txt").read_text().split("# To work on the project.")[0]
    (listed,) = re.findall(r"^dependencies = \[\n(.*?)^\]", PROJECT.read_text(), re.M | re.S)
    needed = re.findall(r'^  "([\w-]+)', listed, re.MULTILINE)
    assert set(needed) == set(re.findall(r"^([\w-]+)==", pinned, re.MULTILINE))


@pytest.mark.slow
def test_an_installed_library_brings_its_recipes(tmp_path):
    """A wheel is built of a copy, unpacked as pip unpacks it, and asked from elsewhere."""
    source = tmp_path / "source"
    for folder in ("la_tf", "detection", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, source / folder, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    # --ignore-installed, or pip would first remove the la_tf of the environment the tests run in.
    pip = [sys.executable, "-m", "pip", "install", "--ignore-installed", "--no-deps", "--no-index"]
    place = ["--no-build-isolation", f"--prefix={tmp_path}/installed"]
    subprocess.run([*pip, *place, "--quiet", source], check=True)
    (packages,) = (tmp_path / "installed").glob("lib/python*/site-packages")
    code = "import la_tf; print(la_tf.__file__, la_tf.recipe('cifar10').schedule.epochs)"
    environment = os.environ | {"PYTHONPATH": str(packages)}
    file, epochs = fresh(code, cwd=tmp_path, env=environment).split()
    assert file == str(packages / "la_tf" / "__init__.py") and epochs == "78"
