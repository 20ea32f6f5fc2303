import numpy as np
import pytest
import tensorflow as tf

from detection.anchors import anchor_grid
from detection.backbones import BackboneError
from detection.heads import FullyConnectedHead
from detection.initialize import calibrate_batch_norm, take_weights
from detection.settings import Settings, Start, crop_size, make_experiment
from detection.task import VOCDetectionTask
from la_tf.networks import build_network

CANVAS = 96


def experiment(network, image_size=224, freeze_to=None):
    settings = Settings(
        short_side=CANVAS, long_side=CANVAS, anchor_size=24, regions=8, freeze_to=freeze_to
    )
    config = make_experiment(Start("random", network, image_size, 0, "untrained"), settings, "", "")
    config.task.model.roi_generator.num_proposals = 50
    return config


def build(network, freeze_to=None):
    return VOCDetectionTask(experiment(network, freeze_to=freeze_to).task).build_model()


@pytest.fixture(scope="module")
def trained():
    """Networks by name, as trained ones: no tensor has a value that it could have by chance."""

    def make(name):
        network = build_network(name, 224)
        random = np.random.default_rng(0)
        for tensor in network.weights:
            tensor.assign(random.uniform(0.001, 0.02, tensor.shape))
        return network

    networks = {}
    return lambda name: networks.setdefault(name, make(name))


@pytest.fixture(scope="module")
def alexnet(trained):
    """A detector with trained weights, and the account of them."""
    detector = build("alexnet")
    return detector, take_weights(detector, trained("alexnet"))


@pytest.fixture(scope="module")
def resnet18():
    """A detector with fresh weights."""
    return build("resnet18")


def test_only_the_map_at_stride_16_is_to_be_seen(alexnet):
    detector, _ = alexnet
    features = detector.backbone(tf.zeros([1, CANVAS, CANVAS, 3]))
    assert {k: v.shape.as_list() for k, v in features.items()} == {"4": [1, 6, 6, 256]}
    assert set(detector.backbone.output_specs) == {"4"}


def test_every_tensor_of_alexnet_is_taken_bit_by_bit(alexnet, trained):
    detector, account = alexnet
    network = trained("alexnet")
    (head,) = detector.detection_head
    parts = {layer.name: layer for layer in head.submodules}
    pairs = {f"conv{i}{bn}": None for i in range(1, 6) for bn in ("", "_bn")}
    places = {name: detector.backbone.get_layer(name) for name in pairs}
    for index, name in enumerate(("fc6", "fc7")):
        places[name] = parts[f"detection-fc_{index}"]
        places[f"{name}_bn"] = parts[f"detection-fc-bn_{index}"]
    compared = 0
    for name, layer in places.items():
        holder = network if name.startswith("fc") else network.get_layer("backbone")
        for source, target in zip(
            holder.get_layer(name).get_weights(), layer.get_weights(), strict=False
        ):
            np.testing.assert_array_equal(source, target)
            compared += 1
    assert compared == len(network.weights) - 2 == len(account.taken) == 7 * 5
    assert account.left == ["embedding/kernel:0", "embedding/bias:0"]
    assert len(account.taken) + len(account.new) == len(detector.weights)


def test_fc6_and_fc7_compute_what_they_did(alexnet, trained):
    detector, _ = alexnet
    (head,) = detector.detection_head
    features = np.random.default_rng(1).uniform(size=(1, 3, 5, 5, 256)).astype(np.float32)
    network = trained("alexnet")
    x = tf.reshape(features[0], [3, -1])
    for name in ("fc6", "fc6_bn", "fc6_relu", "fc7", "fc7_bn", "fc7_relu"):
        x = network.get_layer(name)(x, training=False)
    scores, _ = head(tf.constant(features), training=False)
    parts = {layer.name: layer for layer in head.submodules}
    expected = parts["detection-scores"](x[tf.newaxis])[0]
    np.testing.assert_allclose(scores[0], expected, rtol=1e-4)


def test_a_tensor_without_a_place_is_named(alexnet, trained):
    detector, _ = alexnet
    network = trained("alexnet")
    more = tf.keras.layers.Dense(2, name="fc8")(network.get_layer("fc7_relu").output)
    bigger = tf.keras.Model(network.input, [network.output, more])
    with pytest.raises(BackboneError, match=r"the run has the tensor fc8/kernel:0"):
        take_weights(detector, bigger)


def test_a_tensor_without_a_source_is_named(trained):
    network = trained("resnet18")
    detector = build("resnet18")
    before = detector.get_weights()
    detector.extra = tf.keras.layers.Dense(2, name="extra")
    detector.extra(tf.zeros([1, 3]))
    with pytest.raises(BackboneError, match=r"the detector has the tensor extra/kernel:0"):
        take_weights(detector, network)
    for untouched, tensor in zip(before, detector.get_weights(), strict=False):
        np.testing.assert_array_equal(untouched, tensor)


def test_another_shape_is_named(alexnet, trained):
    detector, _ = alexnet
    other = build_network("alexnet", 192)  # 4x4x256 into fc6
    with pytest.raises(BackboneError, match=r"tensor fc6/kernel:0 has the shape \(4096, 4096\)"):
        take_weights(detector, other)


def one_step(network, detector):
    """One step on noise with an object; returns all tensors before and after by name."""
    task = VOCDetectionTask(experiment(network).task)
    random = np.random.default_rng(0)
    rows = CANVAS // 16
    labels = random.integers(0, 2, [1, rows, rows, 9]).astype(np.int32)
    centres = np.stack(np.meshgrid(np.arange(rows), np.arange(rows), indexing="ij"), -1) * 16.0
    anchors = np.concatenate([centres, centres + 40], -1).astype(np.float32)
    inputs = (
        tf.constant(random.normal(size=[1, CANVAS, CANVAS, 3]).astype(np.float32)),
        {
            "image_info": tf.constant([[[96.0, 96], [96, 96], [1, 1], [0, 0]]]),
            "anchor_boxes": {"4": tf.constant(np.tile(anchors, 9)[np.newaxis])},
            "rpn_score_targets": {"4": tf.constant(labels)},
            "rpn_box_targets": {"4": tf.ones([1, rows, rows, 36])},
            "gt_boxes": tf.constant([[[16.0, 16, 56, 56], [-1, -1, -1, -1]]]),
            "gt_classes": tf.constant([[3, -1]]),
        },
    )
    before = [tensor.numpy() for tensor in detector.weights]
    optimizer = tf.keras.optimizers.SGD(0.1)
    task.train_step(inputs, detector, optimizer)
    return [
        (tensor.name, old, tensor.numpy())
        for tensor, old in zip(detector.weights, before, strict=True)
    ]


@pytest.mark.parametrize(
    ("network", "freeze_to", "frozen"),
    [
        ("alexnet", None, ()),
        ("alexnet", "conv3", ("conv1", "conv2", "conv3")),
        ("resnet18", None, ("conv1", "conv2", "conv3", "conv4")),
        ("resnet18", "conv2", ("conv1", "conv2")),
    ],
)
def test_a_step_moves_what_is_fine_tuned_and_nothing_else(network, freeze_to, frozen):
    detector = build(network, freeze_to)
    norms = ("gamma", "beta", "moving_mean", "moving_variance")
    moved = []
    for name, before, after in one_step(network, detector):
        if name.startswith(frozen) or name.rpartition("/")[2].startswith(norms):
            np.testing.assert_array_equal(before, after, err_msg=name)
        else:
            assert (before != after).any(), name
            moved.append(name)
    assert len(moved) == len(detector.trainable_variables)


@pytest.mark.parametrize("network", ["alexnet", "resnet18"])
def test_no_gradient_needs_what_determinism_refuses_on_gpus(network, alexnet, resnet18):
    """TensorFlow has no deterministic GPU kernel for the gradient of fused, frozen batch norm."""
    detector = {"alexnet": alexnet[0], "resnet18": resnet18}[network]

    @tf.function
    def step(images, anchors, boxes, classes):
        with tf.GradientTape() as tape:
            outputs = detector(
                images,
                image_shape=tf.constant([[CANVAS, CANVAS]], tf.float32),
                anchor_boxes={"4": anchors},
                gt_boxes=boxes,
                gt_classes=classes,
                training=True,
            )
            ends = (outputs["rpn_scores"]["4"], outputs["rpn_boxes"]["4"])
            ends += (outputs["class_outputs"], outputs["box_outputs"])
            loss = tf.add_n([tf.reduce_sum(end) for end in ends])
        return tape.gradient(loss, detector.trainable_variables)

    rows = CANVAS // 16
    graph = step.get_concrete_function(
        tf.TensorSpec([1, CANVAS, CANVAS, 3]),
        tf.TensorSpec([1, rows, rows, 36]),
        tf.TensorSpec([1, 3, 4]),
        tf.TensorSpec([1, 3], tf.int32),
    ).graph.as_graph_def()
    operations = {node.op for node in graph.node}
    operations |= {node.op for function in graph.library.function for node in function.node_def}
    assert "Conv2DBackpropFilter" in operations  # the gradients are there
    assert not [op for op in operations if op.startswith("FusedBatchNormGrad")]


def test_frozen_batch_norm_is_a_scale_and_an_offset_in_training_too(resnet18):
    norms = [
        layer
        for layer in resnet18.submodules
        if isinstance(layer, tf.keras.layers.BatchNormalization)
    ]
    assert len(norms) == 22  # 21 of ResNet-18, one of the region proposals
    random = np.random.default_rng(0)
    for norm in norms:
        shape = norm.gamma.shape
        gamma, beta, mean = random.normal(size=(3, *shape)).astype(np.float32)
        variance = random.uniform(0.1, 2, shape).astype(np.float32)
        norm.set_weights([gamma, beta, mean, variance])
        x = random.normal(size=(2, 3, 3, *shape)).astype(np.float32)
        expected = gamma * (x - mean) / np.sqrt(variance + norm.epsilon) + beta
        np.testing.assert_allclose(norm(x, training=True), expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(norm.moving_mean, mean)


def test_what_is_the_head_cannot_be_frozen():
    with pytest.raises(BackboneError, match=r"conv5 of resnet18 is the detector's head, .*conv4"):
        build("resnet18", "conv5")


def test_calibrated_statistics_are_the_mean_of_the_batches():
    network = build_network("smallnet", 16)
    backbone = network.get_layer("backbone")
    batches = np.random.default_rng(0).normal(size=(3, 8, 16, 16, 3)).astype(np.float32)
    calibrate_batch_norm(network, batches)
    maps = np.stack([backbone.get_layer("conv1")(images) for images in batches])
    norm = backbone.get_layer("conv1_bn")
    np.testing.assert_allclose(norm.moving_mean, maps.mean(axis=(1, 2, 3)).mean(axis=0), atol=1e-5)
    variances = maps.var(axis=(1, 2, 3), ddof=1)
    np.testing.assert_allclose(norm.moving_variance, variances.mean(axis=0), rtol=1e-4)


def test_one_calibrated_batch_gives_what_training_computes():
    """So deeper layers were calibrated behind calibrated ones."""
    network = build_network("smallnet", 16)
    images = np.random.default_rng(0).normal(size=(16, 16, 16, 3)).astype(np.float32)
    before = network(images, training=False)
    calibrate_batch_norm(network, [images])
    expected = network(images, training=True)
    np.testing.assert_allclose(network(images, training=False), expected, atol=1e-2)
    assert not np.allclose(before, expected, atol=1e-2)


def test_vgg16_keeps_its_first_two_blocks():
    config = experiment("vgg16")
    config.task.model.detection_head.fc_dims = 8  # instead of half a gigabyte
    detector = VOCDetectionTask(config.task).build_model()
    fixed = {
        layer.name
        for layer in detector.backbone.layers
        if layer.weights and not layer.trainable and not layer.name.endswith("_bn")
    }
    assert fixed == {"conv1_1", "conv1_2", "conv2_1", "conv2_2"}


def test_stage_five_keeps_the_size_of_a_crop(trained):
    detector = build("resnet18")
    account = take_weights(detector, trained("resnet18"))
    assert account.left == ["embedding/kernel:0", "embedding/bias:0"]
    (head,) = detector.detection_head
    x = tf.ones([2, 7, 7, 256])
    for block in head.blocks:
        x = block(x)
    assert x.shape == [2, 7, 7, 512]
    trained_blocks = [
        layer
        for layer in trained("resnet18").get_layer("backbone").layers
        if layer.name.startswith("conv5_block")
    ]
    for source, target in zip(trained_blocks, head.blocks, strict=True):
        for name in ("_conv1", "_norm1", "_conv2", "_norm2"):
            pairs = zip(
                getattr(source, name).get_weights(),
                getattr(target, name).get_weights(),
                strict=True,
            )
            for one, other in pairs:
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("network", "image_size", "expected"),
    [("alexnet", 224, 5), ("alexnet", 256, 6), ("vgg16", 224, 7), ("resnet50", 224, 7)],
)
def test_crops_fit_the_head(network, image_size, expected):
    assert crop_size(network, image_size) == expected


@pytest.mark.parametrize(
    ("network", "image_size", "reason"),
    [
        ("smallnet", 224, "smallnet cannot be a detector's backbone: train one of alexnet"),
        ("alexnet", 64, "images of 64 pixels has other layers"),
    ],
)
def test_what_cannot_be_a_backbone_is_refused(network, image_size, reason):
    with pytest.raises(BackboneError, match=reason):
        crop_size(network, image_size)


@pytest.mark.parametrize(("network", "rate"), [("alexnet", 2), ("vgg16", 2), ("resnet18", 1)])
def test_biases_learn_twice_as_fast_with_fc6_and_fc7(network, rate):
    config = experiment(network)
    optimizer = VOCDetectionTask(config.task).create_optimizer(config.trainer.optimizer_config)
    kernel, bias = (tf.Variable([1.0], name=f"fc6/{kind}") for kind in ("kernel", "bias"))
    optimizer.apply_gradients([(tf.constant([1.0]), kernel), (tf.constant([1.0]), bias)])
    np.testing.assert_allclose([1 - kernel, 1 - bias], [[1e-3], [rate * 1e-3]], rtol=1e-4)


def test_the_outputs_of_the_region_proposals_start_as_the_references(resnet18):
    layers = {layer.name: layer for layer in resnet18.rpn_head.submodules}
    for name in ("rpn-scores", "rpn-boxes"):
        assert np.std(layers[name].kernel) == pytest.approx(0.01, rel=0.1)  # of 4,608 and more
        assert not layers[name].bias.numpy().any()


def test_dropout_goes_on_after_a_restart_and_is_none_in_evaluation(tmp_path):
    def make(seed):
        head = FullyConnectedHead(seed, num_classes=3, num_fcs=2, fc_dims=50)
        head(crops)  # makes its variables
        for layer in head.submodules:
            if isinstance(layer, tf.keras.layers.BatchNormalization):
                layer.trainable = False
        return head

    crops = tf.ones([1, 4, 2, 2, 8])
    head = make(seed=0)
    first, second = (head(crops, training=True)[0] for _ in range(2))
    assert (first != second).numpy().any()
    evaluated = head(crops, training=False)[0]
    np.testing.assert_array_equal(evaluated, head(crops)[0])
    # The same region four times, and of each other units are left out.
    np.testing.assert_allclose(evaluated[0], tf.repeat(evaluated[0, :1], 4, axis=0), rtol=1e-5)
    assert len({tuple(row) for row in first[0].numpy()}) == 4

    killed = make(seed=0)
    killed.set_weights(head.get_weights())
    np.testing.assert_array_equal(killed(crops, training=True)[0], first)
    saved = tf.train.Checkpoint(head=killed).save(str(tmp_path / "checkpoint"))
    resumed = make(seed=123)
    tf.train.Checkpoint(head=resumed).restore(saved).assert_consumed()
    np.testing.assert_array_equal(resumed(crops, training=True)[0], second)


def test_dropout_reaches_the_head_of_a_detector_that_trains(alexnet):
    """Model Garden does not hand `training` on."""
    detector, _ = alexnet
    inputs = {
        "image_shape": tf.constant([[CANVAS, CANVAS]], tf.float32),
        "anchor_boxes": {"4": anchor_grid(CANVAS, 24)["4"][tf.newaxis]},
    }
    images = tf.ones([1, CANVAS, CANVAS, 3])
    (head,) = detector.detection_head
    state = head._generator.state.numpy()
    detector(images, training=False, **inputs)
    np.testing.assert_array_equal(head._generator.state, state)
    gt = {"gt_boxes": tf.constant([[[16.0, 16, 56, 56]]]), "gt_classes": tf.constant([[3]])}
    detector(images, training=True, **inputs, **gt)
    assert (head._generator.state.numpy() != state).any()


def test_weight_decay_pulls_on_kernels_by_lambda_and_not_on_biases(resnet18):
    model = resnet18
    with tf.GradientTape() as tape:
        penalty = tf.add_n(model.losses)
    gradients = tape.gradient(penalty, model.trainable_variables)
    for tensor, gradient in zip(model.trainable_variables, gradients, strict=True):
        if tensor.name.endswith("kernel:0"):
            np.testing.assert_allclose(gradient, 1e-4 * tensor, rtol=1e-5, err_msg=tensor.name)
        else:
            assert tensor.name.endswith("bias:0") and gradient is None
