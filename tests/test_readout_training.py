"""Training of readouts: what it reaches, what it leaves alone, and a kill on the way."""

import pathlib
import shutil
import signal

import numpy as np
import psutil
import pytest
import tensorflow as tf

from la_tf.config import OptimizerConfig
from la_tf.data.crops import ten_crop_views
from la_tf.data.folder import FolderSource
from la_tf.data.pipeline import step_indices
from la_tf.errors import RunError
from la_tf.evaluation.linear import ReadoutConfig, Readouts, layer_features, train_step
from la_tf.evaluation.readout_training import ReadoutTraining
from la_tf.networks import build_network

CONFIG = ReadoutConfig(
    OptimizerConfig(learning_rate=0.003, drop_epochs=(4,)), epochs=6, batch_size=8, seed=3
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """30 pictures in three colours and as many shades; no two classes share a hue."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for label, name in enumerate(("blue", "green", "red")):
        (folder / name).mkdir()
        for i in range(10):
            pixels = rng.integers(0, 60, (20, 24, 3))
            pixels[..., 2 - label] += 150
            encoded = tf.io.encode_png(pixels.astype(np.uint8)).numpy()
            (folder / name / f"{i}.png").write_bytes(encoded)
    return FolderSource(str(folder))


@pytest.fixture(scope="module")
def network():
    tf.keras.utils.set_random_seed(0)
    return build_network("smallnet", 16, dim=8)


def train(features, source, folder, config=CONFIG, **options):
    training = ReadoutTraining(features, source, config, folder, say=lambda line: None, **options)
    training.run()
    return training


def weights(training):
    return [weight.numpy() for weight in training.readouts.weights]


@pytest.fixture(scope="module")
def uninterrupted(network, pictures, tmp_path_factory):
    before = [w.copy() for w in network.get_weights()]
    training = train(layer_features(network), pictures, tmp_path_factory.mktemp("u") / "readouts")
    return training, before


def test_every_readout_of_separable_images_reaches_all(uninterrupted, pictures):
    training, _ = uninterrupted
    accuracy = training.finish(pictures)
    assert accuracy == {f"conv{i}": 1.0 for i in range(1, 6)}


def test_the_network_stays_as_it_was_to_the_bit(uninterrupted, network):
    training, before = uninterrupted
    assert all(np.abs(w).max() > 0 for w in weights(training))
    assert len(before) == 5 * 5 + 2  # kernels, and four of each batch norm; the head
    for a, b in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_area_crops_train_other_readouts(network, pictures, tmp_path, uninterrupted):
    config = ReadoutConfig(CONFIG.optimizer, epochs=6, batch_size=8, seed=3, crop="area")
    training = train(layer_features(network), pictures, tmp_path / "r", config)
    assert training.finish(pictures)["conv5"] == 1.0
    assert not np.array_equal(weights(training)[0], weights(uninterrupted[0])[0])


class Stopped(Exception):
    pass


def test_a_stopped_training_goes_on_to_the_same_bits(network, pictures, tmp_path, uninterrupted):
    def stop(line):
        if line.startswith("epoch 2"):
            raise Stopped

    features = layer_features(network)
    options = {"say": stop, "save_seconds": 0.0}
    with pytest.raises(Stopped):
        ReadoutTraining(features, pictures, CONFIG, tmp_path / "r", **options).run()
    training = ReadoutTraining(features, pictures, CONFIG, tmp_path / "r", say=lambda line: None)
    assert training.step == 5  # of 3 an epoch; the 6th was made, and not saved
    training.run()
    for a, b in zip(weights(training), weights(uninterrupted[0]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_unfinished_readouts_that_are_damaged_are_named(network, pictures, tmp_path, uninterrupted):
    folder = tmp_path / "readouts"
    shutil.copytree(uninterrupted[0].folder, folder)
    features, quiet = layer_features(network), {"say": lambda line: None}
    (folder / "checkpoint").write_bytes(b"\0 garbage")  # the readouts themselves are whole
    assert ReadoutTraining(features, pictures, CONFIG, folder, **quiet).step == 18
    for file in folder.glob("ckpt-18.*"):
        whole = file.read_bytes()
        for content in (b"", whole[: len(whole) // 2], bytes(len(whole))):
            file.write_bytes(content)
            with pytest.raises(RunError, match=f"readouts in {folder} cannot be read .*: remove"):
                ReadoutTraining(features, pictures, CONFIG, folder, **quiet)
        file.write_bytes(whole)


SCRIPT = """
from la_tf import quiet; quiet.quiet()
import os, pathlib, signal, sys
sys.path.insert(0, os.getcwd())
import tensorflow as tf
from la_tf.runs import runtime
from la_tf.config import RunConfig
from tests.test_readout_training import *
pictures, folder, devices, kill_at = sys.argv[1:]
def say(line):
    if line.startswith(f"epoch {kill_at}"):
        os.kill(os.getpid(), signal.SIGKILL)
with runtime.make_strategy(RunConfig(num_devices=int(devices))).scope():
    tf.keras.utils.set_random_seed(0)
    features = layer_features(build_network("smallnet", 16, dim=8))
    training = ReadoutTraining(features, FolderSource(pictures), CONFIG, pathlib.Path(folder),
                               say=say, save_seconds=0.0)
    training.run()
"""


@pytest.fixture
def run_script(program_server, tmp_path):
    def run(pictures, folder, devices, kill_at):
        script = tmp_path / "script.py"
        script.write_text(SCRIPT)
        root = pathlib.Path(__file__).parent.parent
        program = program_server.start(script, pictures.name, folder, devices, kill_at, cwd=root)
        _, stderr = program.communicate()
        print(stderr)
        return program.returncode

    return run


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_what_a_killed_process_leaves_another_finishes(
    network, pictures, tmp_path, uninterrupted, run_script, devices
):
    """With two replicas, too, the readouts are those that one device trains in one go."""
    assert run_script(pictures, tmp_path / "r", devices, kill_at=3) == -signal.SIGKILL
    training = ReadoutTraining(layer_features(network), pictures, CONFIG, tmp_path / "r", say=str)
    assert training.step == 8
    training.run()
    for a, b in zip(weights(training), weights(uninterrupted[0]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_loss_that_is_not_finite_stops_and_leaves_nothing_behind(network, pictures, tmp_path):
    config = ReadoutConfig(OptimizerConfig(learning_rate=1e30), epochs=2, batch_size=8)
    with pytest.raises(RunError, match="lower --learning_rate"):
        train(layer_features(network), pictures, tmp_path / "r", config, save_seconds=0.0)
    assert not (tmp_path / "r").exists()


def test_cached_features_are_those_of_the_centre_crops(network, pictures, tmp_path):
    """Against the steps written out, on features computed here."""
    config = ReadoutConfig(CONFIG.optimizer, epochs=6, batch_size=8, seed=3, crop="center")
    features = layer_features(network)
    training = train(features, pictures, tmp_path / "r", config)
    views = tf.stack([ten_crop_views(pictures.read(i), 16)[0] for i in range(30)])
    rows = {name: values.numpy() for name, values in features(views).items()}
    expected = Readouts(features, 3)
    optimizer = tf.keras.optimizers.SGD(0.003, momentum=0.9)
    optimizer.build(expected.weights)
    for step in range(6 * 3):
        if step == 12:
            optimizer.learning_rate = 0.0003
        indices = step_indices(30, 8, 3, step)
        batch = {name: values[indices] for name, values in rows.items()}
        train_step(expected, optimizer, 1e-4, 8, batch, pictures.labels[indices])
    for a, b in zip(weights(training), expected.weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_features_that_do_not_fit_are_refused(network, pictures, tmp_path, monkeypatch):
    free = psutil.virtual_memory()._replace(available=1 << 20)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    config = ReadoutConfig(epochs=1, batch_size=8, crop="center")
    with pytest.raises(RunError, match="leave out --cache_features"):
        train(layer_features(network), pictures, tmp_path / "r", config)
