"""Which runs a table asks for, and what it makes of finished ones."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from la_tf.options import sections_and_options
from la_tf.reproduction.outcome import Outcome, outcome, write_results
from la_tf.reproduction.plan import Plan, is_finished
from la_tf.reproduction.scales import DIGITS, IMAGENET, LAPTOP
from la_tf.reproduction.tables import PaperTable, Row, paper_tables
from la_tf.results.evaluations import Evaluation, write_evaluation

TINY = dataclasses.replace(
    LAPTOP,
    recipe="digits",
    options={
        **{"epochs": 3, "ir_epochs": 2, "drop_epochs": "", "image_size": 16, "k": 64},
        **{"limit": 500, "baselines": False, "write_report": False},
    },
    num_examples=500,
)


@pytest.mark.parametrize("scale", [DIGITS, LAPTOP, IMAGENET], ids=lambda scale: scale.name)
def test_rows_are_options_that_exist(scale):
    known = sections_and_options()
    for table in paper_tables(scale).values():
        names = [row.name for row in table.rows]
        assert len(set(names)) == len(names)
        for row in table.rows:
            assert set(row.options) <= set(known), row.name


def test_imagenet_rows_are_the_papers():
    rows = {row.name: row.options for row in paper_tables(IMAGENET)["5"].rows}
    assert rows["(10, 30k)"] == {"num_clusterings": 10, "num_clusters": 30_000}
    assert rows["(1, 10k)"] == {"num_clusterings": 1, "num_clusters": 10_000}
    options = {row.name: row.options for row in paper_tables(IMAGENET)["s3"].rows}
    assert options["k = 8192"]["k"] == 8192


def test_rows_with_equal_options_share_a_run_and_all_a_warm_start(tmp_path):
    tables = paper_tables(LAPTOP)
    plan = Plan(LAPTOP, tmp_path, "DIR", [0, 1])
    jobs = plan.jobs([tables["4"], tables["5"], tables["s1"]])
    folders = [job.run_dir for job in jobs]
    assert len(set(folders)) == len(folders)
    # 3 rows, 7 more, and 3 of the supplement's that are new; a warm start for each seed.
    assert len(jobs) == 2 * (1 + 3 + 7 + 3)
    for job in jobs:
        warm = tmp_path / job.run_dir.parent.name / "warm-start"
        if job.run_dir != warm:
            assert f"--warm_start={warm}" in job.arguments
            assert folders.index(warm) < folders.index(job.run_dir)
    seeds = [job.run_dir.parent.name for job in jobs]
    assert seeds == sorted(seeds)


def write_run(run_dir, config, knn: float, *, step: int, examples: int = 256):
    run_dir.mkdir(parents=True)
    data = {"training set": {"examples": examples, "fingerprint": "f"}, "held-out set": None}
    (run_dir / "config.json").write_text(json.dumps({"config": config, "data": data}))
    (run_dir / "environment.json").write_text(json.dumps([{"python": "3"}]))
    records = [
        *({"kind": "neighbors", "step": 2 + i, "close_purity": 0.2 + i / 40} for i in range(3)),
        {"kind": "knn", "step": step, "epoch": 1, "knn200": knn, "knn1": knn / 2},
    ]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


def test_table_is_of_finished_runs(tmp_path):
    table = PaperTable(
        "x", "Title", "claim.", (Row("a", {"k": 5}, 33.3), Row("b", {"k": 6}), Row("c", {"k": 7}))
    )
    plan = Plan(TINY, tmp_path, "digits", [0, 1, 2])
    config = {"data": {"batch_size": 128}, "schedule": {"epochs": 3, "ir_epochs": 1}}
    accuracies = [0.5, 0.6, 0.64]
    for seed, accuracy in enumerate(accuracies):
        write_run(plan.run_dir(table.rows[0], seed), config, accuracy, step=6)
    write_run(plan.run_dir(table.rows[1], 0), config, 0.7, step=6)
    write_run(plan.run_dir(table.rows[1], 1), config, 0.9, step=4)  # two of three epochs
    assert is_finished(plan.run_dir(table.rows[1], 0))
    assert not is_finished(plan.run_dir(table.rows[1], 1))
    found = outcome(table, plan)
    percent = 100 * np.array(accuracies)
    expected = f"{percent.mean():.1f} ± {percent.std(ddof=1):.1f}"
    assert found.frame.loc["a"].to_dict() == {
        **{"paper": "33.3", "K = 1": "29.0 ± 3.6", "K = 200": expected},
        **{"purity of C": "25.0 ± 0.0", "seeds": "3"},
    }
    assert found.frame.loc["b", "K = 200"] == "70.0"
    assert found.frame.loc["c", "K = 200"] == "-" and found.frame.loc["c", "seeds"] == "0"
    assert "| a  | 33.3    | 29.0 ± 3.6 |" in found.markdown
    write_results(tmp_path, [found], plan.jobs([table]))
    kept = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert len(kept) == 4
    assert [r["step"] for r in kept[0]["records"] if r["kind"] == "neighbors"] == [2, 4]
    assert all(f"--k={run['command'].split('--k=')[1][0]}" in run["command"] for run in kept)
    assert json.loads((tmp_path / "tables.json").read_text())["x"]["b"]["K = 200"] == [70.0]


def test_columns_are_those_of_the_fullest_row():
    purity = {"K = 1": [60.0], "purity of C": [80.0], "of B": [20.0]}
    values = {"{i}": {"K = 1": [50.0], "of B": [10.0]}, "LA": purity}
    frame = Outcome(PaperTable("x", "T", "c.", (Row("{i}", {}), Row("LA", {}))), values).frame
    assert list(frame) == ["paper", "K = 1", "purity of C", "of B", "seeds"]
    assert frame.loc["{i}", "purity of C"] == "-"


def test_an_evaluation_is_done_when_both_protocols_are_whatever_else_there_is(tmp_path):
    table = dataclasses.replace(paper_tables(LAPTOP)["4"], rows=(Row("LA", {}),), readouts=True)
    *_, job = Plan(LAPTOP, tmp_path, "DIR", [0]).jobs([table])
    job.run_dir.mkdir(parents=True)
    shown = ("pets", "ff", "LA", False, "smallnet", 20, 4.0, {}, {}, 1.0, {})
    for protocol, done in (("voc07", False), ("knn", False), ("linear", True)):
        write_evaluation(job.run_dir, Evaluation(protocol, *shown))
        assert job.is_done() == done


def test_a_run_is_evaluated_once_for_its_row_and_for_the_untrained_network(tmp_path):
    table = paper_tables(LAPTOP)["1"]
    jobs = Plan(LAPTOP, tmp_path, "DIR", [0]).jobs([table])
    evaluated = [job for job in jobs if job.arguments[0] == "tools/evaluate.py"]
    assert len(evaluated) == len({job.run_dir for job in evaluated}) == len(table.rows) - 1
    (both,) = (job for job in evaluated if "--baselines" in job.arguments)
    both.run_dir.mkdir(parents=True)
    for row, done in (("raw pixels", False), ("untrained", False), ("LA", True)):
        for protocol in ("knn", "linear"):
            shown = ("pets", "ff", row, False, "smallnet", 20, 4.0, {}, {}, 1.0, {})
            write_evaluation(both.run_dir, Evaluation(protocol, *shown))
        assert both.is_done() == done


@pytest.mark.slow
def test_planned_commands_run_and_fill_the_table(tmp_path, run_tool):
    table = PaperTable("x", "Title", "claim.", (Row("IR", {"ir_epochs": 3}), Row("LA", {})))
    plan = Plan(TINY, tmp_path, "digits", [4])
    jobs = plan.jobs([table])
    assert [job.run_dir.name for job in jobs] == ["warm-start", "ir_epochs=3", "base"]
    for job in jobs:
        tool, *flags = job.arguments
        code, _, stderr = run_tool(tool.removeprefix("tools/").removesuffix(".py"), *flags)
        assert code == 0, stderr
        assert job.is_done()
    frame = outcome(table, plan).frame
    assert frame.loc["IR", "K = 1"] != "-" != frame.loc["LA", "purity of C"]

    found = outcome(dataclasses.replace(table, densities=True), plan).values["LA"]
    reader = tf.train.load_checkpoint(str(plan.run_dir(table.rows[1], 4) / "checkpoints"))
    bank = reader.get_tensor("model/bank/vectors/.ATTRIBUTES/VARIABLE_VALUE")
    # Each row is its own nearest; a quarter of the 499 others end the background, see Figure 2.
    ranked = -np.sort(-(bank @ bank.T), axis=1)[:, 1:]
    (near, (local,)), (far, (background,)) = found.items()
    assert (near, far) == ("cosine x 100 of the 29 nearest", "of the neighbours 30 to 124")
    assert local == pytest.approx(100 * ranked[:, :29].mean(), abs=0.01)
    assert background == pytest.approx(100 * ranked[:, 29:124].mean(), abs=0.01)


def test_tool_prints_the_commands_that_are_left(tmp_path, run_tool):
    flags = ["--table=4", "--seeds=3", "--data=DIR", f"--output_dir={tmp_path}", "--dry_run"]
    code, stdout, stderr = run_tool("reproduce", *flags)
    assert code == 0, stderr
    assert "[4 of 4 left] python tools/train.py --flagfile=configs/cifar10.flags" in stdout
    assert "| Clusters | 33.2" in stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "flags,told",
    [
        (["--table=7", "--data=DIR"], "--table=7 must be of 1, 4, 5"),
        (["--seeds=one", "--data=DIR"], "--seeds=one: each must be a whole number"),
        ([], "data"),
    ],
)
def test_tool_refuses_in_a_sentence(flags, told, run_tool):
    code, _, stderr = run_tool("reproduce", *flags)
    assert code == 1
    assert told in stderr and "Traceback" not in stderr
