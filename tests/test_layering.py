"""Who may import whom, held by walking the syntax trees."""

import ast
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIBRARY = sorted((ROOT / "la_tf").rglob("*.py"))
DETECTION = sorted((ROOT / "detection").glob("*.py"))
ALL = [*LIBRARY, *DETECTION, *sorted((ROOT / "tools").glob("*.py"))]

# The method is pure: tensors alone, arrays alone, or nothing at all.
ONLY = {
    "la_tf/objective.py": {"tensorflow", "la_tf.blocks"},
    "la_tf/neighbors.py": {"tensorflow", "la_tf.blocks", "la_tf.selection"},
    "la_tf/selection.py": {"tensorflow"},
    "la_tf/blocks.py": {"tensorflow"},
    "la_tf/memory_bank.py": {"tensorflow"},
    "la_tf/clustering.py": {"numpy", "la_tf"},
    "la_tf/config.py": set(),
    "la_tf/resolve.py": {"la_tf.config"},
    "la_tf/errors.py": set(),
    "la_tf/processor.py": set(),
    "la_tf/quiet.py": set(),
    "la_tf/serving/batching.py": {"numpy"},
    "la_tf/serving/pictures.py": {"PIL"},
    "la_tf/serving/protocol.py": {"numpy"},
    "detection/voc.py": {"PIL"},
    "detection/metric.py": {"numpy", "detection"},
    "detection/drawing.py": {"numpy", "PIL", "detection"},
}
# Folder -> what of this project its modules may not import.
FORBIDDEN = {
    "la_tf": ("tools", "detection", "config_flags", "command_line"),
    "la_tf/analysis": ("la_tf.callbacks", "la_tf.model", "la_tf.building", "la_tf.trainer"),
    "la_tf/networks": (
        "la_tf.analysis",
        "la_tf.data",
        "la_tf.callbacks",
        "la_tf.model",
        "la_tf.building",
        "la_tf.trainer",
    ),
    "la_tf/data": (
        "la_tf.analysis",
        "la_tf.networks",
        "la_tf.callbacks",
        "la_tf.model",
        "la_tf.building",
        "la_tf.trainer",
    ),
    "la_tf/evaluation": (
        "la_tf.analysis",
        "la_tf.callbacks",
        "la_tf.model",
        "la_tf.building",
        "la_tf.trainer",
    ),
    "la_tf/search": ("la_tf.benchmark", "la_tf.callbacks", "la_tf.model", "la_tf.trainer"),
    "la_tf/serving": (
        "la_tf.analysis",
        "la_tf.benchmark",
        "la_tf.building",
        "la_tf.callbacks",
        "la_tf.model",
        "la_tf.trainer",
    ),
    "detection": (
        "la_tf.analysis",
        "la_tf.building",
        "la_tf.callbacks",
        "la_tf.evaluation",
        "la_tf.model",
        "la_tf.trainer",
        "tools",
        "config_flags",
        "command_line",
        # It needs the language packages, which this project does without.
        "tensorflow_models",
    ),
    "la_tf/callbacks": ("la_tf.analysis", "la_tf.building", "la_tf.trainer", "la_tf.networks"),
}


def name_of(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: pathlib.Path) -> set[str]:
    """Full names of everything that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("name", ONLY)
def test_the_method_imports_what_it_may_and_nothing_else(name):
    allowed = tuple(f"{module}." for module in (*ONLY[name], *sys.stdlib_module_names))
    assert [m for m in imports(ROOT / name) if not f"{m}.".startswith(allowed)] == []


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_data_flow_one_way(folder):
    for path in (*LIBRARY, *DETECTION):
        if name_of(path).startswith(folder + "/"):
            for module in imports(path):
                assert not (module + ".").startswith(tuple(f"{f}." for f in FORBIDDEN[folder])), (
                    f"{name_of(path)} imports {module}"
                )


@pytest.mark.parametrize("path", [*LIBRARY, *DETECTION], ids=name_of)
def test_the_library_never_reads_flags(path):
    assert not any(module.startswith("absl") for module in imports(path))


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_no_file_is_longer_than_a_reader_can_hold(path):
    limit = 250 if path.name == "model.py" else 350
    assert len(path.read_text().splitlines()) <= limit
