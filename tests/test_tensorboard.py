"""What TensorBoard is given, read back as TensorBoard reads it, against the run that it shows."""

import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import types
import urllib.parse
import urllib.request

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from la_tf.callbacks import clustering_rounds
from la_tf.callbacks.checkpointing import Interrupted
from la_tf.callbacks.projector import Projector
from la_tf.config import (
    AugmentConfig,
    ClusteringConfig,
    Config,
    DataConfig,
    NetworkConfig,
    NumericsConfig,
    ObjectiveConfig,
    RunConfig,
    ScheduleConfig,
)
from la_tf.data.augment import augment_view, center_view, view_seed
from la_tf.data.base import sample_rows
from la_tf.data.digits import digits_parts
from la_tf.data.folder import FolderSource
from la_tf.runs.log import read_log
from la_tf.trainer import train

pytestmark = pytest.mark.slow

SEED = 5
SIDE, ENLARGED, GAP = 16, 6, 2  # a view, how often the sheet repeats its pixels, and the gap
STEPS = [0, 11, 22, 33]  # ends of epochs: two of IR, one of LA
THUMBNAIL = 48
DEVIATION, MEAN = np.array([0.229, 0.224, 0.225]), np.array([0.485, 0.456, 0.406])


@pytest.fixture(scope="module")
def digits():
    return digits_parts()[0]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run that was stopped in its third epoch, and went on."""
    path = tmp_path_factory.mktemp("tensorboard") / "run"
    config = Config(
        data=DataConfig(data="digits", image_size=SIDE),
        network=NetworkConfig(network="smallnet"),
        objective=ObjectiveConfig(k=64),
        clustering=ClusteringConfig(num_clusters=40),
        schedule=ScheduleConfig(epochs=3, ir_epochs=2, seed=SEED),
        # Determinism is set for a whole process, which here holds other tests too.
        numerics=NumericsConfig(deterministic=False),
        run=RunConfig(run_dir=str(path), checkpoint_every_steps=11, keep_checkpoints=9),
    )
    run_clusterings = clustering_rounds.run_clusterings

    def stop(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return run_clusterings(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clustering_rounds, "run_clusterings", stop)
        with pytest.raises(Interrupted, match="after step 23"):
            train(config, lambda _: None)
    train(config, lambda _: None)
    return path


def summaries(directory: pathlib.Path, tag: str) -> dict[int, np.ndarray]:
    """Step -> value of a summary, over all event files; no step may have two."""
    found = {}
    for path in sorted(directory.glob("events*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.tag == tag:
                    assert event.step not in found, f"{tag} twice at step {event.step}"
                    found[event.step] = tf.make_ndarray(value.tensor)
    return found


def bank_at(run_dir: pathlib.Path, step: int) -> np.ndarray:
    reader = tf.train.load_checkpoint(str(run_dir / "checkpoints" / f"ckpt-{step}"))
    return reader.get_tensor("model/bank/vectors/.ATTRIBUTES/VARIABLE_VALUE")


def image_of(encoded: bytes) -> Image.Image:
    return Image.open(io.BytesIO(encoded)).convert("RGB")


def pixels_of(view: tf.Tensor) -> np.ndarray:
    """A view as the network sees it, [S, S, 3], back in 0..255."""
    return (view.numpy().astype(np.float64) * DEVIATION + MEAN) * 255


# The sheet of augmented views


def cell(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    pitch = SIDE * ENLARGED + GAP
    inside = sheet[row * pitch : (row + 1) * pitch, column * pitch : (column + 1) * pitch]
    assert (inside[-GAP:] == 255).all() and (inside[:, -GAP:] == 255).all()
    enlarged = inside[:-GAP, :-GAP]
    small = enlarged[::ENLARGED, ::ENLARGED]
    np.testing.assert_array_equal(enlarged, np.kron(small, np.ones((ENLARGED, ENLARGED, 1))))
    return small.astype(np.float64)


def test_the_sheet_shows_centre_views_and_the_views_of_the_first_epochs(run_dir, digits):
    shown = summaries(run_dir / "tensorboard" / "run", "augmented_views")
    assert list(shown) == [0]  # once, although the run was started twice
    width, height, encoded = shown[0]
    sheet = np.asarray(image_of(encoded))
    assert sheet.shape == (6 * 98, 8 * 98, 3) == (int(height), int(width), 3)
    for row, index in enumerate(sample_rows(digits.num_examples, 6, SEED)):
        encoded = tf.constant(digits.read(int(index)))
        expected = pixels_of(center_view(encoded, SIDE))
        np.testing.assert_allclose(cell(sheet, row, 0), expected, atol=0.51)
        for epoch in range(7):
            seeds = view_seed(SEED, tf.constant(epoch), tf.constant(int(index)))
            expected = pixels_of(augment_view(encoded, seeds, SIDE, AugmentConfig()))
            np.testing.assert_allclose(cell(sheet, row, epoch + 1), expected, atol=0.51)


def test_the_figure_is_the_sheet(run_dir):
    (summary,) = summaries(run_dir / "tensorboard" / "run", "augmented_views").values()
    figure = image_of((run_dir / "figures" / "augmented_views.png").read_bytes())
    np.testing.assert_array_equal(np.asarray(figure), np.asarray(image_of(summary[2])))


# Densities


@pytest.fixture(scope="module")
def expected_densities(run_dir, digits):
    """name -> step -> densities of the sampled rows in the bank of that checkpoint."""
    rows = sample_rows(digits.num_examples, 1000, SEED)
    ranks = {"local": (1, 30), "background": (88, 359)}  # 359 = 1436 // 4; 88 : 359 as 1000 : 4096
    found = {name: {} for name in ranks}
    for step in STEPS:
        bank = bank_at(run_dir, step).astype(np.float64)
        similarity = bank[rows] @ bank.T
        similarity[np.arange(len(rows)), rows] = -np.inf
        similarity = -np.sort(-similarity, axis=1)
        for name, (first, last) in ranks.items():
            found[name][step] = similarity[:, first - 1 : last].mean(axis=1)
    return found


def test_histograms_are_of_the_densities_in_the_bank_at_the_end_of_an_epoch(
    run_dir, expected_densities
):
    for name, of_steps in expected_densities.items():
        shown = summaries(run_dir / "tensorboard" / "run", f"density/{name}")
        assert list(shown) == STEPS
        for step, buckets in shown.items():
            density = of_steps[step]
            left, right, counts = buckets.T
            np.testing.assert_allclose(
                [left[0], right[-1]], [density.min(), density.max()], rtol=1e-6
            )
            np.testing.assert_allclose(left[1:], right[:-1])
            assert counts.sum() == 1000
            # How many lie below each inner edge, but for those that rounding puts on it.
            below, surely = (
                np.sum(density[:, np.newaxis] < right[:-1] + shift, axis=0)
                for shift in (1e-6, -1e-6)
            )
            inside = np.cumsum(counts)[:-1]
            assert (surely <= inside).all() and (inside <= below).all()
            assert (below - surely).max() < 100  # so that the line before says something


def test_the_log_keeps_the_densities_at_the_end_of_the_warm_start(run_dir, expected_densities):
    (record,) = (r for r in read_log(run_dir / "metrics.jsonl") if r["kind"] == "density")
    assert (record["step"], record["epoch"]) == (22, 2)
    for name, of_steps in expected_densities.items():
        expected = np.quantile(of_steps[22], np.linspace(0, 1, 201))
        np.testing.assert_allclose(record["quantiles"][name], expected, atol=1e-5)


# The projector


def read_metadata(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


def assert_points_are_the_banks(tensor, metadata, sprite, bank, digits):
    rows = sample_rows(digits.num_examples, 1000, SEED)
    np.testing.assert_array_equal(tensor, bank[rows])
    header, *points = metadata
    assert header == ["class", "index", "name"]
    assert [int(index) for _, index, _ in points] == list(rows)
    assert [int(name) for name, _, _ in points] == list(digits.labels[rows])
    assert [name for _, _, name in points] == [digits.describe(i) for i in rows]
    assert sprite.size == (32 * THUMBNAIL, 32 * THUMBNAIL)
    for place in (0, 1, 31, 32, 500, 999):
        left, top = THUMBNAIL * (place % 32), THUMBNAIL * (place // 32)
        thumbnail = sprite.crop((left, top, left + THUMBNAIL, top + THUMBNAIL))
        image = image_of(digits.read(int(rows[place])))
        expected = image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
        difference = np.asarray(thumbnail, float) - np.asarray(expected, float)
        assert np.abs(difference).max() <= 2


@pytest.fixture(scope="module")
def server(run_dir):
    """A TensorBoard on the run: a function path -> bytes."""
    command = [sys.executable, "-m", "tensorboard.main", "--host=127.0.0.1", "--port=0"]
    process = subprocess.Popen(
        [*command, f"--logdir={run_dir / 'tensorboard'}", "--load_fast=false"],
        stderr=subprocess.PIPE,
        text=True,
    )
    addresses = (re.search(r"http://127\.0\.0\.1:\d+/", line) for line in process.stderr)
    address = next(found.group() for found in addresses if found)

    def get(path: str, **query: str) -> bytes:
        query = "?" + urllib.parse.urlencode(query) if query else ""
        with urllib.request.urlopen(address + "data/plugin/" + path + query, timeout=60) as reply:
            return reply.read()

    yield get
    process.terminate()
    process.communicate()


@pytest.mark.parametrize("name,step", [("bank_end_of_IR", 22), ("bank_end_of_LA", 33)])
def test_tensorboard_serves_the_bank_with_classes_and_thumbnails(
    server, run_dir, digits, name, step
):
    (run,) = json.loads(server("projector/runs"))
    described = json.loads(server("projector/info", run=run))["embeddings"]
    assert {e["tensorName"]: e["tensorShape"] for e in described} == {
        "bank_end_of_IR": [1000, 128],
        "bank_end_of_LA": [1000, 128],
    }
    assert all(e["sprite"]["singleImageDim"] == [THUMBNAIL, THUMBNAIL] for e in described)
    point = {"run": run, "name": name}
    tensor = np.frombuffer(server("projector/tensor", **point), np.float32).reshape(1000, 128)
    metadata = read_metadata(server("projector/metadata", **point).decode())
    sprite = image_of(server("projector/sprite_image", **point))
    assert_points_are_the_banks(tensor, metadata, sprite, bank_at(run_dir, step), digits)


def test_tensorboard_serves_the_sheet(server, run_dir):
    ((run, tags),) = json.loads(server("images/tags")).items()
    assert run == run_dir.name  # not "tensorboard"
    assert set(tags) == {"augmented_views"}
    assert "A row is a training image" in tags["augmented_views"]["description"]
    query = {"run": run, "tag": "augmented_views", "sample": "0"}
    (shown,) = json.loads(server("images/images", **query))
    assert shown["step"] == 0
    image = server("images/individualImage?" + shown["query"])
    figure = image_of((run_dir / "figures" / "augmented_views.png").read_bytes())
    np.testing.assert_array_equal(np.asarray(image_of(image)), np.asarray(figure))


def test_points_without_classes_have_an_index_and_a_name_of_one_line(tmp_path):
    (tmp_path / "data").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (5, 20, 30, 3), np.uint8)
    names = ["a.png", "b\tc.png", "d\ne.png", "f.png", "g.png"]
    for name, image in zip(names, noise, strict=True):
        Image.fromarray(image).save(tmp_path / "data" / name)
    points = Projector(
        tmp_path,
        FolderSource(str(tmp_path / "data")),
        seed=0,
        steps_per_epoch=4,
        last_epoch=9,
    )
    points.before_training()
    metadata = read_metadata((tmp_path / "projector_metadata.tsv").read_text())
    shown = [f"{tmp_path}/data/{name}" for name in ("a.png", "b c.png", "d e.png", "f.png")]
    assert metadata[0] == ["index", "name"]
    assert metadata[1:5] == [[str(i), name] for i, name in enumerate(shown)]
    sprite = np.asarray(Image.open(tmp_path / "projector_sprite.png"))
    assert sprite.shape == (3 * THUMBNAIL, 3 * THUMBNAIL, 3)
    assert sprite[THUMBNAIL : 2 * THUMBNAIL, : 2 * THUMBNAIL].any()
    assert not sprite[THUMBNAIL:, 2 * THUMBNAIL :].any() and not sprite[2 * THUMBNAIL :].any()


def test_a_resumed_run_replaces_thumbnails_that_were_removed(tmp_path, digits):
    points = Projector(tmp_path, digits, seed=0, steps_per_epoch=4, last_epoch=9)
    optimizer = types.SimpleNamespace(iterations=tf.Variable(20))
    points.set_model(types.SimpleNamespace(optimizer=optimizer))
    sprite, metadata = tmp_path / "projector_sprite.png", tmp_path / "projector_metadata.tsv"
    points.before_training()
    kept = sprite.read_bytes()
    for gone in (sprite, metadata):
        gone.unlink()
        points.on_train_begin()
        assert sprite.read_bytes() == kept and metadata.exists()
    sprite.write_bytes(b"kept")
    points.on_train_begin()
    assert sprite.read_bytes() == b"kept" and points.step == 20


def test_points_are_written_at_the_ends_of_both_phases_and_at_no_other(tmp_path, digits, unit_rows):
    options = {"seed": 0, "steps_per_epoch": 4, "last_epoch": 9}
    points = Projector(tmp_path, digits, **options)
    bank = types.SimpleNamespace(vectors=tf.Variable(unit_rows(digits.num_examples, 3)))
    points.set_model(
        types.SimpleNamespace(bank=bank, warm_start_steps=8, method="local_aggregation")
    )
    written = {}
    for epoch in range(9):
        points.step = 4 * (epoch + 1)
        points.on_epoch_end(epoch)
        written[epoch] = sorted(path.name for path in tmp_path.glob("bank*"))
    assert written[0] == [] and written[1] == written[7] == ["bank_end_of_IR.tsv"]
    assert written[8] == ["bank_end_of_IR.tsv", "bank_end_of_LA.tsv"]
