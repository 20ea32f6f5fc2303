"""Where a GPU would run each operation of a traced step; needs no GPU.

TensorFlow's wheel registers its GPU kernels on machines without one, too. So a step can be laid
out as TensorFlow does before it runs it, functions inlined and branches lowered, and each node
looked up: the kernel that a GPU has for it, and which of its arguments are in the host's memory.
"""

import dataclasses
import functools
import itertools

import tensorflow as tf
from tensorflow.core.framework import node_def_pb2
from tensorflow.python.framework import convert_to_constants, kernels

# What has no GPU kernel and needs none: op -> the only type of its results for which that holds.
ON_THE_HOST = {
    "Assert": None,
    "Const": tf.string,  # messages of Assert
    "NoOp": None,
    "Pad": tf.int64,  # a batch's indices where `all_gather` pads them, and classes of boxes
    "Placeholder": None,
}
# What GPU kernels of 2.15 refuse under determinism: op -> the attribute and value that make them.
REFUSED = {
    "FusedBatchNormGradV3": ("is_training", False),
    "ResizeNearestNeighborGrad": None,
    "AdjustContrastv2": None,
    "SparseTensorDenseMatMul": None,
    "SoftmaxCrossEntropyWithLogits": None,
    "SparseSoftmaxCrossEntropyWithLogits": None,
}
# Types whose tensors an argument of a function leaves on the host.
_HOST_TYPES = (tf.int32, tf.resource, tf.string)


@dataclasses.dataclass(frozen=True)
class Crossing:
    """A tensor that is made in one memory and wanted in the other."""

    tensor: tf.Tensor
    consumer: tf.Operation
    to_host: bool

    def __str__(self):
        way = "to the host" if self.to_host else "to the GPU"
        what = f"{self.tensor.dtype.name}{self.tensor.shape} {self.tensor.name}"
        return f"{what} goes {way} for {self.consumer.type} {self.consumer.name}"


@dataclasses.dataclass(frozen=True)
class Layout:
    """A step as a GPU would run it.

    Attributes:
      operations: all of them, control flow lowered.
      without_kernel: those that no GPU kernel exists for.
      refused: those that raise under determinism.
      crossings: see there.
    """

    operations: list[tf.Operation]
    without_kernel: list[tf.Operation]
    refused: list[tf.Operation]
    crossings: list[Crossing]


def lay_out(step: tf.types.experimental.ConcreteFunction) -> Layout:
    """Lays out a traced step.

    A variable whose type has no GPU kernel is on the host, and so is what reads it.
    """
    operations = _flat(step).get_operations()
    kernel_of = {op: gpu_kernel(op.node_def) for op in operations}
    placed = dict(kernel_of)
    host_resources, in_host = set(), set()
    for op in operations:
        if any(t.name in host_resources for t in op.inputs):
            placed[op] = None  # placed with its variable, also behind a Switch
        resources = {t.name for t in op.outputs if t.dtype == tf.resource}
        if placed[op] is None:
            host_resources |= resources
        for name, tensor in zip(_names(op.op_def.output_arg, op.node_def), op.outputs, strict=True):
            if op.type == "Placeholder":
                if tensor.dtype in _HOST_TYPES:
                    in_host.add(tensor.name)
            elif placed[op] is None or name in placed[op].host_memory_arg:
                in_host.add(tensor.name)
    crossings = []
    for op in operations:
        for name, tensor in zip(_names(op.op_def.input_arg, op.node_def), op.inputs, strict=True):
            to_host = placed[op] is None or name in placed[op].host_memory_arg
            if tensor.dtype not in (tf.resource, tf.string, tf.variant) and to_host != (
                tensor.name in in_host
            ):
                crossings.append(Crossing(tensor, op, to_host))
    return Layout(
        operations=operations,
        without_kernel=[
            op for op in operations if kernel_of[op] is None and not _belongs_on_the_host(op)
        ],
        refused=[op for op in operations if is_refused(op.node_def)],
        crossings=crossings,
    )


def gpu_kernel(node: node_def_pb2.NodeDef):
    """The kernel that a GPU takes for a node: its own before one for any device; None if none."""
    return next((kernel for kernel in _gpu_kernels(node.op) if _fits(kernel, node)), None)


@functools.cache
def _gpu_kernels(op: str) -> list:
    found = kernels.get_registered_kernels_for_op(op).kernel
    found = [k for k in found if k.device_type in ("GPU", "DEFAULT") and not k.label]
    return sorted(found, key=lambda k: (k.device_type != "GPU", -k.priority))


def is_refused(node: node_def_pb2.NodeDef) -> bool:
    """Whether a GPU raises for this node under determinism."""
    if node.op not in REFUSED:
        return False
    condition = REFUSED[node.op]
    return condition is None or node.attr[condition[0]].b == condition[1]


def _fits(kernel, node: node_def_pb2.NodeDef) -> bool:
    for constraint in kernel.constraint:
        attr = node.attr[constraint.name]
        types = list(attr.list.type) if attr.HasField("list") else [attr.type]
        if not set(types) <= set(constraint.allowed_values.list.type):
            return False
    return True


def _names(arguments, node: node_def_pb2.NodeDef) -> list[str]:
    """For each input or output of a node, the name of the argument that it belongs to."""

    def count(argument) -> int:
        if argument.number_attr:
            return node.attr[argument.number_attr].i
        if argument.type_list_attr:
            return len(node.attr[argument.type_list_attr].list.type)
        return 1

    return list(itertools.chain.from_iterable([a.name] * count(a) for a in arguments))


def _belongs_on_the_host(op: tf.Operation) -> bool:
    if op.type not in ON_THE_HOST:
        return False
    only = ON_THE_HOST[op.type]
    return only is None or op.outputs[0].dtype == only


def _flat(step: tf.types.experimental.ConcreteFunction) -> tf.Graph:
    """The graph of a step without functions and branches, its shapes inferred anew."""
    graph_def = convert_to_constants._run_inline_graph_optimization(step, True, True)
    variables = {
        inside.op.name: outside._handle_data.shape_and_type[0]
        for outside, inside in step.graph.captures
        if outside.dtype == tf.resource and outside._handle_data.shape_and_type
    }
    for node in graph_def.node:
        node.attr.pop("_output_shapes", None)
        if node.name in variables:  # else nothing is known of what is read from it
            name, variable = node.name, variables[node.name]
            node.Clear()
            node.name, node.op = name, "VarHandleOp"
            node.attr["dtype"].type = variable.dtype
            node.attr["shape"].shape.CopyFrom(variable.shape)
    graph = tf.Graph()
    with graph.as_default():
        tf.graph_util.import_graph_def(graph_def, name="")
    return graph
