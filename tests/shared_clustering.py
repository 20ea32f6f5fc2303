"""Clusters one bank in two rounds, as training does; run by test_shared_clustering.py.

With TF_CONFIG set it is one of several workers.

  python tests/shared_clustering.py FOLDER
"""

import os
import pathlib
import sys

from la_tf import quiet

quiet.quiet()

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from la_tf import clustering  # noqa: E402
from la_tf.callbacks.clustering_rounds import ClusteringCallback  # noqa: E402
from la_tf.config import ClusteringConfig, ObjectiveConfig, RunConfig  # noqa: E402
from la_tf.model import LocalAggregation  # noqa: E402
from la_tf.runs import runtime  # noqa: E402
from la_tf.runs.log import RunLog  # noqa: E402

N, D, M, H, SEED = 500, 8, 20, 3, 4


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    kind = "multi_worker_mirrored" if "TF_CONFIG" in os.environ else "mirrored"
    strategy = runtime.make_strategy(RunConfig(strategy=kind))
    made, kmeans = [], clustering.kmeans
    seeds = [list(clustering.clustering_seeds(SEED, round_, H)) for round_ in range(2)]

    def recorded(vectors, num_clusters, seed, *others):
        made.extend(row.index(seed) for row in seeds if seed in row)
        return kmeans(vectors, num_clusters, seed, *others)

    clustering.kmeans = recorded
    with strategy.scope():
        images = tf.keras.Input([D])
        embeddings = tf.keras.layers.UnitNormalization()(tf.keras.layers.Dense(D)(images))
        model = LocalAggregation(
            tf.keras.Model(images, embeddings),
            N,
            objective=ObjectiveConfig(k=16),
            clustering=ClusteringConfig(num_clusterings=H),
            warm_start_steps=0,
            seed=1,
        )
    log = RunLog(folder / "log.jsonl")
    callback = ClusteringCallback(
        ClusteringConfig(num_clusters=M, num_clusterings=H),
        steps_per_epoch=4,
        seed=SEED,
        log=log,
        timing=RunLog(folder / "timing.jsonl"),
    )
    callback.set_model(model)
    labels = []
    for round_ in range(2):
        callback.cluster(round_)
        labels.append(model.cluster_labels.numpy())
    np.savez(folder / "rounds.npz", labels=np.stack(labels), made=made)


if __name__ == "__main__":
    main()
