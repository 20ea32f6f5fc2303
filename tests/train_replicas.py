"""Trains a few steps on some replicas and writes what came out; run by test_distributed.py.

A program of its own, since TensorFlow's collective operations keep the group of devices that they
were first used with. With TF_CONFIG set it is one of several workers.

  python tests/train_replicas.py REPLICAS OUTPUT.npz
"""

import os
import sys

from la_tf import quiet

quiet.quiet()

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from la_tf.config import AugmentConfig, ObjectiveConfig, RunConfig  # noqa: E402
from la_tf.data.base import Subset  # noqa: E402
from la_tf.data.digits import DigitsSource  # noqa: E402
from la_tf.data.pipeline import Steps, train_dataset  # noqa: E402
from la_tf.model import LocalAggregation  # noqa: E402
from la_tf.networks import build_network  # noqa: E402
from la_tf.runs import runtime  # noqa: E402

N, BATCH, IR_STEPS, LA_STEPS = 64, 16, 3, 3


def main() -> None:
    replicas, output = int(sys.argv[1]), sys.argv[2]
    if "TF_CONFIG" in os.environ:
        strategy = runtime.make_strategy(RunConfig(strategy="multi_worker_mirrored"))
    else:
        strategy = runtime.make_strategy(RunConfig(num_devices=replicas))
    assert strategy.num_replicas_in_sync == replicas
    tf.keras.utils.set_random_seed(0)
    source = Subset(DigitsSource(), range(N))
    with strategy.scope():
        model = LocalAggregation(
            build_network("smallnet", 16, 32, sync_bn=True),
            N,
            objective=ObjectiveConfig(k=N),  # of two near ties, rounding would choose the k-th
            num_clusterings=3,
            warm_start_steps=IR_STEPS,
            seed=1,
        )
        model.compile(tf.keras.optimizers.SGD(0.03, momentum=0.9))
    first_bank = model.bank.vectors.numpy()
    model.cluster_labels.assign(np.random.default_rng(0).integers(0, 8, (N, 3)).astype(np.float32))

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
    np.savez(
        output,
        first_bank=first_bank,
        banks=np.stack([copy.numpy() for copy in copies]),
        **{f"history/{name}": values for name, values in history.items()},
        **{f"weight/{v.name}": v.numpy() for v in model.network.variables},
    )


if __name__ == "__main__":
    main()
