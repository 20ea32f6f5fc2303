"""What the machine underneath is told, and what it is spared."""

import dataclasses
import types

import pytest
import tensorflow as tf

from la_tf.config import Config, ConfigError, DataConfig, NumericsConfig, RunConfig
from la_tf.runs import runtime


@pytest.fixture
def restored():
    """Puts back what `configure` sets for the whole process."""
    policy = tf.keras.mixed_precision.global_policy()
    tf32 = tf.config.experimental.tensor_float_32_execution_enabled()
    yield
    tf.keras.mixed_precision.set_global_policy(policy)
    tf.config.experimental.enable_tensor_float_32_execution(tf32)


@pytest.mark.parametrize("numerics,expected", [({}, False), ({"tf32": True}, True)])
def test_float32_is_float32_unless_less_was_asked_for(restored, numerics, expected):
    tf.config.experimental.enable_tensor_float_32_execution(not expected)
    runtime.configure(NumericsConfig(deterministic=False, **numerics), seed=0)
    assert tf.config.experimental.tensor_float_32_execution_enabled() == expected


@pytest.mark.parametrize(
    "hosts,index,words",
    [
        ("a:1,b:2", 2, r"--task_index=2 is beyond the 2 workers of --worker_hosts: give 0 to 1\."),
        ("a:1", 99, "--task_index=99 is beyond the 1 workers"),
        ("a:1,,b:2", 0, "--worker_hosts names '': give host:port"),
        ("a:1,b", 1, "names 'b'"),
    ],
)
def test_workers_that_cannot_be_are_refused(monkeypatch, hosts, index, words):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    config = RunConfig(strategy="multi_worker_mirrored", worker_hosts=hosts, task_index=index)
    with pytest.raises(ConfigError, match=words):
        runtime.make_strategy(config)


@pytest.mark.parametrize("given", ["{", "[]", "{}", '{"cluster": {"worker": "a:1"}}', "null"])
def test_a_description_of_workers_that_is_none_is_refused(monkeypatch, given):
    monkeypatch.setenv("TF_CONFIG", given)
    with pytest.raises(ConfigError, match="TF_CONFIG does not describe the workers: "):
        runtime.make_strategy(RunConfig(strategy="multi_worker_mirrored"))


def test_memory_that_tensorflow_has_taken_already_stays_as_it_is(monkeypatch):
    def too_late(gpu, enable):
        raise RuntimeError("Physical devices cannot be modified after being initialized")

    gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [gpu])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", too_late)
    runtime.grow_gpu_memory()


def of_batch(batch_size: int, block_size: int = 0) -> Config:
    return dataclasses.replace(
        Config(),
        data=DataConfig(batch_size=batch_size),
        numerics=NumericsConfig(block_size=block_size),
    )


@pytest.mark.parametrize(
    "batch,block,replicas,size",
    [
        (128, 0, 1, 2**24 - 1),
        (128, 0, 2, 2**25 - 1),
        (128, 32, 1, 2**26 - 1),
        (128, 1, 1, 2**31 - 1),
    ],
)
def test_similarities_that_int32_counts_are_trained_and_one_more_image_is_refused(
    batch, block, replicas, size
):
    runtime.require_replicas(of_batch(batch, block), replicas, size)
    with pytest.raises(ConfigError, match=r"2\^31 .* give"):
        runtime.require_replicas(of_batch(batch, block), replicas, size + 1)


@pytest.mark.parametrize(
    "batch,size,fitting", [(128, 2**24, 64), (100, 2**25, 50), (128, 10**8, 16)]
)
def test_the_block_size_that_is_asked_for_is_the_largest_that_goes(batch, size, fitting):
    with pytest.raises(ConfigError, match=f"--block_size={fitting} or less"):
        runtime.require_replicas(of_batch(batch), 1, size)
    runtime.require_replicas(of_batch(batch, fitting), 1, size)


@pytest.mark.parametrize(
    "jobs,task,place,is_chief",
    [
        ({"worker": 3}, ("worker", 0), 0, True),
        ({"worker": 3}, ("worker", 2), 2, False),
        ({"chief": 1, "worker": 2}, ("chief", 0), 0, True),
        ({"chief": 1, "worker": 2}, ("worker", 1), 2, False),
    ],
)
def test_the_places_of_workers_are_counted_from_the_one_that_writes(jobs, task, place, is_chief):
    spec = {job: [f"{job}{i}:1" for i in range(count)] for job, count in jobs.items()}
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(spec), task_type=task[0], task_id=task[1]
    )
    strategy = types.SimpleNamespace(cluster_resolver=resolver, num_replicas_in_sync=6)
    assert runtime.worker_index(strategy) == place
    assert runtime.is_chief(strategy) == is_chief
    assert (runtime.num_workers(strategy), runtime.local_replicas(strategy)) == (3, 2)


def test_a_process_alone_is_the_first_with_all_replicas():
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(4)])
    assert (runtime.worker_index(strategy), runtime.local_replicas(strategy)) == (0, 4)
    assert runtime.local_replicas(tf.distribute.get_strategy()) == 1
