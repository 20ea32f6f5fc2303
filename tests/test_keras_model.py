"""A trained network as a plain Keras model: equal to the export, trainable, loaded anywhere."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT

from la_tf.building import with_preprocessing
from la_tf.data.augment import normalize
from la_tf.networks import NETWORKS, build_network, readouts
from la_tf.runs.trained_run import open_run

LOADER = """
import sys
import numpy as np, tensorflow as tf
images = np.load("images.npy")
for name in sys.argv[1:]:
    model = tf.keras.models.load_model(f"{name}.keras")
    np.save(f"{name}.npy", model.predict(images, verbose=0))
"""


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def run(trained_run):
    return open_run(str(trained_run))


@pytest.mark.slow
def test_it_gives_what_the_export_gives(run, trained_run, images):
    signatures = tf.saved_model.load(str(trained_run / "export" / "1")).signatures
    fractions = images + np.float32(0.25) * (images < 255)
    for given in (images, fractions):
        expected = signatures["images"](images=tf.cast(given, tf.float32))["embedding"]
        np.testing.assert_allclose(run.keras_model()(given), expected, atol=1e-5)
    encoded = tf.stack([tf.io.encode_png(image) for image in images])
    features = signatures["features"](image_bytes=encoded)
    for level in ("conv1", "conv3", "conv5"):
        got = tf.reduce_mean(run.keras_model(level)(images), axis=[1, 2])
        np.testing.assert_allclose(got, features[level], atol=1e-4, rtol=1e-5)


@pytest.mark.slow
def test_a_process_without_this_library_loads_it(run, images, tmp_path):
    """But for a ResNet, whose blocks are TF Model Garden's and must be known."""
    resnet = with_preprocessing(build_network("resnet18", 16, dim=8))
    models = {"smallnet": run.keras_model(), "conv3": run.keras_model("conv3"), "resnet": resnet}
    np.save(tmp_path / "images.npy", images)
    # None: whoever imports it gets an ImportError.
    for beginning, names in (
        ("import sys; sys.modules['la_tf'] = None", ("smallnet", "conv3")),
        ("import la_tf.networks", ("resnet",)),
    ):
        for name in names:
            models[name].save(tmp_path / f"{name}.keras")
        command = [sys.executable, "-c", beginning + LOADER, *names]
        place = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(ROOT)}}
        subprocess.run(command, check=True, **place)
    for name, model in models.items():
        got = np.load(tmp_path / f"{name}.npy")
        # `predict` fuses what a call does one by one: sums are rounded otherwise.
        np.testing.assert_allclose(got, model(images), atol=1e-4 if name == "conv3" else 1e-5)


@pytest.mark.slow
def test_training_it_changes_all_of_its_weights_and_none_of_the_run(run, images):
    model, before = run.keras_model(), run.network.get_weights()
    start = [w.numpy() for w in model.trainable_weights]
    assert len(start) == len(run.network.trainable_weights)
    head = tf.keras.Sequential([model, tf.keras.layers.Dense(2)])
    head.compile("sgd", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    head.fit(images, np.arange(5) % 2, batch_size=3, epochs=1, verbose=0)  # two steps
    # A bias below a normalisation of rows has a gradient, too: none is left out.
    assert all((a != b.numpy()).any() for a, b in zip(start, model.trainable_weights, strict=True))
    for a, b in zip(before, run.network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_and_level_is_the_network_on_normalised_images(name):
    network = build_network(name, 32, dim=8)
    rng = np.random.default_rng(1)
    network.set_weights([rng.uniform(0.1, 0.2, w.shape) for w in network.get_weights()])
    images = rng.integers(0, 256, (2, 32, 32, 3))
    views = normalize(tf.constant(images))
    expected = tf.keras.Model(network.input, readouts(network) | {"embedding": network.output})
    for level, value in expected(views).items():
        model = with_preprocessing(network, level)
        np.testing.assert_allclose(model(images), value, rtol=1e-4, atol=1e-5)
        assert model.input_shape == (None, 32, 32, 3)
    with pytest.raises(ValueError, match="no level 'conv6': choose one of embedding, conv1"):
        with_preprocessing(network, "conv6")
