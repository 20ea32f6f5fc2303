"""Exchanges the clusterings of a round between workers that have made some each."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from la_tf.clustering import Clustering
from la_tf.runs import runtime


def exchange(
    strategy: tf.distribute.Strategy,
    mine: Mapping[int, Clustering],
    num_clusterings: int,
    num_examples: int,
    num_clusters: int,
) -> list[Clustering]:
    """All H clusterings, of which each worker has made some; call it on every worker.

    One after the other, so that a device holds the labels of only one. Each is a sum over all
    replicas, in which one adds the labels and the others zeros, and therefore exact.

    Args:
      strategy: the strategy that trains.
      mine: number -> clustering, of this worker; every number belongs to one worker.
      num_clusterings: H.
      num_examples: N.
      num_clusters: m.

    Returns:
      H clusterings in the order of their numbers, the same to the bit on every worker.
    """
    local = runtime.local_replicas(strategy)

    @tf.function(autograph=False)
    def sum_of_workers(value: tf.Tensor) -> tf.Tensor:
        def in_replica(value: tf.Tensor) -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            first = context.replica_id_in_sync_group % local == 0  # of this worker
            part = tf.where(first, value, tf.zeros_like(value))
            return context.all_reduce(tf.distribute.ReduceOp.SUM, part)

        return strategy.experimental_local_results(strategy.run(in_replica, args=(value,)))[0]

    runs = []
    for number in range(num_clusterings):
        # int64, because int32 tensors cannot be summed between GPUs.
        labels, inertia = np.zeros(num_examples, np.int64), 0.0
        if number in mine:
            labels, inertia = mine[number].labels.astype(np.int64), mine[number].inertia
        labels = sum_of_workers(tf.constant(labels)).numpy().astype(np.int32)
        inertia = float(sum_of_workers(tf.constant(inertia, tf.float64)).numpy())
        runs.append(Clustering(labels, inertia, np.bincount(labels, minlength=num_clusters)))
    return runs
