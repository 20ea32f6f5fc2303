"""Recipes from Python: the words of flagfiles, and options by their names."""

import dataclasses
import pathlib

import numpy as np
import pytest

from la_tf.config import (
    AugmentConfig,
    Config,
    ConfigError,
    DataConfig,
    ObjectiveConfig,
    OptimizerConfig,
    RunConfig,
)
from la_tf.recipes import recipe


@pytest.fixture
def flagfile(tmp_path):
    def write(text: str) -> pathlib.Path:
        path = tmp_path / "my.flags"
        path.write_text(text)
        return path

    return write


def test_a_flagfile_says_what_its_flags_say(flagfile):
    path = flagfile("# words\n\n// more\n  --k=7\n-tau=0.5\n--noflip\n--skip_bad_images\n--k=8\n")
    assert recipe(path) == Config(
        data=DataConfig(skip_bad_images=True),
        augment=AugmentConfig(flip=False),
        objective=ObjectiveConfig(k=8, tau=0.5),
    )


def test_arguments_have_the_last_word_as_text_or_as_values(flagfile):
    path = flagfile("--k=7\n--drop_epochs=3,5\n--data=a=b c\n")
    changed = recipe(path, k=np.int64(9), tau="0.5", drop_epochs=[1, 2], run_dir=pathlib.Path("r"))
    assert changed == Config(
        data=DataConfig(data="a=b c"),
        objective=ObjectiveConfig(k=9, tau=0.5),
        optimizer=OptimizerConfig(drop_epochs=(1, 2)),
        run=RunConfig(run_dir="r"),
    )
    assert type(changed.objective.k) is int
    assert recipe(path, k=None, drop_epochs="").objective == Config().objective


def test_a_recipe_by_its_name_is_the_file_in_configs():
    config = recipe("cifar10", data="mine")
    assert (config.data.data, config.data.image_size, config.schedule.epochs) == ("mine", 32, 78)
    assert dataclasses.replace(config, data=recipe("cifar10").data) == recipe("cifar10")


@pytest.mark.parametrize(
    "options,sentence",
    [
        ({"epoch": 3}, "there is no option 'epoch': did you mean epochs or "),
        ({"zzzzzz": 3}, "there is no option 'zzzzzz'."),
        ({"epochs": 1.0}, "--epochs=1.0 must be a whole number from 1 to 1000000."),
        ({"epochs": True}, "--epochs=True must be a whole number"),
        ({"seed": None}, "--seed=None must be a whole number"),
        ({"tau": False}, "--tau=False must be a number from 0.001 to 1000."),
        ({"flip": 2}, "--flip=2 must be true or false."),
        ({"network": "alexnet2"}, "--network=alexnet2 must be one of alexnet, vgg16"),
        ({"data": 3}, "--data=3 must be text."),
        ({"drop_epochs": 3}, "--drop_epochs=3 must be whole numbers"),
    ],
)
def test_what_is_no_option_or_no_value_of_it_is_refused(options, sentence):
    with pytest.raises(ConfigError) as error:
        recipe("digits", **options)
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize(
    "line,sentence",
    [
        ("--epoch=3", "there is no option 'epoch': did you mean epochs"),
        ("--epochs", "--epochs needs a value, as in --epochs=..."),
        ("--noepochs", "--epochs needs a value"),
        ("epochs=3", "'epochs=3' is not of the form --name=value."),
        ("--nothing", "there is no option 'nothing'."),
    ],
)
def test_a_wrong_line_is_named_with_its_number(flagfile, line, sentence):
    path = flagfile(f"# one\n{line}\n")
    with pytest.raises(ConfigError) as error:
        recipe(path)
    assert str(error.value).startswith(f"{path}, line 2: {sentence}")


def test_an_unknown_recipe_is_answered_with_those_there_are(tmp_path):
    with pytest.raises(ConfigError, match=r"no recipe 'cifar': choose one of alexnet, cifar10, "):
        recipe("cifar")
    with pytest.raises(ConfigError, match=r"none\.flags cannot be read as a recipe"):
        recipe(tmp_path / "none.flags")
