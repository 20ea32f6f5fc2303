"""What cannot fit in memory is refused before it is made, with what it would take."""

import psutil
import pytest
import tensorflow as tf

from la_tf.building import build_model
from la_tf.config import (
    ClusteringConfig,
    Config,
    DataConfig,
    NetworkConfig,
    NumericsConfig,
    ScheduleConfig,
)
from la_tf.errors import RunError

N = 1000


def config(**numerics) -> Config:
    return Config(
        data=DataConfig(image_size=16, batch_size=8),
        network=NetworkConfig(network="smallnet", dim=5),
        clustering=ClusteringConfig(num_clusterings=7),
        numerics=NumericsConfig(**numerics),
        schedule=ScheduleConfig(epochs=2, ir_epochs=1),
    )


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="a GPU holds most of it")
@pytest.mark.parametrize("block_size,compared", [(0, 8), (2, 2)])
def test_room_is_asked_for_bank_labels_similarities_network_and_feature_maps(
    monkeypatch, block_size, compared
):
    # SmallNet at 16 pixels, worked out by hand: weights of five convolutions, four numbers a
    # channel for batch norm and, not counting pooling, the last map of each size.
    kernels = 9 * (3 * 32 + 32 * 64 + 64 * 128 + 128 * 128 + 128 * 256)
    norms = 4 * (32 + 64 + 128 + 128 + 256)
    weights = kernels + norms + 256 * 5 + 5
    maps = 16 * 16 * 32 + 8 * 8 * 64 + 4 * 4 * 128 + 2 * 2 * 256
    needed = 4 * N * 5 + 4 * N * 7 + 4 * compared * N + 8 * weights + 4 * 8 * maps
    memory = psutil.virtual_memory()

    def with_free(free: float) -> None:
        free = memory._replace(available=free)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: free)

    with_free(needed / 0.8 - 2)
    with pytest.raises(RunError, match=r"2e-05 GB of the memory bank \(1000 x 5\).* GiB are free"):
        build_model(config(block_size=block_size), N, steps_per_epoch=1)
    with_free(needed / 0.8 + 2)
    assert (
        build_model(config(block_size=block_size), N, steps_per_epoch=1).bank.vectors.shape[0] == N
    )


def test_a_bank_beyond_any_memory_is_never_made():
    with pytest.raises(RunError, match=r"2e\+04 GB of the memory bank"):
        build_model(config(), 10**12, steps_per_epoch=1)
