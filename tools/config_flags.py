"""Command-line flags made from the configuration's dataclasses: one flag an option."""

import dataclasses
import textwrap
from typing import Any

from absl import flags

from la_tf.config import Config
from la_tf.options import kind_of, option_value, sections_and_options
from la_tf.recipes import config_of
from la_tf.runs.description import extended

FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # a tool's --help shows what is defined for it here


def define_config_flags() -> None:
    """Defines a flag for every option of `Config`, with its default and help text."""
    for name, (_, option) in sections_and_options().items():
        cited = option.metadata["section"]
        help_text = option.metadata["help"] + (f" ({cited})" if cited else "")
        define_option(name, option.default, help_text)


def define_option(name: str, default: Any, help_text: str | None = None) -> flags.FlagHolder:
    """Defines a flag that takes what the option of `Config` of that name takes.

    Args:
      name: of the option and the flag.
      default: of the flag.
      help_text: what to say of it; default what the option says.
    """
    option = sections_and_options()[name][1]
    named = (None, name, default, help_text or option.metadata["help"])
    kind = kind_of(option)
    return flags.DEFINE_flag(flags.Flag(_OptionParser(option), *named, boolean=kind is bool))


class _OptionParser(flags.ArgumentParser):
    """Takes what `option_value` takes."""

    def __init__(self, option: dataclasses.Field):
        self.option = option

    def parse(self, argument: Any) -> Any:
        return option_value(self.option, argument)


def config_from_flags() -> Config:
    """The configuration that the parsed flags give.

    Raises:
      ConfigError, RunError: there is no such configuration.
    """
    given = {name: FLAGS[name].value for name in sections_and_options() if FLAGS[name].present}
    if "extend" in given:
        return extended(given["extend"], **given)
    return config_of(given)


def readable_help() -> str:
    """Every option by section."""
    lines = []
    for section in dataclasses.fields(Config):
        lines.append(f"\n{section.name}: {section.type.__doc__.splitlines()[0]}")
        for option in dataclasses.fields(section.type):
            flag = FLAGS[option.name]
            name = f"--[no]{option.name}" if flag.boolean else f"--{option.name}"
            default = "" if flag.default in (None, ()) else f" [{_typed(flag)}]"
            choices = option.metadata["choices"]
            listed = f" One of {', '.join(choices)}." if choices else ""
            lines.append(f"  {name}{default}")
            lines.append(textwrap.indent(textwrap.fill(flag.help + listed, 90), "      "))
    lines.append("\n  --flagfile=FILE\n      Reads flags from a file, such as those in configs/.")
    return "\n".join(lines)


def _typed(flag: flags.Flag) -> str:
    """A flag's default as one would type it."""
    return flag.default_as_str.strip("'")
