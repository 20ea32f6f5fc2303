"""Trains an embedding by Local Aggregation.

  python tools/train.py --flagfile=configs/alexnet.flags --data=DIR

The same command resumes a run that was stopped.
"""

import os
import sys

import command_line
import config_flags
from absl import flags


def main() -> None:
    """Trains, and says where everything is."""
    config_flags.define_config_flags()
    command_line.parse(sys.argv, __doc__, config_flags.readable_help)
    if not (flags.FLAGS["data"].present or flags.FLAGS["extend"].present):
        command_line.fail(
            "name the images with --data=DIR, and a recipe with --flagfile=configs/NAME.flags; "
            "--flagfile=configs/digits.flags alone trains on digits that come with it."
        )
    if flags.FLAGS["callbacks"].present:
        sys.path.append(os.getcwd())  # where modules of one's own are
    # TensorFlow takes seconds to import: only once the flags are known to be right.
    from la_tf.analysis.report import write_report
    from la_tf.callbacks.checkpointing import Interrupted
    from la_tf.errors import RunError
    from la_tf.results.tables import milestone_table
    from la_tf.trainer import train

    try:
        config = config_flags.config_from_flags()
        result = train(config)
    except Interrupted as stop:
        print(f"{stop}: saved. The same command goes on from there.")
        # Threads of the input pipeline may still be at work; nothing is left for them to do.
        os._exit(128 + stop.signum)
    if result.rows:
        print(f"\n{milestone_table(result.rows, result.gallery)}")
    print(f"\nrun directory: {result.run_dir}")
    print(f"SavedModel:    {result.saved_model} (one image was embedded through it)")
    if not config.run.write_report:
        return
    try:
        print(f"report:        {write_report(str(result.run_dir), say=lambda sentence: None)}")
    except RunError as error:
        command_line.fail(f"the run is complete, but {error}")


if __name__ == "__main__":
    command_line.run(main)
