"""Trains an embedding by Local Aggregation.

  python tools/train.py --flagfile=configs/alexnet.flags --data=DIR

The same command resumes a run that was stopped. Options, grouped as in la_tf/config.py:
"""

import dataclasses
import os
import sys
import textwrap

from la_tf import quiet

quiet.quiet()

from absl import app, flags  # noqa: E402

from la_tf import config as config_lib  # noqa: E402
from tools import _flags  # noqa: E402

_flags.define_config_flags()


def readable_help() -> str:
    """The module's words, then every option by section, for --help."""
    lines = [__doc__.strip()]
    for section in dataclasses.fields(config_lib.Config):
        title = section.type.__doc__.splitlines()[0]
        lines.append(f"\n{section.name}: {title}")
        for option in dataclasses.fields(section.type):
            flag = flags.FLAGS[option.name]
            name = f"--[no]{option.name}" if flag.boolean else f"--{option.name}"
            default = "" if flag.default in (None, []) else f" [{flag.default_as_str}]"
            choices = option.metadata["choices"]
            listed = f" One of {', '.join(choices)}." if choices else ""
            lines.append(f"  {name}{default}")
            lines.append(textwrap.indent(textwrap.fill(flag.help + listed, 90), "      "))
    lines.append("\n  --flagfile=FILE\n      Reads flags from a file, such as those in configs/.")
    return "\n".join(lines)


def print_table(result) -> None:
    """The held-out kNN of a finished run."""
    if result.rows:
        print(f"\nHeld-out kNN accuracy against {result.gallery}:\n")
        print(f"  {'':20} {'K = 200':>8} {'K = 1':>8}")
        for name, knn200, knn1 in result.rows:
            print(f"  {name:20} {100 * knn200:7.1f}% {100 * knn1:7.1f}%")
    print(f"\nrun directory: {result.run_dir}")
    print(f"SavedModel:    {result.saved_model} (one image embedded through it)")


def main(argv: list[str]) -> None:
    """Trains, and turns every foreseen failure into one sentence."""
    if len(argv) > 1:
        fail(f"'{argv[1]}' is not a flag: options begin with --, see --help.")
    # Slow imports come after the flags are known to be right.
    from la_tf.callbacks.checkpoint import Interrupted
    from la_tf.data.base import DataError
    from la_tf.health import TrainingDiverged
    from la_tf.run_directory import RunError
    from la_tf.trainer import train

    try:
        result = train(_flags.config_from_flags())
    except (config_lib.ConfigError, DataError, RunError, TrainingDiverged) as error:
        fail(str(error))
    except Interrupted as stop:
        print(f"{stop}: saved. The same command goes on from there.", file=sys.stderr)
        sys.stderr.flush()
        os._exit(128 + stop.signum)
    print_table(result)


def fail(sentence: str) -> None:
    """Ends the program with one sentence and exit code 1."""
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    app.run(main)
