"""The learning curves of a run, read from its logs."""

import dataclasses
import math
from collections.abc import Sequence

from la_tf.analysis import plots
from la_tf.analysis.part import Part, Plot, Unavailable
from la_tf.analysis.plots import Curve, Panel
from la_tf.config import Config
from la_tf.phases import DEEPCLUSTER, IR, LA, SUPERVISED
from la_tf.resolve import clusters
from la_tf.results.knn_metric import KNN_METRICS
from la_tf.runs.log import Record, records_with


def panels(
    metrics: Sequence[Record],
    timing: Sequence[Record],
    config: Config,
    num_examples: int,
    steps_per_epoch: int,
) -> list[Panel]:
    """The panels for which the logs of a run have records; `num_examples` is N."""
    # timing.jsonl keeps what a killed run did after its last checkpoint: the later record counts.
    unique = {(r["kind"], r["step"]): r for r in (*timing, *metrics)}
    records = sorted(unique.values(), key=lambda r: r["step"])

    def curve(label: str, kind: str, key: str, phase: str | None = None) -> Curve:
        found = records_with(records, kind, key)
        found = [r for r in found if phase in (None, r.get("phase"))]
        return Curve(label, [r["step"] / steps_per_epoch for r in found], [r[key] for r in found])

    chance = math.log(num_examples)
    members = num_examples / clusters(config.clustering.num_clusters, num_examples)
    even = 1 / math.sqrt(config.network.dim)
    # Only the softmax over all images has the loss ln N where all embeddings are alike.
    softmax = config.schedule.ir_epochs and config.objective.ir_loss == "softmax"
    loss = (
        curve("Instance recognition (IR)", "train", "loss", IR),
        curve("Local Aggregation (LA)", "train", "loss", LA),
        curve("DeepCluster", "train", "loss", DEEPCLUSTER),
        curve("supervised", "train", "loss", SUPERVISED),
    )
    right = curve("images whose class, or cluster, is told", "train", "accuracy")
    knn = tuple(curve(metric.words, "knn", metric.field) for metric in KNN_METRICS)
    spread = curve("standard deviation of a coordinate", "train", "spread")
    close = curve("close neighbours among the background", "train", "close_share", LA)
    empty = curve("images without a close neighbour", "train", "empty_close", LA)
    own = curve("part of the image itself in P(C and B)", "neighbors", "own_share")
    quality = (
        curve("close neighbours of the image's class", "neighbors", "close_purity"),
        curve("background neighbours of its class", "neighbors", "background_purity"),
        curve("close neighbours that the background holds", "neighbors", "close_in_background"),
        curve("images whose background holds their own row", "neighbors", "own_in_background"),
    )
    nmi = curve("normalised mutual information", "clustering", "nmi_previous")
    largest = curve("largest", "clustering", "largest_cluster")
    smallest = curve("smallest", "clustering", "smallest_cluster")
    inertia = curve("mean of the H clusterings", "clustering", "inertia")
    rate = curve("learning rate", "train", "learning_rate")
    speed = curve("images per second", "throughput", "images_per_second")
    waiting = curve("share of the time", "throughput", "data_wait_share")
    alike = {chance: f"ln N = {chance:.1f}"} if softmax else {}
    ends = {even: f"uniform on the sphere, 1/√D = {even:.3f}", 0.0: "collapsed"}
    mean = {members: f"mean, N/m = {members:.1f}"}
    every = [
        Panel("loss", "Training loss", loss, alike),
        Panel("knn", "Held-out kNN accuracy", knn, share=True),
        Panel("spread", "Spread of the embeddings", (spread,), ends),
        Panel("close", "Close neighbours (LA)", (close, empty, own), share=True),
        Panel("neighbors", "Which neighbours (of a sample)", quality, share=True),
        Panel("accuracy", "Training accuracy", (right,), share=True),
        Panel("nmi", "Agreement with the previous clusters", (nmi,), share=True),
        Panel("clusters", "Images in a cluster", (largest, smallest), mean),
        Panel("inertia", "k-means inertia (sum of squared distances)", (inertia,)),
        Panel("learning-rate", "Learning rate", (rate,), log=True),
        Panel("throughput", "Images per second", (speed,)),
        Panel("data-wait", "Time spent waiting for data", (waiting,), share=True),
    ]
    kept = [dataclasses.replace(p, curves=tuple(c for c in p.curves if c.epochs)) for p in every]
    return [panel for panel in kept if panel.curves]


def curves_part(drawn: Sequence[Panel], switch: int, last_epoch: float) -> Part:
    """The learning curves as drawings; Local Aggregation begins after the epoch `switch`.

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
