"""Trains a few steps on some replicas and writes what came out; run by test_distributed.py.

A program of its own, since TensorFlow's collective operations keep the group of devices that they
were first used with. With TF_CONFIG set it is one of several workers.

  python tests/train_replicas.py REPLICAS FOLDER METHOD ...

writes METHOD.npz.
"""

import os
import sys

from la_tf import quiet

quiet.quiet()

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from la_tf.banked_model import BankedModel  # noqa: E402
from la_tf.baselines.deepcluster import DeepCluster  # noqa: E402
from la_tf.baselines.supervised import Supervised  # noqa: E402
from la_tf.config import AugmentConfig, ClusteringConfig, ObjectiveConfig, RunConfig  # noqa: E402
from la_tf.data.base import Subset  # noqa: E402
from la_tf.data.digits import DigitsSource  # noqa: E402
from la_tf.data.pipeline import Steps, train_dataset  # noqa: E402
from la_tf.model import LocalAggregation  # noqa: E402
from la_tf.networks import build_network  # noqa: E402
from la_tf.runs import runtime  # noqa: E402

N, BATCH, IR_STEPS, LA_STEPS = 64, 16, 3, 3


def main() -> None:
    replicas, folder, *methods = int(sys.argv[1]), *sys.argv[2:]
    if "TF_CONFIG" in os.environ:
        strategy = runtime.make_strategy(RunConfig(strategy="multi_worker_mirrored"))
    else:
        strategy = runtime.make_strategy(RunConfig(num_devices=replicas))
    assert strategy.num_replicas_in_sync == replicas
    for method in methods:
        np.savez(f"{folder}/{method}.npz", **train(strategy, method))


def train(strategy: tf.distribute.Strategy, method: str) -> dict[str, np.ndarray]:
    tf.keras.utils.set_random_seed(0)
    source = Subset(DigitsSource(), range(N))
    with strategy.scope():
        model = make_model(source, method)
        model.compile(tf.keras.optimizers.SGD(0.03, momentum=0.9))
    first_bank = model.bank.vectors.numpy()
    if not isinstance(model, Supervised):
        labels = np.random.default_rng(0).integers(0, 8, model.cluster_labels.shape)
        model.cluster_labels.assign(labels.astype(np.float32))
    if isinstance(model, DeepCluster):
        model.begin_round(0)

    def replicas_dataset(context):
        steps = Steps(0, IR_STEPS + LA_STEPS, BATCH, seed=0).of_process(context)
        return train_dataset(source, steps, image_size=16, augment=AugmentConfig())

    history = model.fit(
        strategy.distribute_datasets_from_function(replicas_dataset),
        steps_per_epoch=1,
        epochs=IR_STEPS + LA_STEPS,
        verbose=0,
    ).history
    copies = strategy.experimental_local_results(model.bank.vectors)
    # What training changes is a weight of its own in every replica.
    tops = [] if isinstance(model, LocalAggregation) else model.classifier.weights
    top_copies = {
        f"top/{v.name}": np.stack([c.numpy() for c in strategy.experimental_local_results(v)])
        for v in tops
    }
    return {
        "first_bank": first_bank,
        "banks": np.stack([copy.numpy() for copy in copies]),
        **{f"history/{name}": np.array(values) for name, values in history.items()},
        **{f"weight/{v.name}": v.numpy() for v in model.network.variables},
        **top_copies,
    }


def make_model(source: Subset, method: str) -> BankedModel:
    network = build_network("smallnet", 16, 32, sync_bn=True)
    shared = {"mix": 0.5, "weight_decay": 1e-4, "seed": 1}
    if method == "supervised":
        return Supervised(network, source.labels, **shared)
    if method == "deepcluster":
        return DeepCluster(network, N, num_clusters=8, top_rate=4.0, **shared)
    return LocalAggregation(
        network,
        N,
        objective=ObjectiveConfig(k=N),  # of two near ties, rounding would choose the k-th
        clustering=ClusteringConfig(num_clusterings=3),
        warm_start_steps=IR_STEPS,
        seed=1,
    )


if __name__ == "__main__":
    main()
