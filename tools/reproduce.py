"""Runs the paper's tables, row by row, and prints them beside the paper's numbers.

  python tools/reproduce.py --table=5 --scale=laptop --data=DIR

Each row is a run of tools/train.py, whose command is printed. The same command goes on after a
stop, and shows the table when all rows are there; OUTPUT_DIR keeps the tables as Markdown and JSON,
and of each run what stands behind its numbers.
"""

import contextlib
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import command_line
from absl import flags

from la_tf.options import option_value, sections_and_options

TABLES = ("1", "4", "5", "s1", "s3", "figure2")

_TABLE = flags.DEFINE_list("table", ["5"], f"{', '.join(TABLES)}, or several with commas.")
_SCALE = flags.DEFINE_enum(
    "scale",
    "laptop",
    ["digits", "laptop", "imagenet"],
    "1,437 digits, or 10,000 images, and a small network; or the paper's own recipe.",
)
_DATA = flags.DEFINE_string(
    "data", None, "Images as tools/train.py takes them; digits have their own."
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Where runs and tables go; default runs/reproduce-SCALE."
)
_SEEDS = flags.DEFINE_list("seeds", None, "Seeds of the runs of each row; default the scale's.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the commands that are left, and the tables.")

ROOT = pathlib.Path(__file__).resolve().parent.parent


def main() -> None:
    """Runs what is missing, one after the other, and prints the tables."""
    command_line.parse(sys.argv, __doc__)
    if unknown := set(_TABLE.value) - set(TABLES):
        command_line.fail(f"--table={unknown.pop()} must be of {', '.join(TABLES)}.")
    try:
        option = sections_and_options()["seed"][1]
        seeds = [option_value(option, seed) for seed in _SEEDS.value or ()]
    except ValueError as error:
        command_line.fail(f"--seeds={','.join(_SEEDS.value)}: each {error}.")
    _reproduce(seeds)


def _reproduce(seeds: list[int]) -> None:
    from la_tf.reproduction.outcome import outcome, write_results
    from la_tf.reproduction.plan import Plan
    from la_tf.reproduction.scales import SCALES
    from la_tf.reproduction.tables import paper_tables

    scale = SCALES[_SCALE.value]
    data = _DATA.value or scale.data
    if data is None:
        command_line.fail(f"--scale={scale.name} needs --data.")
    folder = pathlib.Path(_OUTPUT_DIR.value or f"runs/reproduce-{scale.name}")
    plan = Plan(scale, folder, data, seeds or scale.seeds)
    tables = [paper_tables(scale)[key] for key in dict.fromkeys(_TABLE.value)]
    left = [job for job in plan.jobs(tables) if not job.is_done()]
    seconds = epochs = 0.0
    for number, job in enumerate(left, 1):
        remaining = sum(other.epochs for other in left[number - 1 :])
        time_left = f", {remaining * seconds / epochs / 60:.0f} minutes" if epochs else ""
        print(f"[{number} of {len(left)}{time_left} left] {job.command}")
        if _DRY_RUN.value:
            continue
        started = time.monotonic()
        _run(job.arguments)
        seconds, epochs = seconds + time.monotonic() - started, epochs + job.epochs
        write_results(folder, [outcome(table, plan) for table in tables], plan.jobs(tables))
    for table in tables:
        print(f"\n{outcome(table, plan).markdown}")


def _run(arguments: Sequence[str]) -> None:
    """Runs a tool to its end; what stops this program stops it too, after it has saved.

    Ctrl-C reaches it from the terminal; SIGTERM is passed on.
    """
    tool, *flags_of_tool = arguments
    with subprocess.Popen([sys.executable, str(ROOT / tool), *flags_of_tool]) as child:
        before = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        try:
            while True:
                with contextlib.suppress(KeyboardInterrupt):
                    child.wait()
                    break
        finally:
            signal.signal(signal.SIGTERM, before)
    if child.returncode:
        sys.exit(child.returncode if child.returncode > 0 else 128 - child.returncode)


if __name__ == "__main__":
    command_line.run(main)
