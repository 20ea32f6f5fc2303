"""Writes the report of a run: its results, learning curves, figures and configuration.

  python tools/analyze.py --run_dir=RUN

RUN/report.html opens in any browser and needs no other file; its drawings lie in RUN/figures too.
Give --run_dir again to draw the densities of other runs beside those of the first.
"""

import sys
import time

import command_line
import config_flags
from absl import flags

_RUN_DIR = flags.DEFINE_multi_string(
    "run_dir", None, "A run directory; the first one's report is written.", required=True
)
_DATA = flags.DEFINE_string("data", None, "Other images than the run's, or where they are now.")
_VAL_DATA = flags.DEFINE_string("val_data", None, "The same for the held-out images.")
_HOLDOUT = config_flags.define_option("holdout", 0, "With --data: as in tools/train.py.")


def main() -> None:
    """Writes the report."""
    command_line.parse(sys.argv, __doc__)
    started = time.perf_counter()
    # TensorFlow takes seconds to import: only once the flags are known to be right.
    from la_tf.analysis.report import write_report

    if _HOLDOUT.value and _DATA.value is None:
        command_line.fail("--holdout needs --data: the run's own images were trained on.")
    first, *others = _RUN_DIR.value
    report = write_report(first, others, _DATA.value, _VAL_DATA.value, _HOLDOUT.value)
    print(f"report: {report} ({time.perf_counter() - started:.0f} s)")


if __name__ == "__main__":
    command_line.run(main)
