"""--callbacks: what is called with what, what is refused, and that a failure costs no step."""

import json
import shutil

import pytest
from conftest import ROOT
from test_resume import assert_same_run, newest_step

from la_tf.callbacks.own_callbacks import load_factories, make_callbacks
from la_tf.config import Config, ConfigError, RunConfig
from la_tf.runs.log import read_log

# Stands where an installed package would, and writes down how it is called.
FAKE = """
import json, types

def called(name, *arguments, **options):
    with open("{name}.jsonl", "a") as file:
        file.write(json.dumps([name, *arguments, options], default=str) + "\\n")
"""
WANDB = """
def init(**options):
    called("init", **options)
    return types.SimpleNamespace(
        log=lambda *a, **o: called("log", *a, **o), finish=lambda: called("finish")
    )
"""
MLFLOW = """
def start_run(**options):
    called("start_run", **options)
    return types.SimpleNamespace(info=types.SimpleNamespace(run_id="abc"))

def log_params(params):
    called("log_params", params)

def log_metrics(numbers, step):
    called("log_metrics", numbers, step=step)
"""
OWN = """
import tensorflow as tf

class Fails(tf.keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs):
        assert isinstance(logs["loss"], float)
        if self.model.optimizer.iterations == 27:
            raise ValueError("no more of this")

    def on_record(self, record):
        if record["kind"] == "knn" and record["step"] == 33:
            raise KeyError("another")

def fails(config, run_dir):
    assert config.objective.k == 64 and (run_dir / "config.json").exists()
    return [Fails()]

def neither(config, run_dir):
    return 7

def broken(config, run_dir):
    return 1 / 0
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to start in, with modules of one's own."""
    (tmp_path / "own_module.py").write_text(OWN)
    (tmp_path / "bad_module.py").write_text("import a_package_that_is_missing")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_what_cannot_be_called_is_refused_by_name(place):
    for given, words in (
        ("own_module", "must be of the form module:function"),
        ("own_module:", "must be of the form"),
        ("no_module_here:f", r"no_module_here cannot be imported \(No module named 'no_module"),
        ("bad_module:f", r"cannot be imported \(No module named 'a_package_that_is_missing'\)"),
        ("own_module:fails,own_module:tf", "own_module has no function tf"),
        ("own_module:absent", "own_module has no function absent"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_factories(given)
    for name, words in (
        ("neither", "must return a Keras callback or a list of them, and returned 7"),
        ("broken", r"failed: ZeroDivisionError, division by zero \(own_module.py, line 22\)"),
    ):
        config = Config(run=RunConfig(callbacks=f"own_module:{name}"))
        with pytest.raises(ConfigError, match=words):
            make_callbacks(config, place)
    assert make_callbacks(Config(), place) == []


@pytest.mark.slow
def test_a_callback_that_fails_loses_no_step(
    place, straight_run, cut_back, run_tool, tiny_run, newest_checkpoint
):
    """In a step, then at the end of an epoch; and then the run goes on without it."""
    run_dir = cut_back(straight_run, 24, place / "run")
    flags = [*tiny_run, "--checkpoint_every_steps=1000", f"--run_dir={run_dir}"]
    for step, words in (
        (27, "ValueError, no more of this (own_module.py, line 8)"),
        (33, "KeyError, 'another' (own_module.py, line 12)"),
    ):
        code, _, stderr = run_tool("train", *flags, "--callbacks=own_module:fails", cwd=place)
        assert code == 1 and stderr.count("\n") == 1, stderr
        assert f"a callback of --callbacks failed: {words}" in stderr
        assert f"saved after step {step}" in stderr and newest_step(run_dir) == step
    code, _, stderr = run_tool("train", *flags, cwd=place)
    assert code == 0, stderr
    assert_same_run(run_dir, straight_run, newest_checkpoint)


@pytest.mark.slow
def test_the_examples_get_every_number_of_the_log(tmp_path, run_tool, tiny_run):
    """The CSV file as it is; the services behind stand-ins, over a run that is resumed."""
    shutil.copytree(ROOT / "docs" / "examples", tmp_path / "docs" / "examples")
    for name, code in (("wandb", WANDB), ("mlflow", MLFLOW)):
        (tmp_path / f"{name}.py").write_text(FAKE.replace("{name}", name) + code)
    run_dir = tmp_path / "run"
    names = ",".join(f"docs.examples.loggers:{n}" for n in ("csv_file", "wandb_run", "mlflow_run"))
    flags = [*tiny_run, "--epochs=2", "--ir_epochs=1", f"--run_dir={run_dir}"]
    flags += [f"--callbacks={names}"]
    for stop in ((14, 15), None):
        code, _, stderr = run_tool("train", *flags, cwd=tmp_path, stop=stop)
        assert code == (0 if stop is None else 143), stderr
    expected = [
        (record["step"], f"{record['kind']}/{name}", value)
        for record in read_log(run_dir / "metrics.jsonl")
        for name, value in record.items()
        if name not in ("kind", "step", "epoch", "phase", "name", "quantiles") and value is not None
    ]
    assert {name for _, name, _ in expected} > {"train/loss", "clustering/inertia"}
    rows = [line.split(",") for line in (run_dir / "records.csv").read_text().splitlines()]
    assert [(int(step), name, float(value)) for step, name, value in rows] == expected
    for name, method, started in (
        ("wandb", "log", {"project": "la_tf", "id": "run", "resume": "allow"}),
        ("mlflow", "log_metrics", {"run_name": "run"}),
    ):
        calls = [json.loads(x) for x in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        assert calls[0][-1].items() >= started.items()
        assert [
            (options["step"], key, value)
            for called, *numbers, options in calls
            if called == method
            for key, value in numbers[0].items()
        ] == expected
    assert [c[-1] for c in calls if c[0] == "start_run"] == [{"run_name": "run"}, {"run_id": "abc"}]
    assert any(c[0] == "log_params" and c[1].get("tau") == 0.07 for c in calls)
    names = [json.loads(line)[0] for line in (tmp_path / "wandb.jsonl").read_text().splitlines()]
    # The stopped start ends W&B's run too, which sends then what it holds.
    assert [n for n in names if n != "log"] == ["init", "finish"] * 2 and names[-1] == "finish"
