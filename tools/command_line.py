"""What all tools share: parsing, --help, one sentence for an error, and a quiet end when stopped.

A tool imports this first and ends with `command_line.run(main)`: Ctrl-C is answered from then on.
"""

import contextlib
import errno
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

_CTRL_C_CODE, _CLOSED_PIPE_CODE = 128 + signal.SIGINT, 128 + signal.SIGPIPE  # as shells have them


def _leave(signum, frame) -> NoReturn:
    """Answers Ctrl-C while nothing has been done that would have to be ended in order."""
    with contextlib.suppress(OSError):
        os.write(2, b"stopped.\n")
    os._exit(_CTRL_C_CODE)


def _interrupt(signum, frame) -> NoReturn:
    """Answers Ctrl-C by a KeyboardInterrupt, but for where a library could turn it into another."""
    below = frame
    while below is not None:
        # Modules in C that are interrupted while they load raise what they like, or abort.
        if below.f_code.co_filename.startswith("<frozen importlib"):
            _leave(signum, frame)
        below = below.f_back
    raise KeyboardInterrupt


def _answer_ctrl_c(how: Callable | signal.Handlers) -> None:
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as a shell's background jobs do
        signal.signal(signal.SIGINT, how)


_answer_ctrl_c(_leave)

from absl import flags  # noqa: E402

from la_tf import quiet  # noqa: E402
from la_tf.config import ConfigError  # noqa: E402
from la_tf.errors import UserError, first_line  # noqa: E402

quiet.quiet()

# What absl says of a wrong command line, and what is said instead.
_ABSL = (
    (r"^Unknown command line flag '(.*?)'\.?", r"there is no flag --\1"),
    (r" Did you mean: (.*) \?$", r" (did you mean \1?)"),
    (r"^ERROR:: Unable to open flagfile: \[Errno \d+\] (.*): '(.*)'$", r"flagfile \2: \1"),
    (r"^flag --(\w+)=None: .*", r"give --\1"),
)
HELP_FLAGS = {"--help", "-h", "-help", "--helpfull", "--helpshort"}


class _Output(io.FileIO):
    """Standard output, or that of errors, whose reader may go away at any time."""

    def write(self, data) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            with open(os.devnull, "wb") as nowhere:  # what else is still to be written
                os.dup2(nowhere.fileno(), self.fileno())
            if error.errno == errno.EIO:  # the terminal is gone; SIGHUP decides what follows
                return len(data)
            if error.errno != errno.EPIPE:
                sys.exit(f"error: the output cannot be written: {error.strerror}.")
            if not callable(signal.getsignal(signal.SIGHUP)):
                sys.exit(_CLOSED_PIPE_CODE)
            signal.raise_signal(signal.SIGHUP)  # somebody saves first, or answers first
            return len(data)


def _replace_outputs() -> None:
    """From then on, characters that the terminal's encoding lacks are printed as escapes, too.

    Lines are written at once, for the file that a long run prints into is read while it goes on.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        if (stream := getattr(sys, name)) is None:  # closed by the caller, as by `>&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
            continue
        stream.flush()
        replaced = io.TextIOWrapper(
            io.BufferedWriter(_Output(number, "w", closefd=False)),
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=True,
            write_through=stream.write_through,
        )
        setattr(sys, name, replaced)


def run(main: Callable[[], None], again: str = "goes on from there") -> None:
    """Runs a tool: a failure is one sentence, see `failures_explained`, and a stop no traceback.

    Ctrl-C makes the exit code 130. Where the reader of its output goes away (`| head`), that is 141
    without a word; but a tool that listens to SIGHUP gets that signal and ends in order.

    Args:
      main: the tool.
      again: what the same command does after Ctrl-C.
    """
    _replace_outputs()
    _answer_ctrl_c(_interrupt)
    try:
        try:
            with failures_explained():
                main()
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        print(f"stopped; the same command {again}.", file=sys.stderr)
        sys.exit(_CTRL_C_CODE)
    finally:
        _answer_ctrl_c(signal.SIG_DFL)  # threads may still be waited for


def parse(
    argv: list[str],
    about: str,
    options: Callable[[], str] = flags.FLAGS.main_module_help,
    positional: bool = False,
) -> list[str]:
    """Parses a command line, with the program's name first; answers --help, refuses the unknown.

    Args:
      argv: the command line.
      about: what the program does, for --help.
      options: describes the flags, for --help.
      positional: whether there may be arguments beside the flags.

    Returns:
      Those arguments.
    """
    if HELP_FLAGS & set(argv[1:]):
        print(f"{about.strip()}\n{options()}")
        sys.exit(0)
    try:
        rest = flags.FLAGS(argv)[1:]
    except (flags.Error, OSError) as error:
        sentence = first_line(error)
        for theirs, ours in _ABSL:
            sentence = re.sub(theirs, ours, sentence)
        fail(f"{sentence}; see --help.")
    for name in flags.FLAGS:
        if flags.FLAGS[name].value == "" and flags.FLAGS[name].default is None:
            fail(f"--{name} is empty: give it a value, or leave it out.")
    if rest and not positional:
        fail(f"'{rest[0]}' is not a flag: options begin with --, see --help.")
    return rest


def fail(sentence: str) -> NoReturn:
    """Ends the program with one sentence and exit code 1; several lines are several sentences."""
    for line in sentence.splitlines():
        print(f"error: {line}", file=sys.stderr)
    sys.exit(1)


@contextlib.contextmanager
def failures_explained(*others: type[Exception]) -> Iterator[None]:
    """Ends the program with one sentence on an error that a person can put right.

    A file that cannot be used is one, and so is what TensorFlow fails at: a full disk or device, or
    data that are not what they were.

    Args:
      *others: exceptions with such messages beside `ConfigError` and `UserError`.
    """
    try:
        yield
    except (ConfigError, UserError, *others) as error:
        fail(str(error))
    except OSError as error:
        if error.strerror is None:
            raise
        fail(f"{error.filename or 'a file'} cannot be used: {error.strerror}.")
    except Exception as error:
        tf = sys.modules.get("tensorflow")  # where it is not loaded, nothing of it has failed
        if tf is None or not isinstance(error, tf.errors.OpError):
            raise
        sentence = f"{first_line(error)}."
        if isinstance(error, (tf.errors.InvalidArgumentError, tf.errors.DataLossError)):
            # Of large data only the ends of files are read before the work begins.
            sentence += " If an image is damaged, tools/check_data.py names it."
        fail(sentence)
