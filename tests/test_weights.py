"""Plain weights: to a file that NumPy reads, back into a network, and refusals."""

import numpy as np
import pytest
import tensorflow as tf

from la_tf.export.weights import (
    WeightsError,
    checksum,
    load_weights,
    named_tensors,
    network_from_weights,
    save_weights,
)
from la_tf.networks import build_network

DIM = 8


def network_of(seed: int, name: str = "smallnet", dim: int = DIM) -> tf.keras.Model:
    """Every tensor random, statistics too."""
    network, rng = build_network(name, 32, dim), np.random.default_rng(seed)
    network.set_weights([rng.uniform(0.1, 1, v.shape) for v in network.get_weights()])
    return network


@pytest.fixture(scope="module")
def network():
    return network_of(0)


@pytest.fixture(scope="module")
def stored(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.npz"
    save_weights(network, path)
    return path


def test_numpy_reads_every_tensor_under_the_name_of_its_layer(network, stored):
    with np.load(stored, allow_pickle=False) as file:
        arrays = dict(file)
    kernel = network.get_layer("backbone").get_layer("conv3").kernel
    np.testing.assert_array_equal(arrays["backbone/conv3/kernel"], kernel)
    np.testing.assert_array_equal(
        arrays["head/embedding/bias"], network.get_layer("embedding").bias
    )
    statistics = network.get_layer("backbone").get_layer("conv1_bn").moving_variance
    np.testing.assert_array_equal(arrays["backbone/conv1_bn/moving_variance"], statistics)
    assert [str(arrays.pop(f"metadata/{n}")) for n in ("network", "image_size", "dim")] == [
        "smallnet",
        "32",
        "8",
    ]
    assert sum(array.size for array in arrays.values()) == network.count_params()
    assert {array.dtype for array in arrays.values()} == {np.dtype("float32")}


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "vgg16"])
def test_the_file_alone_makes_the_network(name, tmp_path):
    network = network_of(1, name)
    save_weights(network, tmp_path / "w.npz")
    made = network_from_weights(tmp_path / "w.npz")
    assert made.name == name
    assert len(named_tensors(network)) == len(network.weights)  # no two under one name
    for before, after in zip(network.get_weights(), made.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_two_files_of_one_network_are_the_same_to_the_byte(network, stored, tmp_path):
    save_weights(network, tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == stored.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.npz"]


def test_the_checksum_is_of_the_values_and_nothing_else(network, stored):
    assert checksum(network_from_weights(stored)) == checksum(network)
    values = network.get_weights()
    values[-1][0] = np.nextafter(values[-1][0], 2, dtype=np.float32)
    other = network_of(0)
    other.set_weights(values)
    assert checksum(other) != checksum(network)


def spoiled(stored, tmp_path, **changes):
    with np.load(stored) as file:
        arrays = dict(file)
    for name, value in changes.items():
        if value is None:
            del arrays[name]
        else:
            arrays[name] = value
    np.savez(tmp_path / "spoiled.npz", **arrays)
    return tmp_path / "spoiled.npz"


BIAS = "head/embedding/bias"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({BIAS: None}, f"it lacks {BIAS}"),
        ({"head/fc9/kernel": np.zeros(3)}, "it has the unknown head/fc9/kernel"),
        ({BIAS: np.zeros(9, "f4")}, rf"{BIAS} is float32 \[9\] and not float32 \[8\]"),
        ({BIAS: np.zeros(DIM)}, rf"{BIAS} is float64 \[8\] and not float32 \[8\]"),
        ({BIAS: np.array(["x"] * DIM)}, rf"{BIAS} is str\d* \[8\] and not"),
        ({BIAS: None, "head/b": np.zeros(1)}, f"it lacks {BIAS}; it has the unknown head/b"),
    ],
)
def test_every_tensor_is_accounted_for_before_any_is_assigned(stored, tmp_path, changes, said):
    target = network_of(5)
    before = target.get_weights()
    with pytest.raises(WeightsError, match=said) as caught:
        load_weights(target, spoiled(stored, tmp_path, **changes))
    assert "\n" not in str(caught.value) and "smallnet at 32 pixels" in str(caught.value)
    for a, b in zip(before, target.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("name", "side", "dim"), [("smallnet", 64, 8), ("vgg16", 32, 8)])
def test_weights_of_another_network_or_image_size_are_refused(stored, name, side, dim):
    target = build_network(name, side, dim)  # smallnet's tensors have the same shapes at any size
    before = target.get_weights()
    said = f"of smallnet at 32 pixels with 8 dimensions, and the network is {name} at {side} pixels"
    with pytest.raises(WeightsError, match=said):
        load_weights(target, stored)
    for a, b in zip(before, target.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_tensors_of_another_network_are_named_briefly(stored, tmp_path):
    said = r"it lacks .* and 72 more; it has the unknown .* and 22 more"
    mislabelled = spoiled(stored, tmp_path, **{"metadata/network": np.array("vgg16")})
    with pytest.raises(WeightsError, match=said) as caught:
        load_weights(build_network("vgg16", 32, DIM), mislabelled)
    assert len(str(caught.value)) < 1000


def test_a_file_that_does_not_say_what_it_is_of_is_refused(stored, tmp_path):
    without = spoiled(stored, tmp_path, **{"metadata/dim": None})
    with pytest.raises(WeightsError, match="lacks metadata/dim"):
        network_from_weights(without)
    for name, value in (("network", "mobilenet"), ("image_size", np.zeros(2)), ("dim", "many")):
        wrong = spoiled(stored, tmp_path, **{f"metadata/{name}": np.array(value)})
        with pytest.raises(WeightsError, match="describes no network"):
            network_from_weights(wrong)


def a_lone_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def pickled(path):
    with path.open("wb") as file:
        np.savez(file, weights=np.array([{}], object))


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-1000])


def damaged(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize(
    "spoil",
    [
        a_lone_array,
        pickled,
        cut_off,
        damaged,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("no weights"),
        lambda path: path.unlink(),
    ],
)
def test_a_file_of_something_else_is_refused_in_one_sentence(stored, tmp_path, spoil):
    path = tmp_path / "weights.npz"
    path.write_bytes(stored.read_bytes())
    spoil(path)
    with pytest.raises(WeightsError, match="cannot be read as weights") as caught:
        network_from_weights(path)
    assert "\n" not in str(caught.value)
