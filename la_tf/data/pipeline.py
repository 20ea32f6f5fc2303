"""Batches of (index, view), as a function of the step alone.

Each epoch is a new permutation of the N images, from (seed, epoch). It is cut into N // B batches;
the last N mod B images of the permutation are left out of this epoch. So the position in the data
is one integer, the step: a pipeline that starts at step s gives what an uninterrupted one gives
from s on, whatever the number of replicas.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from la_tf.config import AugmentConfig
from la_tf.data.augment import augment_view, center_view, view_seed
from la_tf.data.base import DataError, Source, philox_order

_MAX_THREADS = 32
EVAL_BATCH_SIZE = 128  # where the size of a batch changes no result
KEPT_BYTES = 64 << 20  # of views that are kept in memory


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Whole batches in an epoch, N // B.

    Raises:
      DataError: not even one.
    """
    steps = num_examples // batch_size
    if steps == 0:
        raise DataError(
            f"{num_examples} images are fewer than one batch of {batch_size}: add images or lower "
            "--batch_size."
        )
    return steps


def step_indices(num_examples: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """The examples of one step.

    Args:
      num_examples: N.
      batch_size: B, over all replicas.
      seed: of the run.
      step: from 0, counted over the whole run.

    Returns:
      int32 [B], different numbers from 0..N-1.
    """
    epoch, within = divmod(step, steps_per_epoch(num_examples, batch_size))
    return _epoch_order(num_examples, seed, epoch)[within * batch_size : (within + 1) * batch_size]


# Two epochs, since a pipeline reads ahead into the next one.
@functools.lru_cache(maxsize=2)
def _epoch_order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    return philox_order(num_examples, seed, stream=epoch, purpose=0).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Steps:
    """Consecutive steps of a run, and the replicas that want their slices of the batches.

    Attributes:
      start: first step, counted over the whole run.
      end: the step after the last.
      batch_size: B, over all replicas.
      seed: of the run; chooses the order and the views.
      num_replicas: R, over all processes.
      replica_ids: the replicas of this process.
    """

    start: int
    end: int
    batch_size: int
    seed: int
    num_replicas: int = 1
    replica_ids: Sequence[int] = (0,)

    def of_process(self, context: tf.distribute.InputContext) -> "Steps":
        """The same steps for the replicas of one process of a strategy."""
        here = context.num_replicas_in_sync // context.num_input_pipelines
        first = context.input_pipeline_id * here
        return dataclasses.replace(
            self, num_replicas=context.num_replicas_in_sync, replica_ids=range(first, first + here)
        )

    @property
    def slice_size(self) -> int:
        """B/R, images of one replica in one step.

        Raises:
          DataError: B is not a multiple of R.
        """
        size, rest = divmod(self.batch_size, self.num_replicas)
        if rest:
            raise DataError(
                f"--batch_size={self.batch_size} cannot be shared equally by {self.num_replicas} "
                f"devices: use a multiple of {self.num_replicas}."
            )
        return size


def train_dataset(
    source: Source, steps: Steps, *, image_size: int, augment: AugmentConfig
) -> tf.data.Dataset:
    """The random views to train on, see `random_dataset`.

    Args:
      source: N examples.
      steps: which steps, for which replicas.
      image_size: S, pixels.
      augment: ranges of the random choices.
    """
    return random_dataset(
        source, lambda encoded, pair: augment_view(encoded, pair, image_size, augment), steps
    )


def random_dataset(
    source: Source, view: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], steps: Steps
) -> tf.data.Dataset:
    """Random views, step by step.

    For each step it yields one element for each of `steps.replica_ids`, in their order: replica r
    has the r-th of R equal slices of the step's batch. This is what
    `strategy.distribute_datasets_from_function` hands to the replicas of one process in turn.

    Args:
      source: N examples.
      view: (encoded image, integer [2] seeds) -> float32 [S, S, 3].
      steps: which steps, for which replicas.

    Returns:
      (index int32 [B/R], view float32 [B/R, S, S, 3]).

    Raises:
      DataError: B is not a multiple of R, or N is less than B.
    """

    def indexed_view(index: tf.Tensor, epoch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return index, view(source.load(index), view_seed(steps.seed, epoch, index))

    examples = example_dataset(source.num_examples, steps)
    return _map_and_batch(examples, indexed_view, steps.slice_size)


def example_dataset(num_examples: int, steps: Steps) -> tf.data.Dataset:
    """Which examples `random_dataset` shows when, one by one.

    Returns:
      (index int32 [], epoch int64 []), B/R a step and replica.

    Raises:
      DataError: B is not a multiple of R, or N is less than B.
    """
    slices = (steps.num_replicas, steps.slice_size)
    in_epoch = steps_per_epoch(num_examples, steps.batch_size)

    def local_indices(step: np.ndarray) -> np.ndarray:
        indices = step_indices(num_examples, steps.batch_size, steps.seed, int(step))
        return indices.reshape(slices)[list(steps.replica_ids)].reshape(-1)

    @tf.autograph.experimental.do_not_convert  # as in `_map_and_batch`
    def examples(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        indices = tf.numpy_function(local_indices, [step], tf.int32, stateful=False)
        indices = tf.ensure_shape(indices, [steps.slice_size * len(steps.replica_ids)])
        return indices, tf.fill(tf.shape(indices), step // in_epoch)

    return tf.data.Dataset.range(steps.start, steps.end).map(examples).unbatch()


def eval_dataset(
    source: Source, *, image_size: int, batch_size: int = EVAL_BATCH_SIZE
) -> tf.data.Dataset:
    """Centre views of all examples, in order.

    Args:
      source: N examples.
      image_size: S, pixels.
      batch_size: B; the last batch may be smaller.

    Returns:
      (index int32 [B], view float32 [B, S, S, 3]).
    """
    return ordered_dataset(source, lambda encoded: center_view(encoded, image_size), batch_size)


def kept_eval_dataset(source: Source, *, image_size: int) -> tf.data.Dataset:
    """`eval_dataset` for several passes: a small set is read and decoded in the first one alone.

    Up to `KEPT_BYTES` of views are kept, 5,461 of 32 pixels or 111 of 224. Of a few photographs,
    decoding the same ones in each epoch takes longer than to cluster all.
    """
    views = eval_dataset(source, image_size=image_size)
    small = source.num_examples * image_size**2 * 3 * 4 <= KEPT_BYTES
    return views.cache() if small else views


def ordered_dataset(
    source: Source, view: Callable[[tf.Tensor], tf.Tensor], batch_size: int
) -> tf.data.Dataset:
    """Any view of all examples, in order.

    Args:
      source: N examples.
      view: encoded image -> a tensor of one shape.
      batch_size: B; the last batch may be smaller.

    Returns:
      (index int32 [B], view [B, ...]).
    """

    def indexed_view(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.cast(index, tf.int32), view(source.load(index))

    return _map_and_batch(tf.data.Dataset.range(source.num_examples), indexed_view, batch_size)


def _map_and_batch(
    dataset: tf.data.Dataset, function: Callable, batch_size: int
) -> tf.data.Dataset:
    # One thread more than cores, so that no core is idle while a thread waits: with two cores this
    # is a tenth faster.
    threads = min(_MAX_THREADS, len(os.sched_getaffinity(0)) + 1)
    # No `if` here depends on a tensor; AutoGraph would take longer than the tracing to find out.
    function = tf.autograph.experimental.do_not_convert(function)
    dataset = dataset.map(function, num_parallel_calls=threads, deterministic=True)
    dataset = dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1  # images are processed in parallel already
    # Several workers each build the pipeline of their own replicas.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options)
