"""Networks of tf.keras.applications and TF Model Garden in the form of ours."""

import inspect

import numpy as np
import pytest
import tensorflow as tf
from imitation import needs_bfloat16
from official.vision.configs import backbones as garden_configs
from official.vision.configs.common import NormActivation
from official.vision.modeling.backbones import efficientnet, mobiledet, mobilenet, resnet
from test_resume import assert_same_run

from la_tf import networks
from la_tf.architectures import FOREIGN
from la_tf.banked_model import decayed_weights
from la_tf.export.weights import load_weights, named_tensors, network_from_weights, save_weights
from la_tf.networks.foreign import ForeignBackbone

KERAS = "keras:MobileNet,alpha=0.25"
GARDEN = "garden:resnet,model_id=10,depth_multiplier=0.25"  # built in a second each
SIDE = 32


def images(batch, side=SIDE, seed=0):
    shape = (batch, side, side, 3)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def in_its_own_library(name):
    """The same network without us."""
    if name == KERAS:
        return tf.keras.applications.MobileNet(
            (SIDE, SIDE, 3), alpha=0.25, include_top=False, weights=None
        )
    specs = tf.keras.layers.InputSpec(shape=[None, SIDE, SIDE, 3])
    return resnet.ResNet(10, specs, depth_multiplier=0.25)


@pytest.fixture(scope="module", params=[KERAS, GARDEN])
def network(request):
    tf.keras.utils.set_random_seed(7)
    return networks.build_network(request.param, SIDE, dim=16)


@pytest.fixture(scope="module")
def of_library(network):
    return in_its_own_library(networks.architecture_of(network))


# --- names ---------------------------------------------------------------------------------------


def test_every_name_and_parameter_is_in_its_library():
    for name, parameters in FOREIGN["keras"].items():
        function = getattr(tf.keras.applications, name)
        assert set(parameters) <= set(inspect.signature(function).parameters), name
    for name, parameters in FOREIGN["garden"].items():
        known = vars(getattr(garden_configs.Backbone(), name)) | vars(NormActivation())
        assert set(parameters) <= set(known), name


def test_every_depth_and_size_is_in_model_garden():
    for name, known in (
        ("mobilenet", mobilenet.SUPPORTED_SPECS_MAP),
        ("mobiledet", mobiledet.SUPPORTED_SPECS_MAP),
        ("efficientnet", efficientnet.SCALING_MAP),
        ("resnet", resnet.RESNET_SPECS),
    ):
        assert set(FOREIGN["garden"][name]["model_id"]) == set(known)


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("keras:MobilNet", 32, "network keras:MobilNet is no network of tf.keras.applications"),
        (KERAS, 31, "31 pixels are too small for keras:MobileNet.* at least 32"),
        ("keras:InceptionV3", 74, "74 pixels are too small for keras:InceptionV3.* at least 75"),
    ],
)
def test_what_cannot_be_built(name, size, words):
    with pytest.raises(ValueError, match=words):
        networks.build_network(name, size)


# --- the same network as in its library ----------------------------------------------------------


def test_weights_are_those_of_the_library(network, of_library):
    backbone = network.get_layer("backbone")
    assert [w.shape for w in backbone.weights] == [w.shape for w in of_library.weights]
    channels = backbone.output[max(backbone.output, key=int)].shape[-1]
    assert network.count_params() == of_library.count_params() + channels * 16 + 16


def test_the_coarsest_map_is_the_library_s_output(network, of_library):
    backbone = network.get_layer("backbone")
    of_library.set_weights(backbone.get_weights())
    theirs = of_library(images(2))
    theirs = theirs[max(theirs, key=int)] if isinstance(theirs, dict) else theirs
    ours = backbone(images(2))["5"]
    scale = np.abs(theirs).max()  # small, before any batch statistics are known
    np.testing.assert_allclose(ours / scale, theirs / scale, atol=1e-4)


def test_levels_halve_and_readouts_are_the_five_coarsest(network):
    backbone = network.get_layer("backbone")
    sides = {level: shape[1] for level, shape in backbone.output_specs.items()}
    assert sides == {"1": 16, "2": 8, "3": 4, "4": 2, "5": 1}
    readouts = networks.readouts(network)
    assert list(readouts) == ["conv1", "conv2", "conv3", "conv4", "conv5"]
    assert [r.shape for r in readouts.values()] == list(backbone.output_specs.values())


@pytest.mark.parametrize(
    "name", ["keras:ConvNeXtTiny", "garden:mobilenet,model_id=MobileNetV3Small"]
)
def test_networks_of_another_form(name):
    """A stem of stride 4, which is conv1; and layers behind global pooling, without a readout."""
    backbone = networks.build_backbone(name, 64)
    shapes = [backbone.get_layer(layer).output.shape for layer in backbone.readout_layers.values()]
    sides = {level: shape[1:] for level, shape in backbone.output_specs.items()}
    if "ConvNeXt" in name:
        assert [s[1] for s in shapes] == [16, 16, 8, 4, 2]
        assert {k: s[0] for k, s in sides.items()} == {"2": 16, "3": 8, "4": 4, "5": 2}
    else:
        assert [s[1] for s in shapes] == [32, 16, 8, 4, 2]
        assert sides["6"] == [1, 1, 1024] and sides["5"] == [2, 2, 576]


# --- what is changed in it -----------------------------------------------------------------------


def test_batch_norm_gets_our_momentum_and_synchronises():
    network = networks.build_network(KERAS, SIDE, sync_bn=True, bn_momentum=0.9)
    norms = [m for m in network.submodules if isinstance(m, tf.keras.layers.BatchNormalization)]
    assert {(n.momentum, n.synchronized) for n in norms} == {(0.9, True)}
    norm = norms[0]
    before = norm.moving_mean.numpy()
    outputs = norm(tf.ones([1, 1, 1, len(before)]), training=True)
    np.testing.assert_allclose(norm.moving_mean, 0.9 * before + 0.1, rtol=1e-6)
    np.testing.assert_allclose(outputs, tf.zeros_like(outputs), atol=1e-3)


def test_pixels_come_as_they_are_and_no_path_is_dropped():
    backbone = networks.build_backbone("keras:EfficientNetB0", SIDE)
    blocks = [f"block{block}_expand_activation" for block in ("2a", "3a", "4a", "6a")]
    assert list(backbone.readout_layers.values()) == [*blocks, "top_activation"]
    stem = tf.keras.Model(backbone.input, backbone.get_layer("stem_conv").input)
    pad = tf.keras.layers.ZeroPadding2D(((0, 1), (0, 1)))
    np.testing.assert_array_equal(stem(images(2)), pad(images(2)))
    assert {w.dtype for w in backbone.weights} == {tf.float32}  # none of a layer that normalises
    assert [m for m in backbone.submodules if isinstance(m, tf.keras.layers.Dropout)]
    first, second = (backbone(images(4), training=True) for _ in range(2))
    np.testing.assert_array_equal(first["5"], second["5"])


def test_weight_decay_leaves_depthwise_kernels_out():
    x = inputs = tf.keras.Input((8, 8, 3))
    for layer in (tf.keras.layers.SeparableConv2D(4, 3), tf.keras.layers.DepthwiseConv2D(3)):
        x = layer(x)
    names = {weight.name.split("/")[1] for weight in decayed_weights(tf.keras.Model(inputs, x))}
    assert names == {"pointwise_kernel:0"}


@needs_bfloat16
def test_mixed_precision_leaves_weights_and_embeddings_float32():
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        network = networks.build_network(KERAS, SIDE)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert network.get_layer("backbone")(images(1))["5"].dtype == tf.bfloat16
    assert {w.dtype for w in network.weights} == {tf.float32}
    assert network(images(1)).dtype == tf.float32


# --- stored --------------------------------------------------------------------------------------


def test_whole_network_saves_and_loads(network, tmp_path):
    network.save(tmp_path / "network.keras")
    loaded = tf.keras.models.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(loaded(images(2)), network(images(2)))
    backbone = loaded.get_layer("backbone")
    assert backbone.get_config() == network.get_layer("backbone").get_config()
    assert isinstance(backbone, ForeignBackbone)


def test_weights_are_named_the_same_however_much_keras_has_counted(network, tmp_path):
    names = list(named_tensors(network))
    assert len(set(names)) == len(names)
    save_weights(network, tmp_path / "weights.npz")
    again = network_from_weights(tmp_path / "weights.npz")
    np.testing.assert_array_equal(again(images(2)), network(images(2)))
    assert list(named_tensors(again)) == names


def test_weights_of_another_network_are_refused_by_its_name(network, tmp_path):
    save_weights(networks.build_network("smallnet", SIDE), tmp_path / "weights.npz")
    name = networks.architecture_of(network)
    with pytest.raises(ValueError, match=f"the network is {name} at 32 pixels"):
        load_weights(network, tmp_path / "weights.npz")


# --- whole runs ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_run_goes_on_exactly_and_is_evaluated(
    tmp_path, run_tool, tiny_run, cut_back, newest_checkpoint
):
    flags = [*tiny_run, "--image_size=32", f"--network={KERAS}", "--epochs=2", "--ir_epochs=1"]
    flags += ["--limit=384", "--batch_size=128", "--checkpoint_every_steps=2"]
    straight = tmp_path / "straight"
    code, _, stderr = run_tool("train", *flags, f"--run_dir={straight}")
    assert (code, stderr) == (0, "")
    killed = cut_back(straight, 4, tmp_path / "killed")
    code, stdout, stderr = run_tool("train", *flags, f"--run_dir={killed}")
    assert code == 0 and "after step 4 of 6" in stdout, stderr
    assert_same_run(killed, straight, newest_checkpoint)
    flags = ("--protocol=linear", "--epochs=1", f"--run_dir={killed}")
    code, stdout, stderr = run_tool("evaluate", *flags)
    assert code == 0 and "conv5" in stdout, stderr
