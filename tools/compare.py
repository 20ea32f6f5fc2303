"""Shows several runs and the paper's rows side by side.

  python tools/compare.py RUN RUN ... --format=csv --output=FILE

Runs may be unfinished. Only their JSON files are read, which takes a second.
"""

import pathlib
import sys

import command_line
from absl import flags

from la_tf.files import replace_file
from la_tf.results.comparison import FORMATS, comparison, format_csv, format_markdown

_FORMAT = flags.DEFINE_enum("format", "markdown", FORMATS, "Markdown, or CSV without the footnote.")
_OUTPUT = flags.DEFINE_string("output", None, "File to write instead of printing.")


def main() -> None:
    """Prints or writes the table; neither if a run cannot be read."""
    run_dirs = command_line.parse(sys.argv, __doc__, positional=True)
    if not run_dirs:
        command_line.fail("name one or more run directories.")
    lines = comparison(run_dirs)
    text = format_csv(lines) if _FORMAT.value == "csv" else format_markdown(lines)
    if _OUTPUT.value is None:
        print(text, end="")
        return
    path = pathlib.Path(_OUTPUT.value).expanduser()
    try:
        replace_file(path, text.encode())
    except OSError as error:
        command_line.fail(f"{path} cannot be written: {error.strerror}.")
    print(f"written: {path}")


if __name__ == "__main__":
    command_line.run(main, again="starts anew")
