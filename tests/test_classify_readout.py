"""The readout of a classifier and its images: optima, measures, and what is refused."""

import dataclasses
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from la_tf.classifier.readout import fit_logistic, fit_readout
from la_tf.classifier.task import open_task, quality, quality_by_class
from la_tf.config import DataConfig
from la_tf.data.base import DataError
from la_tf.networks import build_network


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


@pytest.fixture(scope="module")
def rows():
    """Features of very different sizes, one of them the same everywhere."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 5)) * [1, 100, 0.01, 1, 0] + [0, 50, 1, -3, 7]
    return rows.astype(np.float32)


@pytest.mark.parametrize("num_classes, multi_label", [(3, False), (2, False), (3, True)])
def test_no_step_from_the_fitted_weights_lowers_the_objective(rows, num_classes, multi_label):
    """The gradient of C sum(losses) + |w|^2 / 2 over standardised features, written out."""
    rng = np.random.default_rng(1)
    targets = np.eye(num_classes, dtype=bool)[rng.integers(0, num_classes, len(rows))]
    if multi_label:
        targets = rng.random(targets.shape) < 0.4
    cost = 0.5
    kernel, bias = fit_logistic(rows, targets, cost, multi_label)
    assert kernel.shape == (5, num_classes) and kernel.dtype == bias.dtype == np.float32

    deviations = rows.std(axis=0, dtype=np.float64)
    deviations[4] = 1
    scaled = (rows - rows.mean(axis=0, dtype=np.float64)) / deviations
    weights = kernel * deviations[:, np.newaxis]
    given = (sigmoid if multi_label else softmax)(rows.astype(np.float64) @ kernel + bias)
    if num_classes == 2:  # one logit, that of the second class: its weights alone are counted
        given, targets, weights = given[:, 1:], targets[:, 1:], weights[:, 1:]
    slope = cost * scaled.T @ (given - targets) + weights
    from_zero = cost * scaled.T @ (0.5 - targets)
    assert np.abs(slope).max() < 1e-3 * np.abs(from_zero).max()
    assert np.abs((given - targets).sum(axis=0)).max() < 1e-2


def test_a_class_that_no_row_has_is_never_predicted(rows):
    targets = np.zeros([len(rows), 4], bool)
    targets[:30, 1], targets[30:, 3] = True, True
    kernel, bias = fit_logistic(rows, targets, 1.0, multi_label=False)
    assert softmax(rows @ kernel + bias)[:, [0, 2]].max() < 1e-6
    kernel, bias = fit_logistic(rows, targets[:, :2], 1.0, multi_label=True)
    assert sigmoid(rows @ kernel + bias)[:, 0].max() < 1e-6


def test_accuracy_and_that_of_each_class():
    targets = np.eye(4, dtype=bool)[[0, 0, 1, 2]]
    scores = np.array([[9, 1, 0, 0], [1, 2, 0, 0], [0, 3, 1, 0], [5, 0, 1, 0]], np.float32)
    assert quality(scores, targets, multi_label=False) == 0.5
    np.testing.assert_array_equal(
        quality_by_class(scores, targets, multi_label=False), [0.5, 1, 0, np.nan]
    )


def area(scores, has):
    """The area under the curve of the best precision at a recall or a higher one, step by step."""
    ranked = has[np.argsort(-scores)]
    precisions = [ranked[: r + 1].mean() for r in range(len(ranked))]
    return np.mean([max(precisions[r:]) for r in np.flatnonzero(ranked)])


def test_mean_average_precision_is_over_the_classes_that_are_there():
    rng = np.random.default_rng(3)
    targets, scores = rng.random((40, 4)) < 0.3, rng.normal(size=(40, 4))
    targets[:, 2] = False
    expected = [area(scores[:, c], targets[:, c]) for c in (0, 1, 3)]
    found = quality_by_class(scores, targets, multi_label=True)
    np.testing.assert_allclose(np.delete(found, 2), expected)
    assert np.isnan(found[2])
    assert quality(scores, targets, multi_label=True) == pytest.approx(np.mean(expected))


def write_colours(folder, colours, count, seed=0):
    """`count` pictures of each colour, of many shades, in a folder for each."""
    rng = np.random.default_rng(seed)
    for channel, name in enumerate(colours):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 60, (20, 24, 3))
            pixels[..., channel] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def network():
    tf.keras.utils.set_random_seed(0)
    return build_network("smallnet", 16, dim=8)


def test_classes_that_can_be_told_apart_are_by_two_images_of_each(network, tmp_path):
    data = write_colours(tmp_path / "few", ("red", "green", "blue"), 2)
    task = open_task(DataConfig(data=str(data)), seed=0)
    said = []
    readout = fit_readout(network, task, ["conv2", "conv5"], flip=True, seed=0, say=said.append)
    assert [line.split(":")[0] for line in said] == ["conv2", "conv5"] and "2 folds" in said[0]
    assert readout.quality == 1.0 and readout.kernel.shape[1] == 3


def test_the_sample_that_chooses_does_not_limit_what_is_fitted(network, tmp_path, monkeypatch):
    data = write_colours(tmp_path / "more", ("red", "green"), 12)
    task = open_task(DataConfig(data=str(data)), seed=0)
    whole = fit_readout(network, task, ["conv5"], flip=True, seed=0, say=str)
    monkeypatch.setattr("la_tf.classifier.readout.SAMPLE", 12)
    monkeypatch.setattr("la_tf.classifier.readout.COSTS", (whole.cost,))
    said = []
    sampled = fit_readout(network, task, ["conv5"], flip=True, seed=0, say=said.append)
    assert "of 12 images" in said[0]
    np.testing.assert_allclose(sampled.kernel, whole.kernel, atol=1e-5)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Sets that can be used and sets that cannot."""
    folder = tmp_path_factory.mktemp("pictures")
    write_colours(folder / "parts" / "train", ("red", "green"), 3)
    write_colours(folder / "parts" / "val", ("red", "green"), 2, seed=1)
    write_colours(folder / "unknown", ("red", "yellow"), 2)
    write_colours(folder / "one", ("red",), 4)
    write_colours(folder / "lonely", ("red", "green"), 3)
    for i in (1, 2):
        (folder / "lonely" / "green" / f"{i}.png").unlink()
    shutil.copytree(folder / "one" / "red", folder / "flat")
    return folder


@pytest.mark.parametrize(
    "data, options, message",
    [
        ("flat", {}, r"flat has no labels: put the images of each class .* --labels_csv"),
        ("one", {}, r"one has one class, red: add images of what it is to be told from"),
        ("lonely", {}, r"there are 1 training images of .*lonely with the class green: 2 are"),
        ("one", {"val_data": "unknown"}, r"1 of the 2 classes of .*unknown are not classes of"),
        ("parts", {"val_data": "flat"}, r"flat has no labels"),
        ("nowhere", {}, r"nowhere does not exist"),
    ],
)
def test_what_cannot_be_learned_is_one_sentence(pictures, data, options, message):
    options = {name: str(pictures / value) for name, value in options.items()}
    with pytest.raises(DataError, match=message) as caught:
        open_task(DataConfig(data=str(pictures / data), **options), seed=0)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_held_out_images_are_those_of_their_folder_or_as_many_as_asked_for(pictures):
    task = open_task(DataConfig(data=str(pictures / "parts")), seed=0)
    assert (len(task.train.source), len(task.heldout.source)) == (6, 4)
    assert task.class_names == ("green", "red") and not task.multi_label
    np.testing.assert_array_equal(task.heldout.targets.argmax(axis=1), [0, 0, 1, 1])
    config = DataConfig(data=str(pictures / "one"), holdout=1)
    with pytest.raises(DataError, match="one class"):
        open_task(config, seed=0)
    config = dataclasses.replace(config, data=str(pictures / "parts" / "train"))
    task = open_task(config, seed=0)
    assert (len(task.train.source), len(task.heldout.source)) == (5, 1)


def write_csv(folder, lines):
    file = folder / "labels.csv"
    file.write_text("\n".join(["file,classes", *lines]) + "\n")
    return file


def test_a_csv_file_gives_any_number_of_classes(pictures, tmp_path):
    lines = [f"green/{i}.png,leaf;fresh" for i in range(3)]
    lines += ["red/0.png,fresh", "red/1.png,", "red/2.png,"]
    data = DataConfig(data=str(pictures / "parts" / "train"))
    task = open_task(data, 0, write_csv(tmp_path, lines))
    assert task.class_names == ("fresh", "leaf") and task.multi_label
    np.testing.assert_array_equal(task.train.targets.sum(axis=1), [2, 2, 2, 1, 0, 0])
    rare = [*lines[:3], "red/0.png,rare", *lines[4:]]
    with pytest.raises(DataError, match=r"1 training images of .* with the class rare"):
        open_task(data, 0, write_csv(tmp_path, rare))
    with pytest.raises(DataError, match=r"0 training images of .* without the class all"):
        open_task(data, 0, write_csv(tmp_path, [line + ";all" for line in lines]))
    with pytest.raises(DataError, match=r"does not name 1 of the 6 images"):
        open_task(data, 0, write_csv(tmp_path, lines[1:]))
