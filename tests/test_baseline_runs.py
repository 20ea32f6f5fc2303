"""Runs of DeepCluster and of supervised training: killed, evaluated, exported, compared."""

import json
import shutil

import numpy as np
import pytest

from la_tf.results.comparison import comparison
from la_tf.runs.log import read_log

pytestmark = pytest.mark.slow

OBJECTIVES = {"deepcluster": "DeepCluster", "supervised": "supervised"}


@pytest.fixture(scope="module", params=OBJECTIVES)
def method(request):
    return request.param


@pytest.fixture(scope="module")
def flags(method, tiny_run):
    """Of a recipe for Local Aggregation; rounds of DeepCluster begin within epochs, too."""
    return [*tiny_run, f"--method={method}", "--cluster_every_steps=8", "--bn_momentum=0.9"]


@pytest.fixture(scope="module")
def run_dir(flags, run_tool, tmp_path_factory):
    folder = tmp_path_factory.mktemp("baseline") / "run"
    code, stdout, stderr = run_tool("train", *flags, "--write_report", f"--run_dir={folder}")
    assert (code, stderr) == (0, "")
    (folder.parent / "stdout").write_text(stdout)
    return folder


def test_a_run_that_was_killed_goes_on_to_the_bit(
    tmp_path, method, flags, run_dir, run_tool, cut_back, newest_checkpoint
):
    killed = cut_back(run_dir, 18, tmp_path / "run")
    code, stdout, stderr = run_tool("train", *flags, f"--run_dir={killed}")
    assert code == 0, stderr
    assert "after step 18 of 44" in stdout
    files = [path / "metrics.jsonl" for path in (killed, run_dir)]
    assert files[0].read_bytes() == files[1].read_bytes()
    got, expected = newest_checkpoint(killed), newest_checkpoint(run_dir)
    assert got.keys() == expected.keys()
    # The network once, under the name by which other tools look for it, and what the method adds.
    added = {"deepcluster": {"cluster_labels", "cluster_weights"}, "supervised": {"labels"}}
    parts = {name.split("/")[1] for name in got if name.startswith("model/")}
    metrics = {"_loss", "_accuracy", "_spread"}
    assert parts == {"network", "bank", "classifier", "optimizer"} | metrics | added[method]
    for name, value in got.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_the_log_tells_the_method_and_its_rounds(method, run_dir):
    records = read_log(run_dir / "metrics.jsonl")
    train = [r for r in records if r["kind"] == "train"]
    assert {r["phase"] for r in train} == {OBJECTIVES[method]}
    assert all({"loss", "accuracy", "spread"} <= r.keys() for r in train)
    rounds = [r["step"] for r in records if r["kind"] == "clustering"]
    assert rounds == ([0, 8, 16, 24, 32, 40] if method == "deepcluster" else [])
    config = json.loads((run_dir / "config.json").read_text())["config"]
    assert config["schedule"]["ir_epochs"] == 0
    assert f"end of {OBJECTIVES[method]}" in (run_dir.parent / "stdout").read_text()


def test_knn_of_a_run_is_that_of_its_embeddings(method, run_dir, tmp_path, run_tool):
    path = shutil.copytree(run_dir, tmp_path / "run")
    flags = (f"--run_dir={path}", "--protocol=knn,linear", "--gallery=crops", "--epochs=1")
    code, stdout, stderr = run_tool("evaluate", *flags)
    assert (code, stderr) == (0, "") and OBJECTIVES[method] in stdout
    results = [json.loads(f.read_text()) for f in (path / "evaluation").glob("*.json")]
    assert {r["row"] for r in results} == {OBJECTIVES[method]}
    assert {r["protocol"] for r in results} == {"knn", "linear"}
    (line,) = [line for line in comparison([str(path)]) if line["run"] == str(path)]
    assert line["objective"] == OBJECTIVES[method] and line["batch"] == 32 and "k" not in line
    assert line.get("m") == (40 if method == "deepcluster" else None)


def test_export_and_report_name_the_method(method, run_dir):
    page = (run_dir / "export" / "README.md").read_text()
    labels = "with" if method == "supervised" else "without"
    assert f"from a training {labels} labels ({method}, a baseline)" in page
    report = (run_dir / "report.html").read_text()
    assert f"a baseline, trained {labels} labels" in report and "Training accuracy" in report


def test_labels_teach_what_the_untrained_network_did_not_know(tmp_path, run_tool):
    """Digits at 16 pixels; of the 360 held out, 18 more than before must find their neighbours."""
    code, _, stderr = run_tool(
        "train",
        "--flagfile=configs/digits.flags",
        *("--method=supervised", "--image_size=16", "--epochs=8", "--drop_epochs="),
        *("--eval_every_epochs=8", "--nowrite_report", f"--run_dir={tmp_path}"),
    )
    assert code == 0, stderr
    found = {
        r["name"]: r["knn200"]
        for r in read_log(tmp_path / "metrics.jsonl")
        if r["kind"] == "milestone"
    }
    assert found["end of supervised"] > found["untrained network"] + 0.05
