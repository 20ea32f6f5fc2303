"""Shows several runs and the paper's rows side by side.

  python tools/compare.py RUN RUN ... --format=csv --output=FILE

Runs may be unfinished. It reads their JSON files alone, and takes a second.
"""

import os
import pathlib
import sys

import config_flags
from absl import flags

from la_tf.evaluation.comparison import FORMATS, comparison, format_csv, format_markdown
from la_tf.run_directory import RunError

_FORMAT = flags.DEFINE_enum("format", "markdown", FORMATS, "Markdown, or CSV without the footnote.")
_OUTPUT = flags.DEFINE_string("output", None, "File to write instead of printing.")


def main() -> None:
    """Prints or writes the table; nothing of it if a run cannot be read."""
    run_dirs = _parse(sys.argv)
    try:
        lines = comparison(run_dirs)
    except RunError as error:
        for sentence in str(error).splitlines():
            print(f"error: {sentence}", file=sys.stderr)
        sys.exit(1)
    text = format_csv(lines) if _FORMAT.value == "csv" else format_markdown(lines)
    if _OUTPUT.value is None:
        print(text, end="")
    else:
        _write(pathlib.Path(_OUTPUT.value).expanduser(), text)


def _parse(argv: list[str]) -> list[str]:
    """The run directories of a command line."""
    if {"--help", "-h"} & set(argv):
        print(f"{__doc__.strip()}\n{flags.FLAGS.main_module_help()}")
        sys.exit(0)
    try:
        run_dirs = flags.FLAGS(argv)[1:]
    except flags.Error as error:
        config_flags.fail(f"{str(error).splitlines()[0].rstrip('.')}; see --help.")
    if not run_dirs:
        config_flags.fail("name one or more run directories.")
    return run_dirs


def _write(path: pathlib.Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        config_flags.fail(f"{path} cannot be written: {error.strerror}.")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
