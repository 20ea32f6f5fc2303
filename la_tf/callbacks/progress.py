"""The progress of a run, for the person who waits for it."""

import sys
import time
from typing import Any

from tqdm import tqdm

from la_tf.callbacks.step_callback import StepCallback
from la_tf.results.knn_metric import KNN_METRICS

KNN_WORDS = f"kNN in the bank (K = {' / '.join(str(metric.k) for metric in KNN_METRICS)})"
QUIET_SECONDS = 30  # between lines where there is no terminal, so that logs stay readable


class Progress(StepCallback):
    """A bar on a terminal, or a line now and then in a file: images/s, time left, loss, kNN.

    It is a listener for the run's logs, too, and shows the newest value of each.
    """

    def __init__(self, total_steps: int, steps_per_epoch: int, batch_size: int):
        """Takes the steps of the whole run and of an epoch, and B, the images of a step."""
        super().__init__(steps_per_epoch)
        self.total_steps = total_steps
        self.batch_size = batch_size
        self._bar: tqdm | None = None
        self._shown: dict[str, str] = {}
        self._said_at = 0.0

    def say(self, sentence: str) -> None:
        """Prints a line without breaking the bar."""
        if self._bar is None:
            print(sentence, flush=True)
        else:
            self._bar.write(sentence)

    def on_train_begin(self, logs=None):
        """Opens the bar where the run stands."""
        super().on_train_begin(logs)
        if self._bar is None and sys.stderr.isatty():
            self._bar = tqdm(
                total=self.total_steps * self.batch_size,
                initial=self.step * self.batch_size,
                unit=" images",
                unit_scale=True,
                dynamic_ncols=True,
                file=sys.stderr,
            )
        self._began = time.perf_counter(), self.step

    def on_train_batch_end(self, batch, logs=None):
        """Moves the bar."""
        super().on_train_batch_end(batch, logs)
        if self._bar is not None:
            self._bar.update(self.batch_size)

    def on_train_end(self, logs=None):
        """Says how the run ended, once the evaluations after its last step are done."""
        if self.step < self.total_steps:
            return
        if self._bar is not None:
            self._describe_bar()
        else:
            self._say_line()

    def __call__(self, record: dict[str, Any]) -> None:
        """Takes a record of either log."""
        kind = record["kind"]
        if kind == "train":
            self._shown["epoch"] = str(record["epoch"])
            self._shown["loss"] = f"{record['phase']} {record['loss']:.3f}"
        elif kind == "throughput":
            self._shown["images/s"] = f"{record['images_per_second']:.0f}"
            self._shown["wait"] = f"{record['data_wait_share']:.0%}"
            self._report()
        elif kind == "clustering" and "share" in record:
            self._shown["k-means"] = f"{record['share']:.0%}"
        elif kind == "knn":
            shares = [f"{100 * record[metric.field]:.1f}" for metric in KNN_METRICS]
            self._shown[KNN_WORDS] = f"{' / '.join(shares)} % after epoch {record['epoch']}"

    def _report(self) -> None:
        if self._bar is not None:
            self._describe_bar()
        elif self.step < self.total_steps and time.monotonic() - self._said_at >= QUIET_SECONDS:
            self._say_line()

    def _describe_bar(self) -> None:
        words = self._words(["epoch", "loss", KNN_WORDS, "wait", "k-means"])
        self._bar.set_postfix_str(", ".join(words))

    def _say_line(self) -> None:
        self._said_at = time.monotonic()
        self.say(
            f"step {self.step}/{self.total_steps}  "
            + "  ".join(self._words(["epoch", "loss", KNN_WORDS, "images/s", "wait", "k-means"]))
            + f"  left {self._time_left()}"
        )

    def _words(self, names: list[str]) -> list[str]:
        return [f"{name} {self._shown[name]}" for name in names if name in self._shown]

    def _time_left(self) -> str:
        started, first = self._began
        done = max(1, self.step - first)
        seconds = (time.perf_counter() - started) / done * (self.total_steps - self.step)
        return tqdm.format_interval(int(seconds))

    def close(self) -> None:
        """Closes the bar; later lines are plain."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
