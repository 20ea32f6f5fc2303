"""A run's records in other places: a CSV file, Weights & Biases, MLflow.

  python tools/train.py ... --callbacks=docs.examples.loggers:csv_file

from the checkout; or copy what you need into a module of your own. Each function is called with the
Config and the run directory, once a start: a run that is resumed goes on where it was.
"""

import csv
import pathlib
from collections.abc import Callable

import tensorflow as tf

from la_tf.config import Config
from la_tf.stored_config import to_dict


class Records(tf.keras.callbacks.Callback):
    """Passes the numbers of each record of metrics.jsonl on, under names such as 'knn/top1'."""

    def __init__(
        self, log: Callable[[dict[str, float], int], None], close: Callable[[], None] = lambda: None
    ):
        """`log` takes numbers by name, and the step; `close` is called at the end or a stop."""
        super().__init__()
        self.log, self.close = log, close

    def on_record(self, record: dict) -> None:
        """Is called with losses, kNN accuracies, clusterings, in their order."""
        numbers = {
            f"{record['kind']}/{name}": value
            for name, value in record.items()
            if isinstance(value, int | float) and name not in ("step", "epoch")
        }
        self.log(numbers, record["step"])


def csv_file(config: Config, run_dir: pathlib.Path) -> Records:
    """Appends step, name and value to records.csv of the run."""
    file = (run_dir / "records.csv").open("a", newline="", buffering=1)
    write = csv.writer(file).writerow
    return Records(lambda numbers, step: [write((step, *number)) for number in numbers.items()])


def wandb_run(config: Config, run_dir: pathlib.Path) -> Records:
    """A run of Weights & Biases with the name of the run directory."""
    import wandb

    name = run_dir.resolve().name
    run = wandb.init(project="la_tf", id=name, resume="allow", config=to_dict(config))
    # Steps that come again after a kill have the same numbers; W&B leaves them out.
    return Records(lambda numbers, step: run.log(numbers, step=step), run.finish)


def mlflow_run(config: Config, run_dir: pathlib.Path) -> Records:
    """A run of MLflow, whose number is kept in the run directory."""
    import mlflow

    kept = run_dir / "mlflow_run_id"
    if kept.exists():
        mlflow.start_run(run_id=kept.read_text())
    else:
        kept.write_text(mlflow.start_run(run_name=run_dir.resolve().name).info.run_id)
        for options in to_dict(config).values():
            mlflow.log_params(options)
    return Records(lambda numbers, step: mlflow.log_metrics(numbers, step=step))
