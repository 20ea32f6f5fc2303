"""The exported network, loaded where nothing of this project exists, against the trained one."""

import io
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from la_tf.data.augment import center_view
from la_tf.export import ExportError, embed_with_saved_model, export_saved_model
from la_tf.networks import build_network

SIDES = (32, 80)  # views that show the whole short side, and views that cut a margin off
DIM = 8

# Embeds images.npz with every export that is named: together, one by one, and in a batch of 32.
FOREIGN = """
import sys
sys.modules["la_tf"] = None  # as on a machine without this project
try:
    import la_tf
    sys.exit("la_tf could be imported")
except ImportError:
    pass
import numpy as np
import tensorflow as tf
encoded = [bytes(row) for row in np.load("images.npz", allow_pickle=True)["encoded"]]
found = {}
for folder in sys.argv[1:]:
    signature = tf.saved_model.load(folder).signatures["serving_default"]
    def embed(images):
        outputs = signature(image_bytes=tf.constant(images))
        assert list(outputs) == ["embedding"]
        return outputs["embedding"].numpy()
    found[folder + " together"] = embed(encoded)
    found[folder + " alone"] = np.concatenate([embed([one]) for one in encoded])
    found[folder + " of 32"] = embed((encoded * 32)[:32])
np.savez("embeddings.npz", **found)
for module in ("official", "tensorflow_addons", "faiss", "sklearn"):
    assert module not in sys.modules, module
"""


def trained_network(side: int, seed: int = 0) -> tf.keras.Model:
    """smallnet with statistics and scales as different from the initial ones as after training."""
    tf.keras.utils.set_random_seed(seed)
    network, rng = build_network("smallnet", side, DIM), np.random.default_rng(seed)
    for variable in network.variables:
        if variable.shape.rank == 1:
            variable.assign(rng.uniform(0.2, 0.6, variable.shape))
    return network


def encoded_images() -> list[bytes]:
    """JPEG and PNG, in colour, grey and with transparency, smaller and larger than the views."""
    rng, images = np.random.default_rng(0), []
    for kind, *shape in [
        ("JPEG", 100, 100, 3),
        ("PNG", 100, 100, 3),
        ("JPEG", 41, 150),
        ("PNG", 333, 90),
        ("PNG", 5, 7, 3),
        ("JPEG", 300, 401, 3),
        ("PNG", 64, 64, 4),
    ]:
        coarse = Image.fromarray(rng.integers(0, 255, (6, 6, *shape[2:]), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((shape[1], shape[0])).save(buffer, kind)
        images.append(buffer.getvalue())
    return images


def in_process(network: tf.keras.Model, side: int, images: list[bytes]) -> np.ndarray:
    views = [center_view(one, side)[tf.newaxis] for one in images]
    return np.concatenate([network(view, training=False).numpy() for view in views])


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """(folder, {side: network}, images): each network exported to folder/side."""
    folder, images = tmp_path_factory.mktemp("exports"), encoded_images()
    networks = {side: trained_network(side) for side in SIDES}
    for side, network in networks.items():
        saved = export_saved_model(network, "smallnet", side, folder / str(side), images[0])
        assert saved == folder / str(side) / "1"
    return folder, networks, images


@pytest.fixture(scope="module")
def foreign(exports):
    """What a fresh process with TensorFlow alone makes of the images."""
    folder, _, images = exports
    np.savez(folder / "images.npz", encoded=np.array([np.frombuffer(i, "u1") for i in images], "O"))
    process = subprocess.run(
        [sys.executable, "-I", "-c", FOREIGN, *(f"{side}/1" for side in SIDES)],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return np.load(folder / "embeddings.npz")


@pytest.mark.parametrize("side", SIDES)
def test_a_process_without_this_project_gets_the_network_s_embeddings(exports, foreign, side):
    _, networks, images = exports
    expected = in_process(networks[side], side, images)
    # Seven different embeddings: had they been alike, equality would say nothing.
    distances = np.linalg.norm(expected[:, np.newaxis] - expected, axis=2)
    assert distances[~np.eye(len(images), dtype=bool)].min() > 1e-3
    np.testing.assert_allclose(foreign[f"{side}/1 together"], expected, atol=1e-5)


@pytest.mark.parametrize("side", SIDES)
def test_an_embedding_does_not_depend_on_the_rest_of_the_batch(foreign, side):
    alone = foreign[f"{side}/1 alone"]
    np.testing.assert_allclose(foreign[f"{side}/1 together"], alone, atol=1e-5)
    repeated = np.concatenate([alone] * 5)[:32]
    np.testing.assert_allclose(foreign[f"{side}/1 of 32"], repeated, atol=1e-5)


def test_an_export_is_one_folder_in_the_layout_of_tensorflow_serving(exports):
    folder = exports[0] / str(SIDES[0])
    assert [path.name for path in folder.iterdir()] == ["1"]
    assert {"saved_model.pb", "variables"} <= {path.name for path in (folder / "1").iterdir()}


def test_an_export_holds_the_network_s_weights_and_little_else(exports):
    folder, networks, _ = exports
    weights = sum(v.numpy().nbytes for v in networks[SIDES[0]].variables)
    stored = [p.stat().st_size for p in (folder / str(SIDES[0])).rglob("*") if p.is_file()]
    # The graph and the names of the variables are the rest.
    assert weights < sum(stored) < weights + (1 << 20)
    data = folder / str(SIDES[0]) / "1" / "variables" / "variables.data-00000-of-00001"
    assert data.stat().st_size == pytest.approx(weights, rel=0.02)


@pytest.fixture
def earlier_export(exports, tmp_path):
    """A folder of its own with a copy of the first export, and its embeddings of the images."""
    folder, networks, images = exports
    shutil.copytree(folder / str(SIDES[0]), tmp_path / "export")
    return tmp_path / "export", in_process(networks[SIDES[0]], SIDES[0], images)


def test_a_later_export_takes_the_place_of_the_earlier_one(exports, earlier_export):
    folder, before = earlier_export
    (folder / ".1.partial").mkdir()  # what a kill in the middle of an export leaves
    (folder / ".1.partial" / "saved_model.pb").write_text("half")
    images, network = exports[2], trained_network(SIDES[0], seed=1)
    saved = export_saved_model(network, "smallnet", SIDES[0], folder, images[0])
    assert [path.name for path in folder.iterdir()] == ["1"]
    got = embed_with_saved_model(saved, images)
    np.testing.assert_allclose(got, in_process(network, SIDES[0], images), atol=1e-5)
    assert np.abs(got - before).max() > 0.1


def mirrored(network: tf.keras.Model) -> tf.keras.Model:
    """The same weights in the same order, another function: what smallnet cannot stand for."""
    return tf.keras.Model(network.input, -network.output)


def broken(network: tf.keras.Model) -> tf.keras.Model:
    """A weight that is not a number, so that no embedding equals another."""
    layer = network.get_layer("embedding")
    layer.bias.assign(np.full(DIM, np.nan))
    return network


@pytest.mark.parametrize("spoil", [mirrored, broken])
def test_an_export_that_differs_from_the_network_is_refused_and_the_old_one_stays(
    exports, earlier_export, spoil
):
    folder, probe = earlier_export[0], exports[2][0]
    before = {p: p.read_bytes() for p in (folder / "1").rglob("*") if p.is_file()}
    network = spoil(trained_network(SIDES[0]))
    with pytest.raises(ExportError, match="differs from the trained one") as caught:
        export_saved_model(network, "smallnet", SIDES[0], folder, probe)
    assert {p: p.read_bytes() for p in (folder / "1").rglob("*") if p.is_file()} == before
    # What was refused is where the message says.
    assert "\n" not in str(caught.value)
    refused = pathlib.Path(str(caught.value).split("left in ")[1].removesuffix("."))
    assert (refused / "saved_model.pb").exists()


def test_a_network_of_several_replicas_is_exported_as_one(tmp_path):
    images = encoded_images()
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        network = trained_network(32)
    saved = export_saved_model(network, "smallnet", 32, tmp_path, images[0])
    expected = in_process(trained_network(32), 32, images)
    np.testing.assert_allclose(embed_with_saved_model(saved, images), expected, atol=1e-5)
