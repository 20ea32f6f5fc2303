"""What all tools share: parsing, --help, and one sentence for an error."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

from absl import flags

from la_tf.config import ConfigError
from la_tf.errors import UserError, first_line

HELP_FLAGS = {"--help", "-h", "-help", "--helpfull", "--helpshort"}


def parse(
    argv: list[str],
    about: str,
    options: Callable[[], str] = flags.FLAGS.main_module_help,
    positional: bool = False,
) -> list[str]:
    """Parses a command line, with the program's name first; answers --help, refuses the unknown.

    From then on, characters that the terminal's encoding lacks are printed as escapes.

    Args:
      argv: the command line.
      about: what the program does, for --help.
      options: describes the flags, for --help.
      positional: whether there may be arguments beside the flags.

    Returns:
      Those arguments.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    if HELP_FLAGS & set(argv[1:]):
        print(f"{about.strip()}\n{options()}")
        sys.exit(0)
    try:
        rest = flags.FLAGS(argv)[1:]
    except (flags.Error, OSError) as error:
        fail(f"{first_line(error)}; see --help.")
    if rest and not positional:
        fail(f"'{rest[0]}' is not a flag: options begin with --, see --help.")
    return rest


def fail(sentence: str) -> NoReturn:
    """Ends the program with one sentence and exit code 1; several lines are several sentences."""
    for line in sentence.splitlines():
        print(f"error: {line}", file=sys.stderr)
    sys.exit(1)


@contextlib.contextmanager
def failures_explained(
    *others: type[Exception], again: str = "goes on from there"
) -> Iterator[None]:
    """Ends the program with one sentence on an error that a person can put right, or on Ctrl-C.

    Args:
      *others: exceptions with such messages beside `ConfigError` and `UserError`.
      again: what the same command does after Ctrl-C.
    """
    try:
        yield
    except (ConfigError, UserError, *others) as error:
        fail(str(error))
    except KeyboardInterrupt:
        print(f"stopped; the same command {again}.", file=sys.stderr)
        sys.exit(130)  # as a shell expects it
