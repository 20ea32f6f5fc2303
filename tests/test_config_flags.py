"""The command line of tools/train.py: a flag an option, and one sentence for what is wrong.

Flags are global to a process, so each test reads them in one of its own; none imports TensorFlow.
"""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from la_tf import stored_config
from la_tf.config import Config
from la_tf.recipes import recipe
from la_tf.resolve import PAPER_NUM_EXAMPLES, resolve

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Those of tools/finetune_voc.py have other flags, see test_detection_settings.py.
RECIPES = sorted(set((ROOT / "configs").glob("*.flags")) - set((ROOT / "configs").glob("voc07_*")))
PAPER_RECIPES = ("alexnet", "vgg16", "resnet18", "resnet50")
OPTIONS = {f.name: f for s in dataclasses.fields(Config) for f in dataclasses.fields(s.type)}
TRAINING_IMAGES = {"digits": 1437, "cifar10": 50_000, "imagenette": 9469, "photos": 5000}
# else ImageNet's
# tensorflow = None: whoever imports it gets an ImportError.
BEGINNING = """
import json, sys
sys.modules["tensorflow"] = None
import command_line, config_flags
from la_tf import config as config_lib, stored_config
config_flags.define_config_flags()
"""


def python(code: str, *arguments: str, cwd: pathlib.Path = ROOT) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'tools'}{os.pathsep}{ROOT}"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )


def parsed(*flags: str) -> Config:
    """The configuration that a command line gives."""
    code = BEGINNING + (
        "command_line.parse(sys.argv, '')\n"
        "print(json.dumps(stored_config.to_dict(config_flags.config_from_flags())))"
    )
    process = python(code, *flags)
    assert process.returncode == 0, process.stderr
    return stored_config.from_dict(json.loads(process.stdout))


def with_options(**options) -> Config:
    stored = stored_config.to_dict(Config())
    for section in stored.values():
        section.update({name: options.pop(name) for name in list(options) if name in section})
    assert not options
    return stored_config.from_dict(stored)


def test_every_option_is_a_flag_with_the_same_default():
    code = BEGINNING + (
        "flags = config_flags.FLAGS\n"
        "print(json.dumps({name: flags[name].default for name in json.loads(sys.argv[1])}))"
    )
    process = python(code, json.dumps(list(OPTIONS)))
    assert process.returncode == 0, process.stderr
    defaults = json.loads(process.stdout)
    assert defaults == {
        name: list(option.default) if isinstance(option.default, tuple) else option.default
        for name, option in OPTIONS.items()
    }
    # 1 and True, 1 and 1.0 are equal, but not the same kind of flag.
    for name, value in defaults.items():
        assert isinstance(value, list) or type(value) is type(OPTIONS[name].default), name


def test_no_flags_are_the_default_configuration():
    assert parsed() == Config()


def test_flags_of_every_kind_arrive_in_the_configuration():
    config = parsed(
        "--data=some/folder",  # str
        "--val_data=other",  # str | None
        "--k=77",  # int | None
        "--batch_size=64",  # int
        "--tau=0.1",  # float
        "--noflip",  # bool, on by default
        "--baselines",  # bool, off by default
        "--network=resnet18",  # one of several
        "--drop_epochs=119,142",  # list
    )
    assert config == with_options(
        data="some/folder",
        val_data="other",
        k=77,
        batch_size=64,
        tau=0.1,
        flip=False,
        baselines=True,
        network="resnet18",
        drop_epochs=(119, 142),
    )
    assert type(config.objective.k) is int and type(config.objective.tau) is float


@pytest.mark.parametrize("given,epochs", [("", ()), ("7", (7,)), ("7,9", (7, 9))])
def test_a_list_may_have_any_length(given, epochs):
    assert parsed(f"--drop_epochs={given}").optimizer.drop_epochs == epochs


def test_the_command_line_has_the_last_word_over_a_file(tmp_path):
    (tmp_path / "my.flags").write_text("# a comment\n--epochs=5\n\n--tau=0.2\n")
    config = parsed(f"--flagfile={tmp_path / 'my.flags'}", "--epochs=6")
    assert config == with_options(epochs=6, tau=0.2)


NUMBERS = [name for name, option in OPTIONS.items() if option.metadata["within"]]
STRANGE = ("-1", "0", "1e30", "1" + 30 * "0", "nan", "inf", "-inf", "text", "")


@pytest.fixture(scope="module")
def answers() -> dict[str, str | None]:
    """What the command line says to each strange number, by the flag; None where it takes it."""
    code = (
        BEGINNING
        + """
from la_tf.resolve import resolve
answers = {}
for flag in json.loads(sys.argv[1]):
    config_flags.FLAGS.unparse_flags()
    try:
        config_flags.FLAGS(["train", flag])
        resolve(config_flags.config_from_flags(), 1000)
        answers[flag] = None
    except (config_flags.flags.Error, config_lib.ConfigError) as error:
        answers[flag] = str(error)
print(json.dumps(answers))
"""
    )
    flags = [f"--{name}={value}" for name in NUMBERS for value in STRANGE]
    process = python(code, json.dumps(flags))
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_that_cannot_be_is_refused_in_one_sentence(answers, name):
    low, high = OPTIONS[name].metadata["within"]
    taken = {value for value in STRANGE if answers[f"--{name}={value}"] is None}
    assert taken <= {"-1", "0", "", "1e30", "1" + 30 * "0"}
    assert ("1e30" in taken) == ("1" + 30 * "0" in taken) == (high >= 1e30)
    assert ("-1" in taken) == (low == -1)
    assert ("0" in taken) == (low <= 0)
    assert ("" in taken) == (name == "drop_epochs")  # none
    for value in set(STRANGE) - taken:
        sentence = answers[f"--{name}={value}"]
        assert f"--{name}={value}" in sentence and " number" in sentence and "\n" not in sentence


@pytest.mark.parametrize("given", ["a,b", "1.5", "3,,4"])
def test_a_list_of_other_things_than_whole_numbers_is_refused(run_tool, tmp_path, given):
    code, _, stderr = run_tool("train", f"--drop_epochs={given}", cwd=tmp_path)
    assert code == 1
    assert "must be whole numbers from 1 to 1000000, as in 119,142; see" in stderr


@pytest.mark.parametrize(
    "flags,words",
    [
        (["--no_such_option=3"], "no_such_option"),
        (["--noepochs"], "noepochs"),
        (["--epochs=many"], "many"),
        (["--epochs=1.5"], "1.5"),
        (["--epochs="], "epochs"),
        (["--dim=1000000000000000000"], "must be a whole number from 1 to 65536"),
        (["--seed=18446744073709551616"], "from 0 to 4294967295"),
        (["--tau=warm"], "warm"),
        (["--flip=perhaps"], "perhaps"),
        (["--network=alexnet2"], "alexnet2"),
        (["--ir_loss=hinge"], "softmax"),  # names the choices
        (["--epochs=3", "extra"], "'extra' is not a flag"),
        (["--epochs", "3", "epochs=4"], "'epochs=4' is not a flag"),
        (["--epochs"], "epochs"),
        (["--flagfile=none.flags"], "none.flags"),
    ],
)
def test_a_wrong_command_line_ends_in_one_sentence(tmp_path, run_tool, flags, words):
    code, stdout, stderr = run_tool("train", *flags, cwd=tmp_path, fresh=True)
    assert code == 1
    assert stdout == ""
    assert re.fullmatch(r"error: [^\n]+\n", stderr) and words in stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpfull"])
def test_help_names_every_option_without_tensorflow(tmp_path, flag):
    code = (
        "import runpy, sys\nsys.modules['tensorflow'] = None\n"
        f"runpy.run_path({str(ROOT / 'tools' / 'train.py')!r}, run_name='__main__')"
    )
    process = python(code, flag, cwd=tmp_path)
    assert process.returncode == 0 and process.stderr == ""
    for name, option in OPTIONS.items():
        assert re.search(rf"^  --(\[no\])?{name}\b", process.stdout, re.M), name
        for choice in option.metadata["choices"]:
            assert choice in process.stdout
    text = " ".join(process.stdout.split())
    for option in OPTIONS.values():
        assert " ".join(option.metadata["help"].split()) in text
    assert "--flagfile" in text
    assert list(tmp_path.iterdir()) == []


def test_help_shows_defaults_as_they_are_typed(run_tool):
    _, stdout, _ = run_tool("train", "--help", fresh=True)
    shown = dict(re.findall(r"^  --(?:\[no\])?(\w+) \[(.*)\]$", stdout, re.M))
    assert shown["data"] == "digits"
    assert shown["tau"] == "0.07"
    assert shown["flip"] == "true"
    assert "k" not in shown and "drop_epochs" not in shown


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_can_be_trained(path):
    config = parsed(f"--flagfile={path}")
    size = TRAINING_IMAGES.get(path.stem, PAPER_NUM_EXAMPLES)
    resolved = resolve(config, size)
    assert recipe(path) == recipe(path.stem) == config
    assert config.run.run_dir == f"runs/{path.stem}"
    # No line of the file undoes another.
    given = re.findall(r"^--(?:no)?(\w+)", path.read_text(), re.M)
    assert len(given) == len(set(given))
    assert resolved.schedule.epochs > max(resolved.optimizer.drop_epochs, default=0)
    assert resolved.schedule.ir_epochs < resolved.schedule.epochs


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_begins_with_what_it_promises(path):
    lines = path.read_text().splitlines()
    head = "\n".join(lines[: next(i for i, line in enumerate(lines) if line.startswith("--"))])
    assert head.startswith("# ")
    assert "\n# command:" in head and "\n# hardware:" in head
    assert "measured" in head or "paper" in head
    assert all(line.startswith("#") for line in head.splitlines() if line)


@pytest.mark.parametrize("name", PAPER_RECIPES)
def test_the_paper_s_recipes_hold_the_paper_s_numbers(name):
    config = parsed(f"--flagfile={ROOT / 'configs' / name}.flags")
    assert config.network.network == name and config.data.image_size == 224
    assert (config.objective.k, config.objective.tau, config.objective.mix) == (4096, 0.07, 0.5)
    assert (config.data.batch_size, config.network.dim) == (128, 128)
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (0.03, 1e-4)
    # Section 4.1: 30,000 clusters but 10,000 for VGG16; H = 3, 6 and 10; 10 epochs of IR.
    clusters, clusterings = {"alexnet": (30_000, 3), "vgg16": (10_000, 6)}.get(name, (30_000, 10))
    assert config.clustering.num_clusters == clusters
    assert config.clustering.num_clusterings == clusterings
    assert config.schedule.ir_epochs == 10 and len(config.optimizer.drop_epochs) == 2


@pytest.mark.parametrize("arguments", [[], ["--flagfile=configs/cifar10.flags"], ["--epochs=3"]])
def test_training_without_images_says_what_to_give(arguments):
    process = python("import train; train.main()", *arguments)
    assert (process.returncode, process.stdout) == (1, "")
    (sentence,) = process.stderr.splitlines()
    assert "--data=DIR" in sentence and "--flagfile=configs/digits.flags" in sentence
