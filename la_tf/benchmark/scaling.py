"""What replicas cost, measured on logical CPU devices."""

import contextlib
import itertools
from collections.abc import Callable

import tensorflow as tf

from la_tf.benchmark.process import answer, in_process
from la_tf.benchmark.step import BATCH
from la_tf.benchmark.timing import Row, repeat
from la_tf.benchmark.train import random_model
from la_tf.config import NumericsConfig, RunConfig
from la_tf.runs import runtime


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
        steps = [stack.enter_context(in_process(answer, stepper, count)) for count in devices]
        seconds = repeat(dict(zip(names, steps, strict=True)), repetitions)
    return [
        Row(name, times, None if name == names[0] else names[0], BATCH)
        for name, times in seconds.items()
    ]


def stepper(count: int) -> Callable[[], float]:
    """A function that takes one step on `count` replicas and returns its loss.

    It fixes the devices of this process.
    """
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
    return lambda: float(step(batches)["loss"])
