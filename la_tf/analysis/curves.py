"""The learning curves of a run, from its logs to series of numbers."""

import dataclasses
import math
from collections.abc import Sequence

from la_tf.analysis import plots
from la_tf.analysis.part import Part, Plot, Unavailable
from la_tf.analysis.plots import Curve, Panel
from la_tf.config import Config
from la_tf.phases import IR, LA
from la_tf.resolve import clusters
from la_tf.results.knn_metric import KNN_METRICS
from la_tf.runs.log import Record


class _Log:
    """Records of metrics.jsonl and timing.jsonl, and curves out of them."""

    def __init__(self, records: Sequence[Record], steps_per_epoch: int):
        # timing.jsonl keeps what a killed run did after its last checkpoint: the later one counts.
        unique = {(r["kind"], r["step"]): r for r in records}
        self._records = sorted(unique.values(), key=lambda r: r["step"])
        self._steps_per_epoch = steps_per_epoch

    def curve(self, kind: str, key: str, label: str, phase: str | None = None) -> Curve:
        """One value of all records of a kind that have it, and of one phase if that is named."""
        found = [
            r
            for r in self._records
            if r["kind"] == kind and key in r and phase in (None, r.get("phase"))
        ]
        return Curve(
            label, [r["step"] / self._steps_per_epoch for r in found], [r[key] for r in found]
        )


def panels(
    metrics: Sequence[Record],
    timing: Sequence[Record],
    config: Config,
    num_examples: int,
    steps_per_epoch: int,
) -> list[Panel]:
    """The panels for which a run has records.

    Args:
      metrics: records of metrics.jsonl.
      timing: records of timing.jsonl.
      config: of the run, resolved.
      num_examples: N.
      steps_per_epoch: steps of one epoch.
    """
    log, speed = _Log(metrics, steps_per_epoch), _Log(timing, steps_per_epoch)
    chance = math.log(num_examples)
    members = num_examples / clusters(config.clustering.num_clusters, num_examples)
    even = 1 / math.sqrt(config.network.dim)
    # NCE is no softmax over all images, and has another value where all are alike.
    loss_levels = {chance: f"ln N = {chance:.1f}"} if config.objective.ir_loss == "softmax" else {}
    if not config.schedule.ir_epochs:
        loss_levels = {}
    drawn = [
        Panel(
            "loss",
            "Training loss",
            (
                log.curve("train", "loss", "Instance recognition (IR)", IR),
                log.curve("train", "loss", "Local Aggregation (LA)", LA),
            ),
            loss_levels,
        ),
        Panel(
            "knn",
            "Held-out kNN accuracy",
            tuple(log.curve("knn", metric.field, metric.words) for metric in KNN_METRICS),
            share=True,
        ),
        Panel(
            "spread",
            "Spread of the embeddings",
            (log.curve("train", "spread", "standard deviation of a coordinate"),),
            {even: f"even sphere, 1/√D = {even:.3f}", 0.0: "collapsed"},
        ),
        Panel(
            "close",
            "Close neighbours (LA)",
            (
                log.curve("train", "close_share", "close share of the background", LA),
                log.curve("train", "empty_close", "images without any", LA),
            ),
            share=True,
        ),
        Panel(
            "nmi",
            "Agreement with the previous clusters",
            (log.curve("clustering", "nmi_previous", "normalised mutual information"),),
            share=True,
        ),
        Panel(
            "clusters",
            "Images in a cluster",
            (
                log.curve("clustering", "largest_cluster", "largest"),
                log.curve("clustering", "smallest_cluster", "smallest"),
            ),
            {members: f"mean, N/m = {members:.1f}"},
        ),
        Panel(
            "inertia",
            "k-means inertia (sum of squared distances)",
            (log.curve("clustering", "inertia", "mean of the H clusterings"),),
        ),
        Panel(
            "learning-rate",
            "Learning rate",
            (log.curve("train", "learning_rate", "learning rate"),),
            log=True,
        ),
        Panel(
            "throughput",
            "Images per second",
            (speed.curve("throughput", "images_per_second", "images per second"),),
        ),
        Panel(
            "data-wait",
            "Time spent waiting for data",
            (speed.curve("throughput", "data_wait_share", "share of the time"),),
            share=True,
        ),
    ]
    kept = [
        dataclasses.replace(panel, curves=tuple(c for c in panel.curves if c.epochs))
        for panel in drawn
    ]
    return [panel for panel in kept if panel.curves]


def curves_part(drawn: Sequence[Panel], switch: int, last_epoch: float) -> Part:
    """The learning curves as drawings.

    Args:
      drawn: panels with what there is to draw.
      switch: the epoch after which Local Aggregation begins.
      last_epoch: epochs done.

    Raises:
      Unavailable: there is nothing to draw.
    """
    if not drawn:
        raise Unavailable("The run's logs hold nothing yet.")
    # Logs of a run that was killed can be ahead of its newest checkpoint.
    last = max([last_epoch, *(epoch for p in drawn for c in p.curves for epoch in c.epochs)])
    mark = switch if 0 < switch < last else None
    caption = "Horizontally: epochs."
    if mark is not None:
        caption += f" The line at epoch {mark} marks the switch from instance recognition to Local "
        caption += "Aggregation, whose loss has another scale."
    return Part(
        caption,
        tuple(
            Plot(
                f"curves-{panel.name}",
                plots.learning_curve(panel, mark, last),
                f"{panel.title}. {' '.join(_in_words(curve) for curve in panel.curves)}",
            )
            for panel in drawn
        ),
    )


def _in_words(curve: Curve) -> str:
    return (
        f"{curve.label}: {curve.values[0]:.3g} at epoch {curve.epochs[0]:.3g}, "
        f"{curve.values[-1]:.3g} at epoch {curve.epochs[-1]:.3g}."
    )
