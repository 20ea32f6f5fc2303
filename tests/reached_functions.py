"""Runs a tool and prints which functions of the library it called.

  python tests/reached_functions.py module.function,module.Class.method TOOL FLAG ...

Every name by which a module of the library knows a function is replaced by one that notes the call.
"""

import functools
import importlib
import pathlib
import runpy
import sys

TOOLS = pathlib.Path(__file__).resolve().parent.parent / "tools"


def main() -> None:
    names, tool, *flags = sys.argv[1:]
    for module in ("trainer", "analysis.report", "evaluation.protocols"):
        importlib.import_module(f"la_tf.{module}")
    reached = set()
    for name in names.split(","):
        watch(name, reached)
    sys.path.insert(0, str(TOOLS))
    sys.argv = [tool, *flags]
    runpy.run_path(str(TOOLS / f"{tool}.py"), run_name="__main__")
    print("reached:", *reached)


def watch(name: str, reached: set[str]) -> None:
    """Replaces a function, wherever the library holds it, by one that adds `name` to a set."""
    module, *path = name.split(".")
    while f"la_tf.{module}" in sys.modules and f"la_tf.{module}.{path[0]}" in sys.modules:
        module = f"{module}.{path.pop(0)}"
    owner = functools.reduce(getattr, path[:-1], sys.modules[f"la_tf.{module}"])
    function = getattr(owner, path[-1])

    @functools.wraps(function)
    def noting(*args, **kwargs):
        reached.add(name)
        return function(*args, **kwargs)

    if isinstance(owner, type):
        setattr(owner, path[-1], noting)
        return
    for other in [m for n, m in sys.modules.items() if n.startswith("la_tf.")]:
        for attribute, value in list(vars(other).items()):
            if value is function:
                setattr(other, attribute, noting)


if __name__ == "__main__":
    main()
