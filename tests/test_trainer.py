"""Whole runs in this process, and every input that must be refused in one sentence."""

import contextlib
import dataclasses
import io
import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from la_tf.config import Config, ConfigError
from la_tf.data.base import DataError
from la_tf.data.digits import DigitsSource
from la_tf.errors import RunError
from la_tf.runs.health import TrainingDiverged
from la_tf.runs.log import read_log
from la_tf.trainer import train


def recipe(run_dir: pathlib.Path, **options) -> Config:
    """A run of a second or two, with some options replaced."""
    tiny = {
        "image_size": 16,
        "network": "smallnet",
        "batch_size": 16,
        "epochs": 2,
        "ir_epochs": 1,
        "k": 8,
        "num_clusters": 4,
        "log_every_steps": 1,
        # Determinism is set for a whole process, which here holds other tests too.
        "deterministic": False,
        "run_dir": str(run_dir),
        **options,
    }
    config = Config()
    for section in dataclasses.fields(Config):
        part = getattr(config, section.name)
        mine = {k: tiny.pop(k) for k in list(tiny) if hasattr(part, k)}
        config = dataclasses.replace(config, **{section.name: dataclasses.replace(part, **mine)})
    assert not tiny, f"unknown options {tiny}"
    return config


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of 40 unlabelled pictures: JPEG and PNG, colour and grey, several shapes."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(40):
        shape = [(20, 30), (40, 17, 3), (64, 64, 3)][i % 3]
        image = Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8))
        image.save(folder / f"{i:02}.{'png' if i % 2 else 'jpg'}")
    return folder


@pytest.fixture(scope="module")
def unlabelled_run(tmp_path_factory, pictures):
    said = []
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    return train(recipe(run_dir, data=str(pictures), deterministic=True), said.append), said


@pytest.fixture(scope="module")
def bank_run(tmp_path_factory, pictures):
    """A run that clusters the bank and saves at each of its four steps; and what it said."""
    said = []
    config = recipe(
        tmp_path_factory.mktemp("bank") / "run",
        data=str(pictures),
        cluster_input="bank",
        cluster_every_steps=1,
        ir_epochs=0,
        checkpoint_every_steps=1,
        keep_checkpoints=2,
    )
    return config, train(config, said.append), said


@pytest.fixture(scope="module")
def crops_run(tmp_path_factory, pictures):
    """A run that clusters centre crops, with the official momentum; and what it printed."""
    config = recipe(
        tmp_path_factory.mktemp("crops") / "run",
        data=str(pictures),
        cluster_input="center_crops",
        cluster_every_steps=1,
        ir_epochs=0,
        bn_momentum=0.997,
    )
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        return train(config), printed.getvalue()


@pytest.mark.slow
def test_a_folder_of_unlabelled_pictures_trains(unlabelled_run):
    result, said = unlabelled_run
    assert result.rows == []
    assert any("without kNN" in sentence for sentence in said)
    records = read_log(result.run_dir / "metrics.jsonl")
    assert {r["kind"] for r in records} == {
        *("train", "clustering", "neighbors", "density", "exported"),
    }
    assert not any("close_purity" in r for r in records)  # nobody knows their classes
    assert [r["step"] for r in records if r["kind"] == "train"] == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_run_directory_is_the_record(unlabelled_run):
    result, _ = unlabelled_run
    names = {path.name for path in result.run_dir.iterdir()}
    assert names == {
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "timing.jsonl",
        "tensorboard",
        "checkpoints",
        "figures",
        "export",
        "lock",
    }
    tensorboard = result.run_dir / "tensorboard" / result.run_dir.name
    events = list(tensorboard.glob("events*"))
    tags = {
        value.tag
        for event in tf.compat.v1.train.summary_iterator(str(events[0]))
        for value in event.summary.value
    }
    scalars = {"train/loss", "clustering/inertia", "throughput/images_per_second"}
    assert scalars | {"density/local", "density/background", "augmented_views"} <= tags
    projector = {path.name for path in tensorboard.glob("*.tsv")}
    assert projector == {"projector_metadata.tsv", "bank_end_of_IR.tsv", "bank_end_of_LA.tsv"}


def similarities(folder: pathlib.Path, pictures: pathlib.Path) -> np.ndarray:
    """Of all pairs of pictures, by an export that is loaded as its users load it."""
    embed = tf.saved_model.load(str(folder)).signatures["serving_default"]
    encoded = [path.read_bytes() for path in sorted(pictures.iterdir())]
    rows = embed(image_bytes=tf.constant(encoded))["embedding"].numpy()
    return (rows @ rows.T)[np.triu_indices(len(rows), 1)]


@pytest.mark.slow
def test_a_run_of_four_steps_exports_what_tells_pictures_apart(unlabelled_run, pictures):
    result, said = unlabelled_run
    records = read_log(result.run_dir / "metrics.jsonl")
    *_, logged = (r["similarity"] for r in records if r["kind"] == "exported")
    found = similarities(result.saved_model, pictures)
    assert logged == pytest.approx(found.mean(), abs=1e-4)
    assert found.mean() < 0.9 and not any("nearly constant" in sentence for sentence in said)


@pytest.mark.slow
def test_nearly_constant_embeddings_are_said_on_the_console_and_on_the_card(crops_run, pictures):
    """As with the official momentum, by which four steps leave the initial statistics."""
    result, printed = crops_run
    warning = "the embeddings of the exported network are nearly constant"
    assert similarities(result.saved_model, pictures).mean() > 0.9
    assert warning in printed
    assert warning in (result.run_dir / "export" / "README.md").read_text()


@pytest.mark.slow
def test_the_exported_model_embeds_pictures_of_any_kind_and_size(unlabelled_run, pictures):
    result, _ = unlabelled_run
    signature = tf.saved_model.load(str(result.saved_model)).signatures["serving_default"]
    encoded = [path.read_bytes() for path in sorted(pictures.iterdir())[:6]]
    together = signature(image_bytes=tf.constant(encoded))["embedding"].numpy()
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)
    for row, one in zip(together, encoded, strict=True):
        alone = signature(image_bytes=tf.constant([one]))["embedding"].numpy()
        np.testing.assert_allclose(alone[0], row, atol=1e-5)
    # Neither the bank (40 rows here) nor the optimizer travels along.
    variables = tf.train.list_variables(str(result.saved_model / "variables" / "variables"))
    assert not any(40 in shape for _, shape in variables)


@pytest.mark.slow
def test_only_so_many_checkpoints_are_kept(bank_run):
    _, result, _ = bank_run
    kept = sorted(path.name for path in (result.run_dir / "checkpoints").glob("*.index"))
    assert kept == ["ckpt-3.index", "ckpt-4.index"]


@pytest.mark.slow
def test_a_run_that_goes_on_elsewhere_says_that_bits_may_differ(tmp_path, bank_run, monkeypatch):
    config, result, first = bank_run
    shutil.copytree(result.run_dir, tmp_path / "run")
    here = dataclasses.replace(config.run, run_dir=str(tmp_path / "run"))
    config = dataclasses.replace(config, run=here)

    class BeginsToTrain(Exception):
        """Nothing more is to be said."""

    def fit(self, step):
        raise BeginsToTrain

    def told() -> list[str]:
        """What a start says of machines that goes on before the last step."""
        said = []
        with pytest.raises(BeginsToTrain):
            train(config, said.append)
        assert any("after step 3 of 4" in sentence for sentence in said)
        return [sentence for sentence in said if "bits may differ" in sentence]

    assert not any("bits may differ" in sentence for sentence in first)
    for file in (tmp_path / "run" / "checkpoints").glob("ckpt-4.*"):
        file.unlink()
    monkeypatch.setattr("la_tf.trainer._Run._fit", fit)
    file = tmp_path / "run" / "environment.json"
    assert told() == []
    starts = json.loads(file.read_text())
    assert starts[0] == starts[1] and starts[0]["cpu_instructions"]
    starts[1] |= {"cpu": "Some Processor", "cpu_cores": 1000}
    file.write_text(json.dumps(starts))
    (sentence,) = told()
    assert f"processor Some Processor, now {starts[0]['cpu']}; cores 1000, now" in sentence
    assert "\n" not in sentence
    assert told() == []  # of a machine that it has been told of
    old = {name: value for name, value in starts[0].items() if not name.startswith("cpu_")}
    file.write_text(json.dumps([old]))
    assert told() == []


@pytest.mark.slow
def test_a_loss_that_breaks_stops_the_run_and_leaves_no_broken_checkpoint(tmp_path, pictures):
    config = recipe(
        tmp_path,
        data=str(pictures),
        learning_rate=1e30,
        epochs=20,
        ir_epochs=20,
        checkpoint_every_steps=1,
    )
    with pytest.raises(TrainingDiverged, match="between step"):
        train(config, lambda _: None)
    newest = tf.train.latest_checkpoint(str(tmp_path / "checkpoints"))
    reader = tf.train.load_checkpoint(newest)
    names = [name for name in reader.get_variable_to_shape_map() if "network" in name]
    assert names
    for name in names:
        assert np.isfinite(reader.get_tensor(name)).all(), name


@pytest.mark.slow
def test_clusters_are_made_of_what_was_asked_for(bank_run, crops_run):
    """A fresh network maps all pictures to nearly one point; the random bank is spread out."""
    inertia = {}
    for name, result in (("bank", bank_run[1]), ("center_crops", crops_run[0])):
        rounds = [
            r for r in read_log(result.run_dir / "metrics.jsonl") if r["kind"] == "clustering"
        ]
        assert [r["step"] for r in rounds] == [0, 1, 2, 3]
        assert [r["round"] for r in rounds] == [0, 1, 2, 3]
        inertia[name] = rounds[0]["inertia"]
    # 36 of 40 random unit vectors are nearly orthogonal to their cluster's others.
    assert inertia["bank"] > 20 > 5 > inertia["center_crops"]


def refused(config, error, words):
    with pytest.raises(error, match=words) as caught:
        train(config, lambda _: None)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_refused(tmp_path):
    refused(recipe(tmp_path / "run", data=str(tmp_path / "none")), DataError, "none")
    assert not (tmp_path / "run").exists()


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    refused(recipe(tmp_path / "run", data=str(tmp_path / "data")), DataError, "no images")
    assert not (tmp_path / "run").exists()


def test_fewer_images_than_a_batch_are_refused(tmp_path, pictures):
    config = recipe(tmp_path / "run", data=str(pictures), batch_size=64)
    refused(config, ConfigError, "40 training images are fewer than one batch of 64")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_file_that_is_no_image_is_named_or_skipped_if_asked(tmp_path):
    digits, data = DigitsSource(), tmp_path / "data"
    data.mkdir()
    for i in range(32):
        (data / f"{i:02}.png").write_bytes(digits.read(i))
    (data / "99.png").write_text("not an image")
    refused(recipe(tmp_path / "run", data=str(data)), DataError, r"99\.png")
    assert not (tmp_path / "run").exists()
    said = []
    train(recipe(tmp_path / "run", data=str(data), skip_bad_images=True), said.append)
    assert any("99.png" in sentence for sentence in said)
    assert said[1].startswith("32 training images") or said[2].startswith("32 training images")


@pytest.mark.slow
def test_an_image_that_goes_bad_during_training_is_named(tmp_path):
    digits, data = DigitsSource(), tmp_path / "data"
    data.mkdir()
    for i in range(32):
        (data / f"{i:02}.png").write_bytes(digits.read(i))

    def spoil(sentence):  # after the check, before the first step
        if sentence.startswith("32 training images"):
            (data / "07.png").write_text("gone")

    with pytest.raises(DataError, match=r"training stopped at step 0|training stopped at step 1"):
        train(recipe(tmp_path / "run", data=str(data)), spoil)


@pytest.mark.parametrize(
    "options,error,words",
    [
        ({"data": "tfds:no_such_dataset"}, DataError, "no_such_dataset"),
        ({"image_size": 8}, ConfigError, "too small for smallnet"),
        ({"num_devices": 3, "batch_size": 16}, ConfigError, "evenly over 3"),
        ({"num_devices": 2, "jit_compile": True, "sync_bn": True}, ConfigError, "exclude each"),
        ({"num_devices": 2, "block_size": 5}, ConfigError, "--block_size=5 does not divide"),
        ({"strategy": "multi_worker_mirrored"}, ConfigError, "needs --worker_hosts"),
        ({"seed": -1}, ConfigError, "--seed=-1"),
        ({"num_devices": -1}, ConfigError, "--num_devices=-1"),
        ({"num_clusters": 5000}, ConfigError, "--num_clusters=5000"),
        ({"k": 5000}, ConfigError, "--k=5000 is more than the"),
        ({"image_size": 4096}, RunError, "of feature maps of 16 images.* lower --batch_size"),
        ({"network": "alexnet", "image_size": 4096}, RunError, "an embedding head from .* x 256"),
        ({"plateau_patience": 3, "data": "PICTURES"}, ConfigError, "--plateau_patience needs"),
    ],
)
def test_what_cannot_be_trained_is_refused(tmp_path, pictures, options, error, words):
    options = {k: str(pictures) if v == "PICTURES" else v for k, v in options.items()}
    refused(recipe(tmp_path / "run", **options), error, words)


def test_supervised_training_without_labels_is_refused(tmp_path, pictures):
    config = recipe(tmp_path / "run", data=str(pictures), method="supervised")
    refused(config, ConfigError, "--method=supervised needs labels")
    assert not (tmp_path / "run").exists()


def test_a_run_directory_that_cannot_be_written_is_refused(tmp_path, pictures):
    (tmp_path / "file").write_text("kept")
    config = recipe(tmp_path / "file" / "run", data=str(pictures))
    refused(config, RunError, "cannot be written")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.slow
def test_the_network_learns_nothing_from_labels(tmp_path, unlabelled_run, pictures):
    """The same pictures with and without class folders give the same weights."""
    for i, path in enumerate(sorted(pictures.iterdir())):
        target = tmp_path / "classes" / "ab"[i >= 20] / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    config = recipe(tmp_path / "run", data=str(tmp_path / "classes"), deterministic=True)
    results = [unlabelled_run[0], train(config, lambda _: None)]
    banks = [
        tf.train.load_checkpoint(str(result.run_dir / "checkpoints")).get_tensor(
            "model/bank/vectors/.ATTRIBUTES/VARIABLE_VALUE"
        )
        for result in results
    ]
    np.testing.assert_array_equal(*banks)
