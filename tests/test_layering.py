"""Who may import whom: the floors of the house, held by walking the syntax trees."""

import ast
import functools
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

# From the ground up. A name that ends in / is a room, a folder with all its files; any other is one
# file. A file imports from lower floors and from its own room, and from nowhere else: of a floor's
# rooms and files none knows another.
FLOORS = (
    (
        *("la_tf/config.py", "la_tf/errors.py", "la_tf/files.py", "la_tf/quiet.py"),
        *("la_tf/phases.py", "la_tf/faiss_library.py", "la_tf/blocks.py", "la_tf/vectors.py"),
        *("la_tf/stop_signals.py", "la_tf/architectures.py"),
    ),
    (
        *("la_tf/options.py", "la_tf/stored_config.py", "la_tf/memory.py", "la_tf/stored.py"),
        "la_tf/selection.py",
    ),
    # Images and networks; the method, file by file in the order of the paper.
    (
        *("la_tf/data/", "la_tf/networks/", "la_tf/resolve.py", "la_tf/recipes.py"),
        *("la_tf/objective.py", "la_tf/neighbors.py", "la_tf/masks.py"),
        *("la_tf/memory_bank.py", "la_tf/clustering.py", "la_tf/schedules.py"),
    ),
    ("la_tf/banked_model.py", "la_tf/neighborhoods.py"),
    ("la_tf/model.py", "la_tf/baselines/"),
    ("la_tf/building.py",),
    ("la_tf/runs/",),
    ("la_tf/embedding/", "la_tf/results/"),
    ("la_tf/evaluation/", "la_tf/export/", "la_tf/serving/"),
    (
        *("la_tf/analysis/", "la_tf/callbacks/", "la_tf/classifier/", "la_tf/beginning.py"),
        "detection/",
    ),
    ("la_tf/search/", "la_tf/trainer.py", "la_tf/reproduction/"),
    ("la_tf/benchmark/", "la_tf/__init__.py"),
    ("tools/",),
)

# What is held more closely: a file or room -> all that it may import beside Python's own and, in a
# room, itself. The method is pure: tensors alone, arrays alone, or nothing at all.
ONLY = {
    "la_tf/config.py": set(),
    "la_tf/errors.py": set(),
    "la_tf/quiet.py": set(),
    "la_tf/stop_signals.py": set(),
    "la_tf/architectures.py": set(),
    "la_tf/options.py": {"la_tf.architectures", "la_tf.config"},
    "la_tf/stored_config.py": {"la_tf.config"},
    "la_tf/recipes.py": {"la_tf.config", "la_tf.options"},
    "la_tf/resolve.py": {"la_tf.config", "la_tf.options"},
    "la_tf/files.py": {"la_tf.errors"},
    "la_tf/objective.py": {"tensorflow", "la_tf.blocks"},
    "la_tf/neighbors.py": {"tensorflow", *("la_tf.blocks", "la_tf.selection", "la_tf.vectors")},
    "la_tf/neighborhoods.py": {"tensorflow", "la_tf.config", "la_tf.neighbors"},
    "la_tf/masks.py": {"tensorflow", "la_tf.blocks", "la_tf.vectors"},
    "la_tf/selection.py": {"tensorflow", "la_tf.blocks", "la_tf.vectors"},
    "la_tf/vectors.py": {"tensorflow"},
    "la_tf/blocks.py": {"tensorflow"},
    "la_tf/memory_bank.py": {"tensorflow"},
    "la_tf/clustering.py": {"numpy", "sklearn", "la_tf.errors", "la_tf.faiss_library"},
    "la_tf/faiss_library.py": {"numpy", "faiss"},
    "la_tf/data/image_headers.py": set(),
    "la_tf/data/voc.py": {"PIL", "la_tf.errors", "la_tf.files"},
    "la_tf/evaluation/average_precision.py": {"numpy"},
    "la_tf/evaluation/svm.py": {
        *("numpy", "sklearn", "la_tf.data.base", "la_tf.evaluation.average_precision")
    },
    # What `tools/compare.py` reads without TensorFlow.
    "la_tf/stored.py": {"numpy", "la_tf.files"},
    "la_tf/runs/log.py": {"la_tf.errors", "la_tf.stored"},
    "la_tf/runs/checkpoints.py": {"la_tf.errors", "la_tf.files"},
    "la_tf/runs/directory.py": {
        *("la_tf.config", "la_tf.errors", "la_tf.files", "la_tf.stored_config"),
        *("la_tf.runs.checkpoints", "la_tf.runs.description", "la_tf.runs.log", "la_tf.stored"),
    },
    "la_tf/runs/description.py": {
        *("la_tf.config", "la_tf.errors", "la_tf.options", "la_tf.recipes", "la_tf.stored"),
        "la_tf.stored_config",
    },
    "la_tf/serving/batching.py": {"numpy"},
    "la_tf/serving/protocol.py": {"numpy"},
    # Nothing but networks, images, runs and the form of an export: none of the method.
    "detection/": {
        *("detection", "la_tf.config", "la_tf.data", "la_tf.errors", "la_tf.export"),
        "la_tf.evaluation.average_precision",
        *("la_tf.files", "la_tf.networks", "la_tf.runs", "la_tf.stored"),
        *("numpy", "official", "PIL", "tensorflow"),
    },
    "detection/metric.py": {"numpy", "la_tf.data.voc", "la_tf.evaluation.average_precision"},
    "detection/drawing.py": {"numpy", "PIL", "la_tf.data.voc"},
}


def name_of(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


FILES = {
    name_of(path): path
    for folder in ("la_tf", "detection", "tools")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
LIBRARY = [name for name in FILES if not name.startswith("tools/")]


def holds(place: str, name: str) -> bool:
    return name.startswith(place) if place.endswith("/") else name == place


def places_of(name: str) -> list[tuple[int, str]]:
    """(floor, room or file) of a file, as often as it stands in FLOORS."""
    return [(n, p) for n, floor in enumerate(FLOORS) for p in floor if holds(p, name)]


@functools.cache
def imports(name: str) -> frozenset[str]:
    """Full names of everything that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def file_of(module: str) -> str | None:
    """The file of this project that an import reaches, if any."""
    # Tools import each other by their bare names, since they are started from their folder.
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        path = "/".join(parts[:end])
        for name in (f"{path}.py", f"{path}/__init__.py", f"tools/{path}.py"):
            if name in FILES:
                return name
    return None


@functools.cache
def reached(name: str) -> frozenset[str]:
    """The files of this project that a file imports."""
    return frozenset(f for module in imports(name) if (f := file_of(module))) - {name}


@pytest.mark.parametrize("name", FILES)
def test_a_file_imports_from_lower_floors_and_its_own_room_alone(name):
    ((floor, place),) = places_of(name)  # each file stands on one floor
    for other in reached(name):
        ((floor_of_other, place_of_other),) = places_of(other)
        assert floor_of_other < floor or place_of_other == place, f"{name} imports {other}"


def test_every_place_on_a_floor_is_there():
    for floor in FLOORS:
        for place in floor:
            assert any(holds(place, name) for name in FILES), place


def test_files_do_not_import_each_other_in_a_circle():
    left = {name: set(reached(name)) for name in FILES}
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"these, or those between them, import in a circle: {sorted(left)}"


@pytest.mark.parametrize("place", ONLY)
def test_what_is_held_closely_imports_what_it_may_and_nothing_else(place):
    allowed = tuple(f"{module}." for module in (*ONLY[place], *sys.stdlib_module_names))
    names = [name for name in FILES if holds(place, name)]
    assert names
    for name in names:
        assert [m for m in imports(name) if not f"{m}.".startswith(allowed)] == [], name


@pytest.mark.parametrize("name", LIBRARY)
def test_the_library_never_reads_flags(name):
    assert not any(module.startswith("absl") for module in imports(name))


@pytest.mark.parametrize("name", FILES)
def test_nothing_needs_the_language_packages_of_model_garden(name):
    assert not any(module.startswith("tensorflow_models") for module in imports(name))


@pytest.mark.parametrize("name", FILES)
def test_no_file_is_longer_than_a_reader_can_hold(name):
    # The method is to be read in one go, and the options are a list to look things up in.
    limit = {"la_tf/model.py": 250, "la_tf/config.py": 450}.get(name, 350)
    assert len(FILES[name].read_text().splitlines()) <= limit
