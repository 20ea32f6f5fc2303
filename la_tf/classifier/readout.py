"""A linear readout on a frozen layer: which layer, how strongly regularised, and its weights.

Logistic regression by scikit-learn on features of the centre of each image. The protocol of the
paper, by gradient descent on random crops (`la_tf.evaluation.linear`), takes a batch of images and
a rate that fits the size of the features; this takes any number from two a class on.
"""

import dataclasses
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.preprocessing import StandardScaler

from la_tf.classifier.task import Examples, Task, quality
from la_tf.data.augment import center_view
from la_tf.data.base import Source, Subset, sample_rows
from la_tf.data.pipeline import EVAL_BATCH_SIZE, eval_dataset, ordered_dataset
from la_tf.embedding.embedder import Embedder
from la_tf.evaluation.linear import layer_features
from la_tf.memory import require_memory

MAX_FEATURES = 512  # a map with more numbers is average-pooled, to one pixel at the most
COSTS = (1e-3, 1e-2, 1e-1, 1.0)  # C: how much the losses count beside the weights' squares
FOLDS = 3
SAMPLE = 3_000  # images among which layer and C are chosen; the weights are of all
_NEVER = -30.0  # the logit of a class that no image of a fold has
_MOST_STEPS = 300  # of the solver; classes that are told apart without an error need no more


@dataclasses.dataclass(frozen=True)
class Readout:
    """What a layer's features say about the classes.

    Attributes:
      layer: conv1 to conv5.
      cost: C, as the folds chose it.
      quality: what the folds found, see `task.quality`; of images that they left out.
      kernel: float32 [F, C].
      bias: float32 [C]; logits are features times the kernel, and the bias.
    """

    layer: str
    cost: float
    quality: float
    kernel: np.ndarray
    bias: np.ndarray


def fit_readout(
    network: tf.keras.Model,
    task: Task,
    layers: Sequence[str],
    flip: bool,
    seed: int,
    say: Callable[[str], None] = print,
) -> Readout:
    """Chooses layer and C by folds of the training images, and fits the readout to all of them.

    Args:
      network: images [B, S, S, 3] -> embeddings, see `build_network`.
      task: what is to be told apart.
      layers: some of conv1 to conv5.
      flip: whether each image is learned mirrored, too.
      seed: of the sample and of the folds.
      say: takes a line for each layer.

    Raises:
      RunError: the features do not fit in memory.
    """
    examples = task.train
    features = {layer: _features(network, layer) for layer in layers}
    sample = sample_rows(len(examples.source), SAMPLE, seed)
    few = Examples(Subset(examples.source, sample), examples.targets[sample])
    folds = _folds(few.targets, task.multi_label, seed)
    best, kept = None, None
    for layer in layers:
        views = _views(features[layer], few.source, flip)
        tried = {}
        for cost in COSTS:
            logits = _by_folds(views, few.targets, cost, task.multi_label, folds)
            tried[cost] = _log_loss(logits, few.targets, task.multi_label), logits
        cost = min(tried, key=lambda c: tried[c][0])
        loss, logits = tried[cost]
        value = quality(logits, few.targets, task.multi_label)
        say(f"{layer}: {task.measure} {value:.1%} in {len(folds)} folds of {len(sample)} images")
        if best is None or loss < best[0]:
            best, kept = (loss, layer, cost, value), views
    _, layer, cost, value = best
    if len(sample) < len(examples.source):
        kept = _views(features[layer], examples.source, flip)
    weights = _fit_views(kept, examples.targets, cost, task.multi_label)
    return Readout(layer, cost, value, *weights)


def _features(network: tf.keras.Model, layer: str) -> tf.keras.Model:
    """Images [B, S, S, 3] -> the features [B, F] of one layer."""
    features = layer_features(network, MAX_FEATURES, [layer])
    return tf.keras.Model(features.input, features.output[layer])


def _views(features: tf.keras.Model, source: Source, flip: bool) -> np.ndarray:
    """Features [1, N, F] of the centre view of each image, or [2, N, F]: mirrored, too.

    The first are as the exported classifier sees them.
    """
    count, (_, side, _, _), (_, width) = len(source), features.input_shape, features.output_shape
    # The rows, and the solver's own two copies of them.
    require_memory(24 * count * width, f"the features of {count} images", "take fewer images")
    embed = Embedder(features)
    mirrored = ordered_dataset(source, lambda e: center_view(e, side)[:, ::-1], EVAL_BATCH_SIZE)
    datasets = (eval_dataset(source, image_size=side), mirrored)
    return np.stack([embed(dataset) for dataset in datasets[: 1 + flip]])


def _fit_views(
    views: np.ndarray, targets: np.ndarray, cost: float, multi_label: bool
) -> tuple[np.ndarray, np.ndarray]:
    """`fit_logistic` to all views [V, N, F] of images."""
    rows = views.reshape(-1, views.shape[2])
    return fit_logistic(rows, np.tile(targets, [len(views), 1]), cost, multi_label)


def _folds(targets: np.ndarray, multi_label: bool, seed: int) -> list[tuple]:
    """(rows to fit, rows to try) of each fold; of single classes, each fold has its share."""
    rows = np.arange(len(targets))
    if multi_label:
        return list(KFold(FOLDS, shuffle=True, random_state=seed).split(rows))
    folds = StratifiedKFold(min(FOLDS, targets.sum(axis=0).max()), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with fewer images than folds
        return list(folds.split(rows, targets.argmax(axis=1)))


def _by_folds(
    views: np.ndarray, targets: np.ndarray, cost: float, multi_label: bool, folds: list[tuple]
) -> np.ndarray:
    """Logits [N, C] of each image by the fit to the other folds."""
    logits = np.empty(targets.shape, np.float32)
    for fitted, tried in folds:
        kernel, bias = _fit_views(views[:, fitted], targets[fitted], cost, multi_label)
        logits[tried] = views[0, tried] @ kernel + bias
    return logits


def _log_loss(logits: np.ndarray, targets: np.ndarray, multi_label: bool) -> float:
    """The mean over images of minus the log of what the right answers were given.

    Layer and C are chosen by it: on few images it tells more than their share that is right, which
    many choices have alike, and scores are meant to be probabilities.
    """
    given = np.clip(probabilities(logits, multi_label).numpy(), 1e-6, 1 - 1e-6)
    logs = np.where(targets, np.log(given), np.log1p(-given) if multi_label else 0.0)
    return float(-logs.sum(axis=1).mean())


def probabilities(logits: tf.Tensor, multi_label: bool) -> tf.Tensor:
    """Logits [N, C] to scores [N, C]: softmax, or a sigmoid each with several classes an image."""
    return tf.sigmoid(logits) if multi_label else tf.nn.softmax(logits)


def classifier_of(network: tf.keras.Model, readout: Readout) -> tf.keras.Model:
    """Images [B, S, S, 3] -> logits [B, C]: the network up to the layer, and the readout.

    It shares the network's weights. Batch norm keeps to its moving statistics, in training too: on
    few images those of a batch are noise, and theirs would lag behind.
    """
    features = _features(network, readout.layer)
    dense = tf.keras.layers.Dense(len(readout.bias), dtype="float32", name="readout")
    logits = dense(features(features.input, training=False))
    model = tf.keras.Model(features.input, logits, name="classifier")
    dense.set_weights([readout.kernel, readout.bias])
    return model


def fit_logistic(
    rows: np.ndarray, targets: np.ndarray, cost: float, multi_label: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Logistic regression on standardised features, as weights for the features as they are.

    Args:
      rows: float32 [N, F].
      targets: bool [N, C].
      cost: C, of scikit-learn's LogisticRegression.
      multi_label: one regression for each class; else one for all, whose scores sum to 1.

    Returns:
      float32 kernel [F, C] and bias [C]; a class that no row has is never predicted.
    """
    scaler = StandardScaler()
    scaled = scaler.fit_transform(rows)
    kernel = np.zeros([rows.shape[1], targets.shape[1]], np.float64)
    bias = np.full(targets.shape[1], _NEVER, np.float64)
    groups = [[c] for c in range(targets.shape[1])] if multi_label else [list(range(len(bias)))]
    for group in groups:
        labels = targets[:, group[0]] if multi_label else targets.argmax(axis=1)
        if len(found := np.unique(labels)) < 2:
            bias[group] = np.where(targets[0, group], -_NEVER, _NEVER)
            continue
        solver = LogisticRegression(C=cost, max_iter=_MOST_STEPS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            solver.fit(scaled, labels)
        # Of two classes there is one row of weights, the logit of the second.
        columns = group if multi_label else found[-len(solver.coef_) :]
        kernel[:, columns], bias[columns] = solver.coef_.T, solver.intercept_
        if not multi_label and len(found) == 2:
            bias[found[0]] = 0.0
    kernel /= scaler.scale_[:, np.newaxis]
    return kernel.astype(np.float32), (bias - scaler.mean_ @ kernel).astype(np.float32)
