"""What replicas cost: measured on logical CPU devices, and calculated for more and larger ones."""

import contextlib
import dataclasses
import itertools
import math
import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

import tensorflow as tf

from la_tf.benchmark.step import BATCH, CLUSTERINGS, DIM
from la_tf.benchmark.timing import Row, repeat
from la_tf.benchmark.train import random_model
from la_tf.config import NumericsConfig, RunConfig
from la_tf.runs import runtime

PARAMETERS = 23_800_000  # of ResNet-50 and its embedding layer
_INDEX = 8  # bytes of an index or a label between replicas


@dataclasses.dataclass(frozen=True)
class Needs:
    """What one replica needs, by calculation.

    Attributes:
      memory: bytes of bank, labels and similarities.
      sent: bytes it sends in a step, gradients included, by ring algorithms.
      sent_in_round: bytes it sends for the labels of a round of clusterings, if each replica is a
        worker of its own.
      clusterings: how many of a round it runs at most.
    """

    memory: int
    sent: int
    sent_in_round: int
    clusterings: int


def needs(num_examples: int, replicas: int, batch: int = BATCH) -> Needs:
    """With a whole bank of N rows in every replica, and batch and clusterings shared out.

    Args:
      num_examples: N.
      replicas: R.
      batch: B, over all replicas.
    """
    rows = num_examples * 4 * (DIM + CLUSTERINGS)
    similarities = batch // replicas * num_examples * 4
    gathered = (replicas - 1) * batch // replicas * (_INDEX + 4 * DIM)
    return Needs(
        memory=rows + similarities,
        sent=gathered + _all_reduced(4 * PARAMETERS, replicas),
        sent_in_round=CLUSTERINGS * _all_reduced(_INDEX * num_examples, replicas),
        clusterings=math.ceil(CLUSTERINGS / replicas),
    )


def _all_reduced(size: int, replicas: int) -> int:
    """What each replica sends of `size` bytes that all add up, round the ring."""
    return 2 * (replicas - 1) * size // replicas


def measure(devices: tuple[int, ...] = (1, 2, 4), repetitions: int = 5) -> list[Row]:
    """Times steps of one global batch on so many logical CPU devices, which share the cores.

    So it shows what replicas cost, not what they bring. Each number of devices has a process of
    its own, since the devices of a process are fixed at its start; they take steps in turn.

    Args:
      devices: numbers of devices; the first is the floor.
      repetitions: how often each.

    Returns:
      A row a number of devices.

    Raises:
      ValueError: one of the processes ended.
    """
    with contextlib.ExitStack() as stack:
        names = [f"smallnet at 32, LA, {count} replicas" for count in devices]
        steps = [stack.enter_context(_stepping_process(count)) for count in devices]
        seconds = repeat(dict(zip(names, steps, strict=True)), repetitions)
    return [
        Row(name, times, None if name == names[0] else names[0], BATCH)
        for name, times in seconds.items()
    ]


@contextlib.contextmanager
def _stepping_process(count: int) -> Iterator[Callable[[], None]]:
    """A function that has a process of `count` devices take a step."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve_steps, args=(count, theirs), daemon=True)
    process.start()
    theirs.close()

    def step() -> None:
        try:
            ours.send(None)
            ours.recv()
        except (EOFError, OSError) as error:
            raise ValueError(f"the process of {count} replicas ended.") from error

    try:
        yield step
    finally:
        ours.close()  # which ends it
        process.join()


def _serve_steps(count: int, requests: Connection) -> None:
    tf.config.set_visible_devices([], "GPU")  # of which there may be fewer
    strategy = runtime.make_strategy(RunConfig(num_devices=count))
    runtime.configure(NumericsConfig(), seed=0)
    with strategy.scope():
        model = random_model("smallnet", 32, BATCH, 50_000, NumericsConfig())
    batch = tf.range(BATCH), tf.random.stateless_normal([BATCH, 32, 32, 3], [0, 0])
    dataset = tf.data.Dataset.from_tensors(batch).unbatch().batch(BATCH)
    # One batch, cut once: a pipeline would work while others are timed.
    batches = itertools.repeat(next(iter(strategy.experimental_distribute_dataset(dataset))))
    step = model.make_train_function()
    with contextlib.suppress(EOFError):  # the other side has had enough
        while True:
            requests.recv()
            requests.send(float(step(batches)["loss"]))


def table(sizes: tuple[int, ...], replicas: int) -> list[str]:
    """`needs` of each N as lines of text."""
    lines = [
        f"calculated for {replicas} replicas, D = {DIM}, H = {CLUSTERINGS}, B = {BATCH}:",
        f"  {'N':>12} {'memory each':>12} {'sent a step':>12} {'sent a round':>12} "
        f"{'k-means each':>12}",
    ]
    for size in sizes:
        each = needs(size, replicas)
        memory, sent = f"{each.memory / 1e9:.2f} GB", f"{each.sent / 1e6:.1f} MB"
        in_round = f"{each.sent_in_round / 1e6:.0f} MB"
        k_means = f"{each.clusterings} of {CLUSTERINGS}"
        lines.append(f"  {size:>12,} {memory:>12} {sent:>12} {in_round:>12} {k_means:>12}")
    return lines
