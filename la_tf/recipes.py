"""Recipes: the flagfiles in configs/, read from Python as tools/train.py reads them."""

import dataclasses
import difflib
import os
import pathlib
import re
from collections.abc import Iterable
from importlib import metadata
from typing import Any

from la_tf.config import Config, ConfigError
from la_tf.options import kind_of, option_value, sections_and_options

_FLAG = re.compile(r"--?(\w+)(?:=(.*))?")


def recipe(name: str | os.PathLike, **options: Any) -> Config:
    """The configuration that a flagfile describes, with some options changed.

        la_tf.recipe("cifar10", data="DIR", run_dir="runs/mine", epochs=60)

    Args:
      name: of a recipe in configs/, such as "cifar10", or the path of a flagfile.
      **options: any option of `Config` by its own name, without its section, as text in the form of
        its flag or as a Python value; they have the last word.

    Raises:
      ConfigError: there is no such recipe or option, or a value is of the wrong kind or out of
        range.
    """
    path = _find(name)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a recipe: {error}.") from None
    given: dict[str, Any] = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if line and not line.startswith(("#", "//")):
            try:
                given.update([_flag(line)])
            except ConfigError as error:
                raise ConfigError(f"{path}, line {number}: {error}") from None
    return config_of(given | options)


def config_of(given: dict[str, Any]) -> Config:
    """The default configuration with some options changed.

    Args:
      given: option -> text in the form of its flag, or a Python value.

    Raises:
      ConfigError: there is no such option, or a value is of the wrong kind or out of range.
    """
    known = sections_and_options()
    sections: dict[str, dict[str, Any]] = {}
    for name, value in given.items():
        if name not in known:
            raise ConfigError(_unknown(name, known))
        section, option = known[name]
        try:
            sections.setdefault(section, {})[name] = option_value(option, value)
        except ValueError as error:
            raise ConfigError(f"--{name}={value} {error}.") from None
    config = Config()
    changed = {
        name: dataclasses.replace(getattr(config, name), **v) for name, v in sections.items()
    }
    return dataclasses.replace(config, **changed)


def _flag(line: str) -> tuple[str, str]:
    """(option, text) of a line `--name=value`, `--name` or `--noname`."""
    known = sections_and_options()
    match = _FLAG.fullmatch(line)
    if match is None:
        raise ConfigError(f"'{line}' is not of the form --name=value.")
    name, value = match.groups()
    if value is not None:
        switch = None
    elif name in known:
        switch, value = name, "true"
    else:
        switch, value = name.removeprefix("no"), "false"
    if switch in known and kind_of(known[switch][1]) is not bool:
        raise ConfigError(f"--{switch} needs a value, as in --{switch}=...")
    if (name := switch if switch in known else name) not in known:
        raise ConfigError(_unknown(name, known))
    return name, value


def _find(name: str | os.PathLike) -> pathlib.Path:
    path = pathlib.Path(name).expanduser()
    if path.suffix or len(path.parts) != 1:
        return path
    recipes = _recipes()
    if path.name in recipes:
        return recipes[path.name]
    if not recipes:
        raise ConfigError(f"no recipes are installed: give the path of {name}.flags.")
    raise ConfigError(
        f"there is no recipe '{name}': choose one of {', '.join(recipes)}, or give a path."
    )


def _recipes() -> dict[str, pathlib.Path]:
    """The recipes of this checkout or, when the library is installed, those that came with it."""
    found = sorted((pathlib.Path(__file__).parent.parent / "configs").glob("*.flags"))
    if not found:
        try:
            files = metadata.files("la_tf") or []
        except metadata.PackageNotFoundError:
            files = []
        found = [pathlib.Path(file.locate()) for file in files if file.suffix == ".flags"]
    # Those of tools/finetune_voc.py have options of their own.
    return {path.stem: path for path in found if not path.stem.startswith("voc07_")}


def _unknown(name: str, known: Iterable[str]) -> str:
    near = " or ".join(difflib.get_close_matches(name, known))
    return f"there is no option '{name}'" + (f": did you mean {near}?" if near else ".")
