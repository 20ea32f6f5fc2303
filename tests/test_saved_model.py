"""The exported network, loaded where nothing of this project exists, against the trained one."""

import io
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import numpy as np
import pytest
import tensorflow as tf
from imitation import needs_bfloat16
from PIL import Image

from la_tf.data.augment import center_view
from la_tf.data.pipeline import eval_dataset
from la_tf.data.sources import open_source
from la_tf.embedding.embedder import Embedder
from la_tf.export.saved_model import (
    ExportError,
    _traced,
    export_saved_model,
    read_signatures,
)
from la_tf.networks import build_network, readouts

SIDES = (32, 80)  # views that show the whole short side, and views that cut a margin off
DIM = 8

# With TensorFlow alone: embeds the files of a folder in the order of their names with every export
# that is named, together, one by one, and in a batch of 32.
FOREIGN = """
import sys
sys.path.append(sys.argv[1])  # -S leaves out site-packages, and what -e has put there
import importlib.util
for module in ("la_tf", "detection", "conftest"):
    assert importlib.util.find_spec(module) is None, module
import pathlib
import numpy as np
import tensorflow as tf
encoded = [path.read_bytes() for path in sorted(pathlib.Path(sys.argv[2]).iterdir())]
found = {}
for folder in sys.argv[3:]:
    signature = tf.saved_model.load(folder).signatures["serving_default"]
    def embed(images):
        outputs = signature(image_bytes=tf.constant(images))
        assert list(outputs) == ["embedding"]
        return outputs["embedding"].numpy()
    name = pathlib.Path(folder).parent.name
    found[name + " together"] = embed(encoded)
    found[name + " alone"] = np.concatenate([embed([one]) for one in encoded])
    found[name + " of 32"] = embed((encoded * 32)[:32])
np.savez("embeddings.npz", **found)
for module in ("la_tf", "official", "tensorflow_addons", "faiss", "sklearn"):
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


def embed_with_saved_model(folder: pathlib.Path, images: list[bytes]) -> np.ndarray:
    loaded = tf.saved_model.load(str(folder))
    return loaded.signatures["serving_default"](image_bytes=tf.constant(images))[
        "embedding"
    ].numpy()


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


def made_pictures(folder: pathlib.Path, request: pytest.FixtureRequest) -> None:
    for number, image in enumerate(encoded_images()):
        kind = "jpg" if image.startswith(b"\xff\xd8") else "png"
        (folder / f"{number:02}.{kind}").write_bytes(image)


def photographs(folder: pathlib.Path, request: pytest.FixtureRequest) -> None:
    """JPEG files as they come, and some of them in grey and cut to odd sizes."""
    voc = request.getfixturevalue("sample_data") / "VOCdevkit" / "VOC2007" / "JPEGImages"
    for number, path in enumerate(sorted(voc.iterdir())[:24]):
        shutil.copy(path, folder / path.name)
        if number % 3 == 0:
            with Image.open(path) as photograph:
                grey = photograph.convert("L").crop((0, 0, 101 + 13 * number, 77 + 7 * number))
            grey.save(folder / f"grey_{path.name}", quality=90)


@pytest.fixture(scope="module", params=[made_pictures, photographs])
def foreign(request, exports, tmp_path_factory):
    """(source, arrays): what a fresh process with TensorFlow alone makes of pictures."""
    pictures, empty = (tmp_path_factory.mktemp(name) for name in ("pictures", "empty"))
    request.param(pictures, request)
    site_packages = sysconfig.get_paths()["purelib"]
    folders = [str(exports[0] / str(side) / "1") for side in SIDES]
    process = subprocess.run(
        [sys.executable, "-I", "-S", "-c", FOREIGN, site_packages, str(pictures), *folders],
        cwd=empty,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return open_source(str(pictures)), np.load(empty / "embeddings.npz")


@pytest.mark.parametrize("side", SIDES)
def test_a_process_without_this_project_gets_the_evaluation_s_embeddings(exports, foreign, side):
    source, found = foreign
    expected = Embedder(exports[1][side])(eval_dataset(source, image_size=side))
    # All different: had they been alike, equality would say nothing.
    distances = np.linalg.norm(expected[:, np.newaxis] - expected, axis=2)
    assert distances[~np.eye(len(source), dtype=bool)].min() > 1e-3
    np.testing.assert_allclose(found[f"{side} together"], expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("side", SIDES)
def test_an_embedding_does_not_depend_on_the_rest_of_the_batch(foreign, side):
    _, found = foreign
    alone = found[f"{side} alone"]
    np.testing.assert_allclose(found[f"{side} together"], alone, atol=1e-5)
    repeated = np.concatenate([alone] * 5)[:32]
    np.testing.assert_allclose(found[f"{side} of 32"], repeated, atol=1e-5)


@pytest.fixture(scope="module", params=SIDES)
def loaded(request, exports):
    """(loaded SavedModel, network, side)."""
    side = request.param
    return tf.saved_model.load(str(exports[0] / str(side) / "1")), exports[1][side], side


def test_images_takes_colours_from_0_to_255_and_normalises_them(loaded):
    model, network, side = loaded
    pictures = np.random.default_rng(0).integers(0, 256, (5, side, side, 3)).astype(np.float32)
    views = (pictures / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    found = model.signatures["images"](images=tf.constant(pictures))
    assert list(found) == ["embedding"]
    np.testing.assert_allclose(found["embedding"], network(views, training=False), atol=1e-5)


def test_features_are_the_means_of_the_readouts_maps_beside_the_embedding(loaded, exports):
    model, network, side = loaded
    images = exports[2]
    views = tf.stack([center_view(image, side) for image in images])
    maps = tf.keras.Model(network.input, readouts(network))(views, training=False)
    found = model.signatures["features"](image_bytes=tf.constant(images))
    assert set(found) == {"embedding", "conv1", "conv2", "conv3", "conv4", "conv5"}
    for name, tensor in maps.items():
        np.testing.assert_allclose(found[name], tensor.numpy().mean((1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["embedding"], in_process(network, side, images), atol=1e-5)


def operations(signature) -> list[str]:
    """Types of all operations of a signature, those in functions that it calls included."""
    graph = signature.graph.as_graph_def()
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    return [node.op for node in nodes]


def test_only_what_takes_bytes_decodes_and_the_backbone_runs_once_in_every_signature(loaded):
    model, network, _ = loaded
    convolutions = sum(layer.name.endswith("_bn") for layer in network.get_layer("backbone").layers)
    assert convolutions == 5
    for name, decodes in (("serving_default", True), ("images", False), ("features", True)):
        found = operations(model.signatures[name])
        assert any(op.startswith("Decode") for op in found) == decodes, name
        assert found.count("Conv2D") == convolutions, name


def test_the_signatures_can_be_read_without_loading(exports):
    assert read_signatures(exports[0] / "80" / "1")["images"] == {
        "inputs": {"images": "float32 [B, 80, 80, 3]"},
        "outputs": {"embedding": f"float32 [B, {DIM}]"},
    }
    features = read_signatures(exports[0] / "32" / "1")["features"]
    assert features["inputs"] == {"image_bytes": "string [B]"}
    assert features["outputs"]["conv5"] == "float32 [B, 256]"
    with pytest.raises(ExportError, match="is no SavedModel"):
        read_signatures(exports[0])


@needs_bfloat16
def test_the_bfloat16_network_of_a_run_is_exported_in_float32(exports, tmp_path):
    _, networks, images = exports
    _traced.cache_clear()  # it shall be made under this policy
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        half = build_network("smallnet", 32, DIM)
        half.set_weights(networks[32].get_weights())
        saved = export_saved_model(half, "smallnet", 32, tmp_path, images[0])
        assert tf.keras.mixed_precision.global_policy().name == "mixed_bfloat16"
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    expected = in_process(networks[32], 32, images)
    assert np.abs(in_process(half, 32, images) - expected).max() > 1e-4  # so the next line tells
    np.testing.assert_allclose(embed_with_saved_model(saved, images), expected, atol=1e-5)


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


@pytest.mark.parametrize("name", ["[x]", "a*"])
def test_a_folder_that_tensorflow_takes_for_a_pattern_is_refused(exports, tmp_path, name):
    network = exports[1][SIDES[0]]
    with pytest.raises(ExportError, match="pattern of names: name another folder"):
        export_saved_model(network, "smallnet", SIDES[0], tmp_path / name, encoded_images()[0])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [b"text", b"\xff" * 50])
def test_a_damaged_fingerprint_is_no_traceback(exports, tmp_path, caplog, damage):
    """TensorFlow itself goes on without it: nothing that the model does depends on it."""
    folder = shutil.copytree(exports[0] / str(SIDES[0]) / "1", tmp_path / "1")
    (folder / "fingerprint.pb").write_bytes(damage)
    tf.saved_model.load(str(folder))
    (record,) = [record for record in caplog.records if "fingerprint" in record.message.lower()]
    assert record.exc_info is None and "loading will continue" in record.message


@pytest.fixture
def earlier_export(exports, tmp_path):
    """A folder of its own with a copy of the first export, and its embeddings of the images."""
    folder, networks, images = exports
    shutil.copytree(folder / str(SIDES[0]), tmp_path / "export")
    return tmp_path / "export", in_process(networks[SIDES[0]], SIDES[0], images)


def test_a_later_export_takes_the_place_of_the_earlier_one(exports, earlier_export):
    folder, before = earlier_export
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
