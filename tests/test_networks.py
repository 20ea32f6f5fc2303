import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf
from imitation import needs_bfloat16

from la_tf import networks
from la_tf.config import NetworkConfig
from la_tf.errors import RunError
from la_tf.networks.alexnet import AlexNet
from la_tf.networks.resnet import ResNet
from la_tf.networks.smallnet import SmallNet
from la_tf.networks.vgg import VGG16

ROOT = pathlib.Path(__file__).parent.parent
NAMES = networks.NETWORKS
DIM = 128

# (kernel side, channels in, channels out) of every convolution.
ALEXNET = [(11, 3, 64), (5, 64, 192), (3, 192, 384), (3, 384, 384), (3, 384, 256)]
VGG16_D = [
    *((3, 3, 64), (3, 64, 64)),
    *((3, 64, 128), (3, 128, 128)),
    *((3, 128, 256), (3, 256, 256), (3, 256, 256)),
    *((3, 256, 512), (3, 512, 512), (3, 512, 512)),
    *((3, 512, 512), (3, 512, 512), (3, 512, 512)),
]
SMALLNET = [(3, 3, 32), (3, 32, 64), (3, 64, 128), (3, 128, 128), (3, 128, 256)]


def resnet18_convs(stem):
    convs, channels = [stem], 64
    for width in (64, 128, 256, 512):
        convs += [(3, channels, width), (3, width, width), (1, channels, width)]  # and shortcut
        convs += [(3, width, width), (3, width, width)]
        channels = width
    return convs


def resnet50_convs(stem):
    convs, channels = [stem], 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        convs.append((1, channels, 4 * width))  # shortcut of the first block
        for _ in range(blocks):
            convs += [(1, channels, width), (3, width, width), (1, width, 4 * width)]
            channels = 4 * width
    return convs


@dataclasses.dataclass(frozen=True)
class Expected:
    convs: list  # (side, in, out)
    fcs: list  # (in, out), the embedding layer not included
    features: int  # channels into the embedding layer
    levels: dict  # level -> (side, channels)
    readouts: list  # (side, channels) of conv1 to conv5


EXPECTED = {
    ("alexnet", 224): Expected(
        ALEXNET,
        [(5 * 5 * 256, 4096), (4096, 4096)],
        4096,
        {"2": (54, 64), "3": (26, 192), "4": (12, 256), "5": (5, 256)},
        [(54, 64), (26, 192), (12, 384), (12, 384), (12, 256)],
    ),
    ("vgg16", 224): Expected(
        VGG16_D,
        [(7 * 7 * 512, 4096), (4096, 4096)],
        4096,
        {"0": (224, 64), "1": (112, 128), "2": (56, 256), "3": (28, 512), "4": (14, 512)}
        | {"5": (7, 512)},
        [(224, 64), (112, 128), (56, 256), (28, 512), (14, 512)],
    ),
    ("resnet18", 224): Expected(
        resnet18_convs((7, 3, 64)),
        [],
        512,
        {"2": (56, 64), "3": (28, 128), "4": (14, 256), "5": (7, 512)},
        [(56, 64), (56, 64), (28, 128), (14, 256), (7, 512)],
    ),
    ("resnet50", 224): Expected(
        resnet50_convs((7, 3, 64)),
        [],
        2048,
        {"2": (56, 256), "3": (28, 512), "4": (14, 1024), "5": (7, 2048)},
        [(56, 64), (56, 256), (28, 512), (14, 1024), (7, 2048)],
    ),
    ("smallnet", 224): Expected(
        SMALLNET,
        [],
        256,
        {"0": (224, 32), "1": (112, 64), "2": (56, 128), "3": (28, 256)},
        [(224, 32), (112, 64), (56, 128), (56, 128), (28, 256)],
    ),
    ("alexnet", 32): Expected(
        [(5, 3, 64), *ALEXNET[1:]],
        [(4 * 4 * 256, 1024), (1024, 1024)],
        1024,
        {"0": (32, 64), "1": (16, 192), "2": (8, 256), "3": (4, 256)},
        [(32, 64), (16, 192), (8, 384), (8, 384), (8, 256)],
    ),
    ("vgg16", 32): Expected(
        VGG16_D,
        [(512, 512), (512, 512)],
        512,
        {"0": (32, 64), "1": (16, 128), "2": (8, 256), "3": (4, 512), "4": (2, 512)}
        | {"5": (1, 512)},
        [(32, 64), (16, 128), (8, 256), (4, 512), (2, 512)],
    ),
    ("resnet18", 32): Expected(
        resnet18_convs((3, 3, 64)),
        [],
        512,
        {"2": (32, 64), "3": (16, 128), "4": (8, 256), "5": (4, 512)},
        [(32, 64), (32, 64), (16, 128), (8, 256), (4, 512)],
    ),
    ("resnet50", 32): Expected(
        resnet50_convs((3, 3, 64)),
        [],
        2048,
        {"2": (32, 256), "3": (16, 512), "4": (8, 1024), "5": (4, 2048)},
        [(32, 64), (32, 256), (16, 512), (8, 1024), (4, 2048)],
    ),
    ("smallnet", 32): Expected(
        SMALLNET,
        [],
        256,
        {"0": (32, 32), "1": (16, 64), "2": (8, 128), "3": (4, 256)},
        [(32, 32), (16, 64), (8, 128), (8, 128), (4, 256)],
    ),
}


@pytest.fixture(scope="module", params=EXPECTED, ids=lambda case: f"{case[0]}-{case[1]}")
def case(request):
    name, size = request.param
    return networks.build_network(name, size), size, EXPECTED[request.param]


@pytest.fixture(scope="module", params=NAMES)
def network(request):
    tf.keras.utils.set_random_seed(7)
    return networks.build_network(request.param, 32)


@pytest.fixture(params=["float32", pytest.param("mixed_bfloat16", marks=needs_bfloat16)])
def policy(request):
    tf.keras.mixed_precision.set_global_policy(request.param)
    yield request.param
    tf.keras.mixed_precision.set_global_policy("float32")


def images(batch, size=32, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, size, size, 3)).astype(np.float32)


def layers_of(network, *types):
    return [layer for layer in network.submodules if isinstance(layer, types)]


def side_and_channels(tensor):
    _, height, width, channels = tensor.shape
    assert height == width
    return height, channels


def test_names_agree_with_the_configuration():
    field = next(f for f in dataclasses.fields(NetworkConfig) if f.name == "network")
    assert field.metadata["choices"] == NAMES


# --- sizes ---------------------------------------------------------------------------------------


def test_kernels_and_parameter_count(case):
    network, _, expected = case
    kernels = sorted([(k, k, i, o) for k, i, o in expected.convs] + expected.fcs)
    kernels.append((expected.features, DIM))
    found = [tuple(w.shape) for w in network.weights if w.name.endswith("/kernel:0")]
    assert sorted(found) == sorted(kernels)

    normalised = [o for _, _, o in expected.convs] + [o for _, o in expected.fcs]
    total = sum(k * k * i * o for k, i, o in expected.convs) + sum(i * o for i, o in expected.fcs)
    total += expected.features * DIM + DIM  # the embedding layer has a bias
    trainable = total + 2 * sum(normalised)  # gamma, beta
    assert sum(int(np.prod(w.shape)) for w in network.trainable_weights) == trainable
    assert network.count_params() == trainable + 2 * sum(normalised)  # moving mean, variance


def test_size_of_every_level(case):
    network, size, expected = case
    backbone = network.get_layer("backbone")
    endpoints = backbone(tf.keras.Input((size, size, 3)))
    assert {k: side_and_channels(v) for k, v in endpoints.items()} == expected.levels
    assert {k: v.as_list() for k, v in backbone.output_specs.items()} == {
        k: [None, None, None, channels] for k, (_, channels) in expected.levels.items()
    }


def test_sizes_of_readouts_and_embeddings(case):
    network, size, expected = case
    readouts = networks.readouts(network)
    assert list(readouts) == ["conv1", "conv2", "conv3", "conv4", "conv5"]
    assert [side_and_channels(tensor) for tensor in readouts.values()] == expected.readouts
    assert network.input_shape == (None, size, size, 3)
    assert network.output_shape == (None, DIM)
    assert network.input.dtype == network.output.dtype == tf.float32


def test_dim_sets_the_length_of_embeddings():
    assert networks.build_network("smallnet", 16, dim=10).output_shape == (None, 10)


# --- layers --------------------------------------------------------------------------------------


def test_only_the_embedding_layer_has_a_bias(case):
    network, _, expected = case
    kernels = layers_of(network, tf.keras.layers.Conv2D, tf.keras.layers.Dense)
    assert len(kernels) == len(expected.convs) + len(expected.fcs) + 1
    assert [layer.name for layer in kernels if layer.use_bias] == ["embedding"]


def test_batch_norm_follows_every_other_kernel(case):
    network, _, expected = case
    norms = layers_of(network, tf.keras.layers.BatchNormalization)
    assert len(norms) == len(expected.convs) + len(expected.fcs)
    assert {(n.momentum, n.epsilon, n.synchronized) for n in norms} == {(0.997, 1e-5, False)}


@pytest.mark.parametrize("name", ["alexnet", "vgg16", "resnet18", "smallnet"])
def test_sync_bn_reaches_every_batch_norm(name):
    network = networks.build_network(name, 32, sync_bn=True)
    norms = layers_of(network, tf.keras.layers.BatchNormalization)
    assert {(n.momentum, n.epsilon, n.synchronized) for n in norms} == {(0.997, 1e-5, True)}


def test_weight_names_are_distinct_and_ours(case):
    names = [weight.name for weight in case[0].weights]
    assert len(set(names)) == len(names)
    # Keras's running numbers would depend on what else the process has built.
    assert not [n for n in names if re.search("conv2d|batch_norm|dense|residual|bottleneck", n)]


@pytest.mark.parametrize(
    ("network", "some"),
    [
        ("alexnet", {"conv1/kernel:0", "conv5_bn/beta:0", "fc6/kernel:0", "fc7_bn/gamma:0"}),
        ("vgg16", {"conv1_1/kernel:0", "conv5_3_bn/gamma:0", "fc7/kernel:0"}),
        (
            "resnet18",
            {"conv1/kernel:0", "conv2_block1/shortcut/kernel:0", "conv5_block2/conv2_bn/gamma:0"},
        ),
        ("resnet50", {"conv2_block1/shortcut_bn/beta:0", "conv5_block3/conv3/kernel:0"}),
        ("smallnet", {"conv1_bn/moving_mean:0", "conv5/kernel:0", "embedding/bias:0"}),
    ],
    indirect=["network"],
)
def test_weight_names_are_readable(network, some):
    assert some <= {weight.name for weight in network.weights}


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_embeddings_are_unit_rows(network, training):
    embeddings = network(images(4), training=training).numpy()
    norms = np.linalg.norm(embeddings.astype(np.float64), axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-6)
    assert np.abs(embeddings - embeddings[0]).max() > 1e-3  # and not one point


@pytest.mark.parametrize("name", ["alexnet", "resnet18"])
def test_precision_policy_leaves_embeddings_float32(policy, name):
    network = networks.build_network(name, 16)
    features = network.get_layer("backbone")(images(2, 16))
    compute = {"float32": tf.float32, "mixed_bfloat16": tf.bfloat16}[policy]
    assert {tensor.dtype for tensor in features.values()} == {compute}
    assert {weight.dtype for weight in network.weights} == {tf.float32}
    assert network.get_layer("embedding").compute_dtype == "float32"
    embeddings = network(images(2, 16))
    assert embeddings.dtype == tf.float32
    norms = np.linalg.norm(embeddings.numpy().astype(np.float64), axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-6)


def test_readouts_are_after_relu(network):
    extractor = tf.keras.Model(network.input, networks.readouts(network))
    for name, features in extractor(images(2), training=False).items():
        assert features.numpy().min() == 0, name
        assert 0.1 < np.mean(features.numpy() == 0) < 0.9, name  # some clipped, some not


@pytest.mark.parametrize(
    ("name", "norms"),
    [
        ("alexnet", ["conv1_bn", "conv2_bn", "conv3_bn", "conv4_bn", "conv5_bn"]),
        ("vgg16", ["conv1_2_bn", "conv2_2_bn", "conv3_3_bn", "conv4_3_bn", "conv5_3_bn"]),
        ("smallnet", ["conv1_bn", "conv2_bn", "conv3_bn", "conv4_bn", "conv5_bn"]),
    ],
)
def test_readouts_are_relu_of_batch_norm(name, norms):
    network = networks.build_network(name, 32)
    backbone = network.get_layer("backbone")
    before = tf.keras.Model(backbone.input, [backbone.get_layer(n).output for n in norms])
    extractor = tf.keras.Model(network.input, networks.readouts(network))
    batch = images(1)
    for bn, readout in zip(before(batch), extractor(batch).values(), strict=True):
        np.testing.assert_array_equal(np.maximum(bn, 0), readout)


def test_resnet_readouts_are_stem_and_stages():
    network = networks.build_network("resnet18", 16)
    backbone = network.get_layer("backbone")
    extractor = tf.keras.Model(network.input, networks.readouts(network))
    readouts, endpoints = extractor(images(1, 16)), backbone(images(1, 16))
    for level in range(2, 6):
        np.testing.assert_array_equal(readouts[f"conv{level}"], endpoints[str(level)])
    assert backbone.readout_layers["conv1"] == "conv1_relu"
    assert networks.build_backbone("resnet18", 224).readout_layers["conv1"] == "conv1_pool"


def test_readouts_follow_the_weights_of_the_network():
    network = networks.build_network("smallnet", 16)
    extractor = tf.keras.Model(network.input, networks.readouts(network))
    kernel = network.get_layer("backbone").get_layer("conv1").kernel
    assert kernel.ref() in {weight.ref() for weight in extractor.weights}
    kernel.assign(tf.zeros_like(kernel))
    assert not extractor(images(1, 16))["conv1"].numpy().any()


@pytest.mark.parametrize(
    ("name", "size"),
    [("alexnet", 32), ("vgg16", 32), ("resnet18", 16), ("resnet50", 16), ("smallnet", 32)],
)
def test_gradient_reaches_every_trainable_variable(name, size):
    network = networks.build_network(name, size)
    target = np.random.default_rng(1).normal(size=(8, DIM))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(network(images(8, size), training=True) * target)
    gradients = tape.gradient(loss, network.trainable_variables)
    dead = [
        variable.name
        for gradient, variable in zip(gradients, network.trainable_variables, strict=True)
        if gradient is None or not np.any(gradient)
    ]
    assert dead == []


# --- initialisation, saving ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alexnet", "vgg16", "resnet18", "smallnet"])
def test_same_seed_same_weights(name):
    def kernels(seed):
        tf.keras.utils.set_random_seed(seed)
        weights = networks.build_network(name, 32).trainable_weights
        return [w.numpy() for w in weights if w.name.endswith("/kernel:0")]

    first, again, other = kernels(3), kernels(3), kernels(4)
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.abs(a - c).max() > 0
    # No two layers share their values, those of equal shape included.
    assert len({kernel.tobytes()[:256] for kernel in first}) == len(first)


@pytest.mark.parametrize("name", ["alexnet", "resnet18"])
def test_kernels_are_scaled_by_fan_in(name):
    tf.keras.utils.set_random_seed(0)
    network = networks.build_network(name, 32)
    gain = {"alexnet": 2, "resnet18": 1}[name]  # He-normal; Model Garden's variance scaling
    for weight in network.get_layer("backbone").trainable_weights:
        if weight.name.endswith("/kernel:0"):
            fan_in = np.prod(weight.shape[:-1])
            assert np.std(weight.numpy()) == pytest.approx(np.sqrt(gain / fan_in), rel=0.05)


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "smallnet"])
def test_fresh_network_restores_weights(name, tmp_path):
    trained = networks.build_network(name, 16)
    trained(images(4, 16), training=True)  # moves the batch norm statistics
    path = tf.train.Checkpoint(network=trained).write(str(tmp_path / "weights"))
    fresh = networks.build_network(name, 16)
    assert np.abs(fresh(images(2, 16)) - trained(images(2, 16))).max() > 1e-3
    tf.train.Checkpoint(network=fresh).read(path).assert_consumed()
    np.testing.assert_array_equal(fresh(images(2, 16)), trained(images(2, 16)))


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "smallnet"])
def test_whole_network_saves_and_loads(name, tmp_path):
    network = networks.build_network(name, 16)
    network.save(tmp_path / "network.keras")
    loaded = tf.keras.models.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(loaded(images(2, 16)), network(images(2, 16)))
    ours = tf.keras.Model(network.input, networks.readouts(network))(images(1, 16))
    theirs = tf.keras.Model(loaded.input, networks.readouts(loaded))(images(1, 16))
    for readout in ours:
        np.testing.assert_array_equal(ours[readout], theirs[readout])


@pytest.mark.slow
def test_saved_networks_load_in_a_process_that_knows_la_tf_alone(tmp_path):
    sizes = {"smallnet": 16, "alexnet": 16, "resnet18": 16}
    np.save(tmp_path / "images.npy", images(2, 16))
    for name, size in sizes.items():
        network = networks.build_network(name, size, dim=5)
        network.save(tmp_path / f"{name}.keras")
        np.save(tmp_path / f"{name}.npy", network(images(2, 16)))
    code = """
import sys, numpy, la_tf
assert la_tf.networks
import tensorflow as tf
images = numpy.load("images.npy")
for name in sys.argv[1:]:
    loaded = tf.keras.models.load_model(f"{name}.keras")
    numpy.save(f"{name}_again.npy", loaded(images))
"""
    subprocess.run(
        [sys.executable, "-c", code, *sizes],
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    for name in sizes:
        np.testing.assert_allclose(
            np.load(tmp_path / f"{name}_again.npy"), np.load(tmp_path / f"{name}.npy"), rtol=1e-5
        )


@pytest.mark.parametrize("options", [{"image_size": 4096}, {"image_size": 32, "dim": 10**9}])
def test_a_head_that_cannot_fit_in_memory_is_refused(options):
    with pytest.raises(RunError, match=r"embedding head from .* would take [\d.]+ GiB of memory"):
        networks.build_network("alexnet", **options)


# --- backbones in a detector ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "build",
    [
        lambda **options: AlexNet(padding="same", **options),
        VGG16,
        lambda **options: ResNet(18, **options),
        SmallNet,
    ],
    ids=["alexnet", "vgg16", "resnet18", "smallnet"],
)
def test_backbone_rebuilds_from_its_configuration(build):
    backbone = build(
        input_specs=tf.keras.layers.InputSpec(shape=[None, 96, 96, 3]),
        use_sync_bn=True,
        norm_momentum=0.9,
        norm_epsilon=1e-3,
        kernel_regularizer=tf.keras.regularizers.L2(0.5),
        name="some_name",
    )
    again = type(backbone).from_config(backbone.get_config())
    assert again.get_config() == backbone.get_config()
    assert again.name == "some_name"
    assert again.output_specs == backbone.output_specs
    assert [w.shape for w in again.weights] == [w.shape for w in backbone.weights]
    norm = layers_of(again, tf.keras.layers.BatchNormalization)[0]
    assert (norm.momentum, norm.epsilon, norm.synchronized) == (0.9, 1e-3, True)
    # Every kernel is penalised, at the strength that was asked for.
    kernels = [w for w in again.weights if w.name.endswith("/kernel:0")]
    assert len(again.losses) == len(kernels)
    penalty = sum(0.5 * np.sum(np.square(w.numpy(), dtype=np.float64)) for w in kernels)
    assert sum(float(loss) for loss in again.losses) == pytest.approx(penalty, rel=1e-4)


def test_backbone_of_a_network_takes_larger_images():
    network = networks.build_network("smallnet", 16)
    endpoints = network.get_layer("backbone")(images(1, 48))
    assert {k: v.shape[1] for k, v in endpoints.items()} == {"0": 48, "1": 24, "2": 12, "3": 6}


def test_padded_alexnet_has_the_sizes_of_its_strides():
    plain, padded = AlexNet(), AlexNet(padding="same")
    endpoints = padded(tf.keras.Input((1008, 1008, 3)))
    assert {k: v.shape[1] for k, v in endpoints.items()} == {"2": 252, "3": 126, "4": 63, "5": 32}
    padded.set_weights(plain.get_weights())


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [networks.build_network, networks.build_backbone])
def test_unknown_name(build):
    with pytest.raises(ValueError, match=r"'resnet34'.*alexnet, vgg16, resnet18, resnet50, small"):
        build("resnet34", 224)


def test_images_are_square():
    with pytest.raises(ValueError, match=r"image_size=\(64, 96\) must be a whole number"):
        networks.build_network("smallnet", (64, 96))


@pytest.mark.parametrize(
    ("name", "size", "least"),
    [
        ("alexnet", 7, 8),
        ("alexnet", 66, 67),
        ("vgg16", 31, 32),
        ("resnet18", 7, 8),
        ("resnet50", 7, 8),
        ("smallnet", 15, 16),
    ],
)
def test_image_too_small(name, size, least):
    with pytest.raises(
        ValueError, match=rf"{size} pixels .*too small for {name}.*at least {least}"
    ):
        networks.build_network(name, size)


@pytest.mark.parametrize(
    ("name", "size"),
    [("alexnet", 8), ("alexnet", 67), ("vgg16", 32), ("resnet18", 8), ("smallnet", 16)],
)
def test_least_image_size_works(name, size):
    endpoints = networks.build_backbone(name, size)(tf.keras.Input((size, size, 3)))
    coarsest = endpoints[max(endpoints, key=int)]
    assert min(coarsest.shape[1:3]) >= 1


def test_small_images_get_their_own_variant():
    for size, stem in ((64, (3, 3, 3, 64)), (65, (7, 7, 3, 64))):
        assert networks.build_backbone("resnet18", size).weights[0].shape == stem


# --- synchronised batch norm ---------------------------------------------------------------------

TWO_REPLICAS = """
    import numpy as np
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    from la_tf import networks

    batch = np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype(np.float32)
    batch[4:] = 3 * batch[4:] + 1  # so that the replicas' own statistics differ

    @tf.function
    def replicated(network, halves):
        return strategy.run(lambda x: network(x, training=True), (halves,))

    tf.keras.utils.set_random_seed(0)
    for name, sync_bn in (("alexnet", True), ("alexnet", False), ("resnet18", True)):
        one = networks.build_network(name, 16)
        start = one.get_weights()
        expected = one(batch, training=True).numpy()
        with strategy.scope():
            two = networks.build_network(name, 16, sync_bn=sync_bn)
        two.set_weights(start)
        halves = strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(np.split(batch, 2)[context.replica_id_in_sync_group])
        )
        outputs = strategy.experimental_local_results(replicated(two, halves))
        output_error = np.abs(tf.concat(outputs, 0) - expected).max()
        mean_error = max(
            np.abs(a.numpy() - b.numpy()).max()
            for a, b in zip(one.weights, two.weights)
            if "moving_mean" in a.name
        )
        print(name, sync_bn, output_error, mean_error)
"""


def test_sync_bn_on_two_replicas_equals_one_device(program_server, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    script = tmp_path / "two_replicas.py"
    script.write_text(textwrap.dedent(TWO_REPLICAS))
    program = program_server.start(script, cwd=ROOT)
    stdout, stderr = program.communicate()
    assert program.returncode == 0, stderr
    results = [line.split() for line in stdout.splitlines()]
    assert [line[0] for line in results] == ["alexnet", "alexnet", "resnet18"]
    for _, sync_bn, output_error, mean_error in results:
        if sync_bn == "True":
            assert float(output_error) < 1e-4
            assert float(mean_error) < 1e-5
        else:
            assert float(output_error) > 1e-2  # what sync_bn is for
