"""What replicas cost: measured on logical CPU devices, and calculated for more and larger ones."""

import contextlib
import dataclasses
import itertools
import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

import tensorflow as tf

from la_tf import runtime
from la_tf.benchmark.step import BATCH, CLUSTERINGS, DIM, K
from la_tf.benchmark.timing import Row, repeat
from la_tf.benchmark.train import random_model
from la_tf.config import NumericsConfig, RunConfig

PARAMETERS = 23_800_000  # of ResNet-50 and its embedding layer
_INDEX = 8  # bytes of an index between replicas


@dataclasses.dataclass(frozen=True)
class Needs:
    """What one replica needs, by calculation.

    Attributes:
      memory: bytes of bank, labels and similarities.
      sent: bytes it sends in a step, gradients included, by ring algorithms.
    """

    memory: int
    sent: int


def replicated_bank(num_examples: int, replicas: int, batch: int = BATCH) -> Needs:
    """A whole bank in every replica, as it is implemented: N rows each, the batch shared.

    Args:
      num_examples: N.
      replicas: R.
      batch: B, over all replicas.
    """
    rows = num_examples * 4 * (DIM + CLUSTERINGS)
    similarities = batch // replicas * num_examples * 4
    gathered = (replicas - 1) * batch // replicas * (_INDEX + 4 * DIM)
    return Needs(rows + similarities, gathered + _gradients(replicas))


def split_bank(num_examples: int, replicas: int, batch: int = BATCH) -> Needs:
    """A bank split over the replicas, which is not implemented: N / R rows each, the batch whole.

    Each would compare all embeddings with its rows, send the k best of every other's images, with
    their similarities and row numbers, and add up the gradients of all of them over its rows.
    """
    share = num_examples // replicas
    memory = share * 4 * (DIM + CLUSTERINGS) + batch * share * 4
    others = batch - batch // replicas
    embeddings = (replicas - 1) * batch // replicas * (_INDEX + 4 * DIM)
    candidates = others * K * (4 + _INDEX + 4 * CLUSTERINGS)
    return Needs(memory, embeddings + candidates + others * 4 * DIM + _gradients(replicas))


def _gradients(replicas: int) -> int:
    return 2 * (replicas - 1) * PARAMETERS * 4 // replicas


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
    """`Needs` of each N, whole bank and split bank, as lines of text."""
    lines = [f"calculated for {replicas} replicas, D = {DIM}, H = {CLUSTERINGS}, B = {BATCH}:"]
    lines.append(f"  {'N':>12} {'bank':>12} {'memory each':>12} {'sent a step':>12}")
    for size in sizes:
        for name, needs in (
            ("in each", replicated_bank(size, replicas)),
            ("split", split_bank(size, replicas)),
        ):
            memory, sent = f"{needs.memory / 1e9:.2f} GB", f"{needs.sent / 1e6:.1f} MB"
            lines.append(f"  {size:>12,} {name:>12} {memory:>12} {sent:>12}")
    return lines
