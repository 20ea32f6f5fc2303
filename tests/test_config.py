"""Bounds and defaults that depend on the size of the data."""

import dataclasses

import pytest

from la_tf import config as config_lib
from la_tf.config import Config, ConfigError
from la_tf.resolve import resolve


def with_options(**options) -> Config:
    """The default configuration with some leaves replaced, whatever their section."""
    config = Config()
    for section in dataclasses.fields(Config):
        part = getattr(config, section.name)
        mine = {k: v for k, v in options.items() if hasattr(part, k)}
        config = dataclasses.replace(config, **{section.name: dataclasses.replace(part, **mine)})
    return config


def test_option_names_are_unique_over_all_sections():
    names = [f.name for s in dataclasses.fields(Config) for f in dataclasses.fields(s.type)]
    assert len(names) == len(set(names))


def test_the_paper_s_values_are_the_defaults():
    config, notes = resolve(Config(), 1_281_167)
    assert notes == []
    assert (config.objective.k, config.clustering.num_clusters) == (4096, 30_000)
    assert (config.objective.tau, config.network.dim, config.objective.mix) == (0.07, 128, 0.5)
    assert (config.optimizer.learning_rate, config.optimizer.momentum) == (0.03, 0.9)
    assert (config.optimizer.weight_decay, config.data.batch_size) == (1e-4, 128)
    assert config.schedule.ir_epochs == 10


@pytest.mark.parametrize("size,m,k", [(1000, 200, 250), (50_000, 10_000, 4096), (128, 26, 32)])
def test_small_data_get_small_clusters_and_a_background_inside_the_bank(size, m, k):
    config, _ = resolve(Config(), size)
    assert (config.clustering.num_clusters, config.objective.k) == (m, k)


@pytest.mark.parametrize("size", [128, 1437, 50_000, 200_000, 1_281_167, 14_000_000])
def test_defaults_keep_their_bounds_at_every_size(size):
    config, _ = resolve(Config(), size)
    members = size / config.clustering.num_clusters
    assert 4.9 <= members <= 43 and config.objective.k <= size / 4


def test_k_beyond_n_is_clipped_with_a_note():
    config, notes = resolve(with_options(k=4096), 1000)
    assert config.objective.k == 1000 and "using k = N" in notes[0]


@pytest.mark.parametrize(
    "options,words",
    [
        ({"num_clusters": 2000}, "--num_clusters=2000"),
        ({"batch_size": 1001}, "fewer than one batch"),
        ({"tau": 0.0}, "--tau=0.0"),
        ({"tau": float("nan")}, "--tau=nan"),
        ({"mix": 1.5}, "--mix=1.5"),
        ({"k": 0}, "--k=0"),
        ({"num_clusterings": 0}, "--num_clusterings=0"),
        ({"drop_epochs": (30, 20)}, "must rise"),
        ({"drop_epochs": (30,), "plateau_patience": 5}, "exclude each other"),
        ({"ir_epochs": 11, "epochs": 10}, "--ir_epochs=11"),
        ({"seed": -1}, "--seed=-1"),
        ({"momentum": 1.5}, "--momentum=1.5"),
        ({"cluster_every_steps": -5}, "--cluster_every_steps=-5"),
        ({"crop_aspect": 0.0}, "--crop_aspect=0.0"),
        ({"num_devices": -1}, "--num_devices=-1"),
        ({"jit_compile": True}, "add --nodeterministic"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_name(options, words):
    with pytest.raises(ConfigError, match=words):
        resolve(with_options(**options), 1000)


def test_a_stored_configuration_comes_back_equal():
    config = with_options(drop_epochs=(3, 5), k=77, flip=False, val_data="x")
    assert config_lib.from_dict(config_lib.to_dict(config)) == config


def test_a_stored_option_of_another_version_is_named():
    stored = config_lib.to_dict(Config())
    stored["objective"]["temperature"] = 1
    with pytest.raises(ConfigError, match="unknown option 'temperature'"):
        config_lib.from_dict(stored)


def test_a_stored_option_that_was_removed_is_passed_over_where_it_was_not_in_use():
    stored = config_lib.to_dict(Config())
    stored["clustering"]["cluster_in_background"] = False
    assert config_lib.from_dict(stored) == Config()
    stored["clustering"]["cluster_in_background"] = True
    with pytest.raises(ConfigError, match=r"--cluster_in_background=True .* no longer has"):
        config_lib.from_dict(stored)
