"""Every step fits a GPU: kernels for all of it, none that determinism refuses, and no large copies.

Seen without a GPU: see gpu_graph.py. Traces alone, nothing is run.
"""

import numpy as np
import pytest
import tensorflow as tf
from gpu_graph import Layout, gpu_kernel, is_refused, lay_out
from tensorflow.core.framework import node_def_pb2
from tensorflow.python.framework import config as framework_config

from detection.inputs import PictureParser
from detection.settings import Settings, Start, make_experiment
from detection.task import VOCDetectionTask
from la_tf.building import build_model
from la_tf.config import (
    ClusteringConfig,
    Config,
    DataConfig,
    MethodConfig,
    NetworkConfig,
    NumericsConfig,
    ObjectiveConfig,
    ScheduleConfig,
)
from la_tf.data.base import Subset
from la_tf.data.digits import DigitsSource
from la_tf.evaluation.linear import ReadoutConfig, layer_features
from la_tf.evaluation.readout_training import ReadoutTraining
from la_tf.networks import build_network

# Sizes that can be told apart. N // (3 k) is so large that neighbours are found as in ImageNet.
N, B, K, D, H, SIDE = 1301, 7, 13, 17, 3, 16


@pytest.fixture(scope="module", autouse=True)
def as_on_a_gpu():
    """The branches that the project has for GPUs, and determinism, for this file alone."""
    devices, was = tf.config.list_logical_devices, framework_config.is_op_determinism_enabled()

    def with_gpu(kind=None):
        return [tf.config.LogicalDevice("/device:GPU:0", "GPU")] if kind == "GPU" else devices(kind)

    tf.config.experimental.enable_op_determinism()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.config, "list_logical_devices", with_gpu)
        yield
    tf.keras.mixed_precision.set_global_policy("float32")
    if not was:
        framework_config.disable_op_determinism()


def grows(tensor: tf.Tensor, replicas: int) -> bool:
    """Whether a tensor has as many elements as B x k, or more, or nobody knows how many."""
    if tensor.op.type == "CollectiveGatherV2":
        return replicas * tensor.op.inputs[0].shape.num_elements() >= B * K
    if tensor.op.type == "Pad" and tensor.op.inputs[0].shape == [B]:
        return False  # to B of the fullest replica, which all_gather cannot know before
    if tensor.shape.rank is None and tensor.dtype == tf.bool:
        return False  # whether a loop goes on
    return not tensor.shape.is_fully_defined() or tensor.shape.num_elements() >= B * K


def cannot_run(layout: Layout) -> list[str]:
    assert len(layout.operations) > 100
    found = [f"no GPU kernel: {op.type} {op.name}" for op in layout.without_kernel]
    return found + [f"refused under determinism: {op.type} {op.name}" for op in layout.refused]


def problems(step, replicas: int = 1) -> list[str]:
    layout = lay_out(step)
    large = [str(c) for c in layout.crossings if grows(c.tensor, replicas)]
    return cannot_run(layout) + large


def make_model(
    replicas: int = 1, *, mixed=False, block_size=0, ir_loss="softmax", method="local_aggregation"
):
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16" if mixed else "float32")
    config = Config(
        method=MethodConfig(method=method, top_rate=2.0),
        data=DataConfig(image_size=SIDE, batch_size=replicas * B),
        network=NetworkConfig(network="smallnet", dim=D),
        objective=ObjectiveConfig(k=K, ir_loss=ir_loss, nce_negatives=11),
        clustering=ClusteringConfig(num_clusters=11, num_clusterings=H),
        schedule=ScheduleConfig(epochs=2, ir_epochs=1),
        numerics=NumericsConfig(mixed_precision=mixed, block_size=block_size),
    )
    return build_model(config, N, steps_per_epoch=10, labels=np.arange(N) % 5)


@pytest.mark.parametrize(
    "options",
    [
        *({}, {"mixed": True}, {"block_size": 1}, {"ir_loss": "nce"}),
        *({"method": "deepcluster"}, {"method": "supervised"}),
    ],
    ids=["float32", "bfloat16", "blocks", "nce", "deepcluster", "supervised"],
)
def test_a_training_step_of_any_objective_stays_on_the_gpu(options):
    step = tf.function(make_model(**options).train_step)
    data = tf.TensorSpec([B], tf.int32), tf.TensorSpec([B, SIDE, SIDE, 3])
    assert problems(step.get_concrete_function(data)) == []


@pytest.mark.parametrize("method", ["local_aggregation", "deepcluster", "supervised"])
def test_a_training_step_of_two_replicas_stays_on_the_gpus(method):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = make_model(2, method=method)
    parts = [lambda _: tf.range(B), lambda _: tf.zeros([B, SIDE, SIDE, 3])]
    data = tuple(map(strategy.experimental_distribute_values_from_function, parts))
    step = tf.function(lambda data: strategy.run(model.train_step, args=(data,)))
    assert problems(step.get_concrete_function(data), replicas=2) == []


def test_a_step_of_the_readouts_stays_on_the_gpu(tmp_path):
    source = Subset(DigitsSource(), range(N))  # its labels, too, grow with N
    network = build_network("smallnet", SIDE, D)
    config = ReadoutConfig(epochs=1, batch_size=B)
    training = ReadoutTraining(layer_features(network), source, config, tmp_path)
    data = tf.TensorSpec([B], tf.int32), tf.TensorSpec([B, SIDE, SIDE, 3])
    assert problems(training._train_on.get_concrete_function(*data)) == []


@pytest.mark.parametrize("network", ["alexnet", "resnet18"])
def test_a_step_of_the_detector_can_be_taken_on_a_gpu(network):
    """It has no bank: what crosses grows with the boxes of one picture."""
    settings = Settings(short_side=64, long_side=64, anchor_size=24, regions=8)
    start = Start("random", network, 224, 0, "untrained")
    experiment = make_experiment(start, settings, "", "")
    experiment.task.model.roi_generator.num_proposals = 50
    task = VOCDetectionTask(experiment.task)
    model = task.build_model()
    optimizer = task.create_optimizer(experiment.trainer.optimizer_config)
    parse = tf.function(PictureParser(experiment.task, experiment.task.train_data).training)
    example = parse.get_concrete_function(
        tf.TensorSpec([], tf.string), tf.TensorSpec([2], tf.int32)
    )
    batch = tf.nest.map_structure(
        lambda t: tf.TensorSpec([1, *t.shape], t.dtype), example.structured_outputs
    )
    step = tf.function(lambda batch: task.train_step(batch, model, optimizer))
    assert cannot_run(lay_out(step.get_concrete_function(batch))) == []


def node(op: str, **types) -> node_def_pb2.NodeDef:
    made = node_def_pb2.NodeDef(op=op)
    for name, dtype in types.items():
        made.attr[name].type = dtype.as_datatype_enum
    return made


def test_the_registry_knows_what_gpus_can_do():
    """From TensorFlow's sources: else a step without a problem would mean nothing."""
    assert gpu_kernel(node("MatMul", T=tf.float32)).device_type == "GPU"
    assert "size" not in gpu_kernel(node("AddV2", T=tf.float32)).host_memory_arg
    assert set(gpu_kernel(node("AddV2", T=tf.int32)).host_memory_arg) == {"x", "y", "z"}
    assert gpu_kernel(node("NthElement", T=tf.float32)) is None
    assert gpu_kernel(node("VarHandleOp", dtype=tf.int32)) is None
    frozen = node("FusedBatchNormGradV3", T=tf.float32, U=tf.float32)
    frozen.attr["is_training"].b = False
    assert is_refused(frozen)
    frozen.attr["is_training"].b = True
    assert not is_refused(frozen)


def test_a_copy_is_seen_in_functions_and_branches_too():
    labels = tf.Variable(tf.zeros([N], tf.int32))

    @tf.function
    def step(indices: tf.Tensor, flag: tf.Tensor) -> tf.Tensor:
        return tf.cond(
            flag, lambda: tf.gather(labels.read_value(), indices), lambda: tf.zeros([B], tf.int32)
        )

    traced = step.get_concrete_function(tf.TensorSpec([B], tf.int64), tf.TensorSpec([], tf.bool))
    copied = {(*c.tensor.shape, c.to_host) for c in lay_out(traced).crossings}
    assert copied == {(N, False), (B, True), (True,)}  # labels there; what was gathered, the flag
