"""Bounds and defaults that depend on the size of the data."""

import dataclasses

import pytest

from la_tf import stored_config
from la_tf.config import Config, ConfigError
from la_tf.networks.layers import NORM_MOMENTUM
from la_tf.options import kind_of, option_value, sections_and_options
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
    config = resolve(Config(), 1_281_167)
    assert (config.objective.k, config.clustering.num_clusters) == (4096, 30_000)
    assert (config.objective.tau, config.network.dim, config.objective.mix) == (0.07, 128, 0.5)
    assert (config.optimizer.learning_rate, config.optimizer.momentum) == (0.03, 0.9)
    assert (config.optimizer.weight_decay, config.data.batch_size) == (1e-4, 128)
    assert config.schedule.ir_epochs == 10
    assert config.network.bn_momentum == NORM_MOMENTUM == 0.997  # official


@pytest.mark.parametrize("size,m,k", [(1000, 200, 250), (50_000, 10_000, 4096), (128, 26, 32)])
def test_small_data_get_small_clusters_and_a_background_inside_the_bank(size, m, k):
    config = resolve(Config(), size)
    assert (config.clustering.num_clusters, config.objective.k) == (m, k)


@pytest.mark.parametrize("size", [128, 1437, 50_000, 200_000, 1_281_167, 14_000_000])
def test_defaults_keep_their_bounds_at_every_size(size):
    config = resolve(Config(), size)
    members = size / config.clustering.num_clusters
    assert 4.9 <= members <= 43 and config.objective.k <= size / 4


@pytest.mark.parametrize(
    "size,schedule,momentum",
    [
        (128, {"epochs": 2, "ir_epochs": 1}, 0.01),  # one step
        (400, {"epochs": 2, "ir_epochs": 1}, 0.2154),  # the cube root of 0.01, for three steps
        (1437, {"epochs": 90, "ir_epochs": 10}, 0.9),  # ten steps are averaged
        (1437, {"epochs": 100, "ir_epochs": 40}, 0.9006),  # 0.01 after 44 of 440 steps
        (50_000, {"epochs": 15, "ir_epochs": 0}, 0.9922),  # of 5850 steps
        (1_281_167, {"epochs": 2, "ir_epochs": 2}, 0.997),  # of 20,018, never slower than official
    ],
)
def test_batch_norm_forgets_its_initial_statistics_in_runs_of_any_length(size, schedule, momentum):
    network = resolve(with_options(**schedule), size).network
    assert network.bn_momentum == pytest.approx(momentum, abs=5e-5)
    given = resolve(with_options(bn_momentum=0.25, **schedule), size).network
    assert given.bn_momentum == 0.25


@pytest.mark.parametrize(
    "size,given,schedule",
    [
        (50_000, {}, (20, 12, (17,))),
        (500, {}, (400, 240, (340,))),  # not 2000 times the same images
        (10**7, {}, (1, 1, ())),  # one, of instance recognition
        (50_000, {"ir_epochs": 3, "drop_epochs": (9, 18)}, (20, 3, (9, 18))),
        (50_000, {"plateau_patience": 2}, (20, 12, ())),
        (50_000, {"epochs": 30}, (30, 10, ())),  # given epochs are what is trained
    ],
)
def test_views_are_shared_out_over_the_images(size, given, schedule):
    found = resolve(with_options(views=10**6, **given), size)
    epochs = (found.schedule.epochs, found.schedule.ir_epochs)
    assert (*epochs, found.optimizer.drop_epochs) == schedule


def test_views_are_those_that_whole_batches_show():
    """Of 240 images, each epoch shows 128: a budget of 12,800 views is 100 epochs."""
    assert resolve(with_options(views=12_800, batch_size=128), 240).schedule.epochs == 100
    assert resolve(with_options(views=12_800, batch_size=120), 240).schedule.epochs == 53


def test_without_epochs_or_views_it_is_the_paper_s_length():
    found = resolve(with_options(), 1000)
    assert (found.schedule.epochs, found.schedule.ir_epochs) == (200, 10)
    assert found.optimizer.drop_epochs == ()


def test_a_warm_start_is_the_same_whatever_is_trained_after_it():
    long = resolve(with_options(epochs=50, ir_epochs=3), 1000)
    short = resolve(with_options(epochs=3, ir_epochs=3), 1000)
    assert long.network == short.network


@pytest.mark.parametrize("option,choice", [("k", 250), ("num_clusters", 200)])
def test_k_and_m_may_be_n_and_no_more(option, choice):
    assert resolve(with_options(**{option: 1000}), 1000) == resolve(
        with_options(**{"k": 250, "num_clusters": 200, option: 1000}), 1000
    )
    with pytest.raises(ConfigError) as error:
        resolve(with_options(**{option: 1001}), 1000)
    assert str(error.value) == (
        f"--{option}=1001 is more than the 1000 training images; {choice} is this library's choice "
        "for that many."
    )


def test_a_baseline_leaves_out_what_it_does_not_have():
    given = {"ir_epochs": 300, "num_clusterings": 5}  # more epochs than there are
    supervised = resolve(with_options(method="supervised", **given), 50_000)
    assert supervised.schedule.ir_epochs == 0
    deepcluster = resolve(with_options(method="deepcluster", **given), 50_000)
    clustering = deepcluster.clustering
    assert (deepcluster.schedule.ir_epochs, clustering.num_clusterings) == (0, 1)
    assert (clustering.cluster_input, clustering.num_clusters) == ("center_crops", 390)
    assert deepcluster.method.top_rate == 4096 / 128
    chosen = with_options(method="deepcluster", num_clusters=77, top_rate=2.0)
    chosen = resolve(chosen, 50_000)
    assert (chosen.clustering.num_clusters, chosen.method.top_rate) == (77, 2.0)


@pytest.mark.parametrize("size,m", [(128, 100), (10_000, 100), (1_281_167, 10_000)])
def test_pseudo_classes_are_as_large_as_those_of_imagenet_but_never_fewer_than_100(size, m):
    assert resolve(with_options(method="deepcluster"), size).clustering.num_clusters == m


def test_every_number_has_a_range_that_holds_its_default():
    for name, (_, option) in sections_and_options().items():
        assert bool(option.metadata["within"]) == (kind_of(option) in (int, float, tuple)), name
        assert option_value(option, option.default) == option.default


@pytest.mark.parametrize(
    "options,words",
    [
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
        ({"num_clusters": 2**24 + 1}, "--num_clusters=16777217 must be a whole number from 1 to"),
        ({"drop_epochs": (30, 10**7)}, "--drop_epochs="),
        (
            {"image_size": (64, 96)},
            r"--image_size=\(64, 96\) must be a whole number from 1 to 4096",
        ),
        ({"image_size": "64"}, "--image_size=64 is text"),
        ({"jit_compile": True}, "add --nodeterministic"),
        ({"method": "deepcluster", "warm_start": "x"}, "--warm_start excludes --method=deepc"),
        ({"warm_start": "x", "init_from": "y"}, "--warm_start and --init_from exclude each other"),
        ({"extend": "x"}, "--extend makes a new run: name its directory with --run_dir"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_name(options, words):
    with pytest.raises(ConfigError, match=words):
        resolve(with_options(**options), 1000)


def test_a_stored_configuration_comes_back_equal():
    config = with_options(drop_epochs=(3, 5), k=77, flip=False, val_data="x")
    assert stored_config.from_dict(stored_config.to_dict(config)) == config


def test_a_stored_option_of_another_version_is_named():
    stored = stored_config.to_dict(Config())
    stored["objective"]["temperature"] = 1
    with pytest.raises(ConfigError, match="unknown option 'temperature'"):
        stored_config.from_dict(stored)


def test_a_stored_option_that_was_removed_is_passed_over_where_it_was_not_in_use():
    stored = stored_config.to_dict(Config())
    stored["clustering"]["cluster_in_background"] = False
    assert stored_config.from_dict(stored) == Config()
    stored["clustering"]["cluster_in_background"] = True
    with pytest.raises(ConfigError, match=r"--cluster_in_background=True .* no longer has"):
        stored_config.from_dict(stored)
