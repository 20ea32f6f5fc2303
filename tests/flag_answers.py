"""Prints what the command line of every tool says to strange values of its numeric flags.

A program of its own, since flags are global to a process:
{tool: {flag: {value: sentence, or null where it is taken}}}, as JSON.
"""

import importlib
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOLS = sorted({p.stem for p in (ROOT / "tools").glob("*.py")} - {"command_line", "config_flags"})


def answers(values: list[str]) -> dict[str, dict[str, dict[str, str | None]]]:
    from absl import flags

    sys.path.insert(0, str(ROOT / "tools"))
    config_flags = importlib.import_module("config_flags")
    there = set(flags.FLAGS)
    found = {}
    for tool in TOOLS:
        importlib.import_module(tool)
        if tool == "train":
            config_flags.define_config_flags()
        own = [flags.FLAGS[name] for name in sorted(set(flags.FLAGS) - there)]
        texts = [f for f in own if type(f.parser) is flags.ArgumentParser and f.default is None]
        given = [tool, *(f"--{flag.name}=x" for flag in texts)]  # some of them are required
        found[tool] = {
            flag.name: {value: _answer(given, f"--{flag.name}={value}") for value in values}
            for flag in own
            if _is_numeric(flag)
        }
        for flag in own:
            delattr(flags.FLAGS, flag.name)
    return found


def _is_numeric(flag) -> bool:
    from absl import flags

    if option := getattr(flag.parser, "option", None):
        return bool(option.metadata["within"])
    return isinstance(flag.parser, flags.IntegerParser | flags.FloatParser)


def _answer(given: list[str], flag: str) -> str | None:
    from absl import flags

    flags.FLAGS.unparse_flags()
    try:
        flags.FLAGS([*given, flag])
    except flags.Error as error:
        return str(error)
    return None


if __name__ == "__main__":
    print(json.dumps(answers(sys.argv[1:])))
