"""Command-line flags made from the configuration's dataclasses: one flag an option."""

import dataclasses
import textwrap
import types
import typing
from typing import Any

from absl import flags

from la_tf.config import Config, ConfigError

FLAGS = flags.FLAGS


def define_config_flags() -> None:
    """Defines a flag for every option of `Config`, with its default and help text."""
    for section in dataclasses.fields(Config):
        for option in dataclasses.fields(section.type):
            _define(option)


def _define(option: dataclasses.Field) -> None:
    help_text = option.metadata["help"]
    if option.metadata["section"]:
        help_text += f" ({option.metadata['section']})"
    name, default, kind = option.name, option.default, _plain_type(option.type)
    if option.metadata["choices"]:
        flags.DEFINE_enum(name, default, list(option.metadata["choices"]), help_text)
    elif kind is bool:
        flags.DEFINE_bool(name, default, help_text)
    elif kind is int:
        flags.DEFINE_integer(name, default, help_text)
    elif kind is float:
        flags.DEFINE_float(name, default, help_text)
    elif kind is str:
        flags.DEFINE_string(name, default, help_text)
    else:
        flags.DEFINE_list(name, [str(item) for item in default], help_text)


def _plain_type(annotation: Any) -> type:
    """Int of `int | None`, tuple of `tuple[int, ...]`."""
    if isinstance(annotation, types.UnionType):
        (annotation,) = [a for a in typing.get_args(annotation) if a is not type(None)]
    return typing.get_origin(annotation) or annotation


def config_from_flags() -> Config:
    """Reads the parsed flags into a configuration.

    Raises:
      ConfigError: a list of epochs that are not whole numbers.
    """
    sections = {}
    for section in dataclasses.fields(Config):
        values = {}
        for option in dataclasses.fields(section.type):
            value = getattr(FLAGS, option.name)
            if _plain_type(option.type) is tuple:
                try:
                    value = tuple(int(item) for item in value)
                except ValueError:
                    raise ConfigError(
                        f"--{option.name}={','.join(value)} must be whole numbers, as in 119,142."
                    ) from None
            values[option.name] = value
        sections[section.name] = section.type(**values)
    return Config(**sections)


def readable_help() -> str:
    """Every option by section."""
    lines = []
    for section in dataclasses.fields(Config):
        lines.append(f"\n{section.name}: {section.type.__doc__.splitlines()[0]}")
        for option in dataclasses.fields(section.type):
            flag = FLAGS[option.name]
            name = f"--[no]{option.name}" if flag.boolean else f"--{option.name}"
            default = "" if flag.default in (None, []) else f" [{_typed(flag)}]"
            choices = option.metadata["choices"]
            listed = f" One of {', '.join(choices)}." if choices else ""
            lines.append(f"  {name}{default}")
            lines.append(textwrap.indent(textwrap.fill(flag.help + listed, 90), "      "))
    lines.append("\n  --flagfile=FILE\n      Reads flags from a file, such as those in configs/.")
    return "\n".join(lines)


def _typed(flag: flags.Flag) -> str:
    """A flag's default as one would type it."""
    return flag.default_as_str.strip("'")
