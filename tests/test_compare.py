"""The comparison table against numbers known beforehand, from files written by hand."""

import csv
import io
import json
import re
import subprocess
import sys

import pytest

from la_tf.errors import RunError
from la_tf.results.comparison import comparison, format_csv, format_markdown, hours
from la_tf.stored_config import from_dict

ACCURACIES = ("conv1", "conv2", "conv3", "conv4", "conv5", "KNN (K=200)", "KNN K=1")
HEAD = [
    *("run", "network", "data", "objective", "epochs", "batch", "k", "H", "m", *ACCURACIES),
    *("gallery", "git commit", "hours", "hardware"),
]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
START = {"cpu": "Some CPU", "cpu_cores": 2, "gpus": [], "git_commit": COMMIT, "replicas": 1}
# 1,000 images and batches of 100: ten steps an epoch; a record every four steps and at the end of
# an epoch, so windows of 4, 4 and 2 steps.
CONFIG = {
    "data": {"data": "/somewhere/flowers", "batch_size": 100},
    "network": {"network": "resnet18"},
    "objective": {"k": 64},
    "clustering": {"num_clusters": 40, "num_clusterings": 5},
    "schedule": {"epochs": 4, "ir_epochs": 2},
    "report": {"log_every_steps": 4},
}


def knn(step: int, epoch: int, knn200: float, knn1: float) -> dict:
    return {"kind": "knn", "step": step, "epoch": epoch, "knn200": knn200, "knn1": knn1}


def loss(step: int) -> dict:
    return {"kind": "train", "step": step, "epoch": 1 + (step - 1) // 10, "loss": 1.0}


def speed(step: int, images_per_second: float) -> dict:
    return {"kind": "throughput", "step": step, "images_per_second": images_per_second}


def k_means(step: int, seconds: float) -> dict:
    return {"kind": "clustering", "step": step, "seconds": seconds}


def evaluation(protocol: str, row: str, accuracy: dict, **other) -> dict:
    values = {
        "protocol": protocol,
        "data": "flowers",
        "fingerprint": "ff",
        "row": row,
        "transfer": False,
        "network": "resnet18",
        "step": 25,
        "epoch": 2.5,
        "accuracy": accuracy,
        "settings": {},
        "seconds": 1.0,
        "environment": {},
    }
    return values | other


@pytest.fixture
def write_run(tmp_path):
    """A function that writes a run directory by hand and returns its path."""

    def write(
        name="run",
        network="resnet18",
        metrics=(),
        timing=(),
        starts=(START,),
        evaluations=(),
        origin=None,
    ) -> str:
        path = tmp_path / name
        (path / "evaluation").mkdir(parents=True)
        config = CONFIG | {"network": {"network": network}}
        data = {"training set": {"examples": 1050, "fingerprint": "ff"}}
        description = {"config": config, "data": data, "origin": origin}
        (path / "config.json").write_text(json.dumps(description))
        (path / "environment.json").write_text(json.dumps(list(starts)))
        for file, records in (("metrics", metrics), ("timing", timing)):
            lines = [json.dumps(record) + "\n" for record in records]
            (path / f"{file}.jsonl").write_text("".join(lines))
        for number, values in enumerate(evaluations):
            (path / "evaluation" / f"{number}.json").write_text(json.dumps(values))
        return str(path)

    return write


def from_csv(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))


def from_markdown(text: str) -> list[dict]:
    """Reads a Markdown table back: cells end at a | that no backslash escapes."""
    rows = []
    for line in text.split("\n\n")[0].splitlines():
        cells = re.split(r"(?<!\\)(?:\\\\)*\|", line.strip())[1:-1]
        rows.append([re.sub(r"\\(.)", r"\1", cell.strip()) for cell in cells])
    heading, rule, *body = rows
    assert all(set(cell) == {"-"} for cell in rule) and len(rule) == len(heading)
    return [dict(zip(heading, row, strict=True)) for row in body]


def pick(row: dict, *columns: str) -> list[str]:
    return [row[column] for column in columns]


def test_an_unfinished_run_without_evaluations_shows_its_last_knn(write_run):
    run = write_run(metrics=[knn(0, 0, 0.1, 0.1), loss(20), knn(20, 2, 0.3333, 0.25), loss(24)])
    (row,) = [row for row in from_csv(format_csv(comparison([run]))) if row["run"] == run]
    assert list(row) == HEAD
    assert row == dict.fromkeys(HEAD, "") | {
        "run": run,
        "network": "resnet18",
        "data": "flowers",
        "objective": "LA",
        "epochs": "2.4",
        "batch": "100",
        "k": "64",
        "H": "5",
        "m": "40",
        "KNN (K=200)": "33.3",
        "KNN K=1": "25.0",
        "gallery": "memory bank of epoch 2",
        "git commit": "0123456789",
        "hardware": "2 cores of Some CPU",
    }


@pytest.mark.parametrize(
    "metrics, expected",
    [
        ([], ["untrained", "0", "", "", "", ""]),
        ([knn(0, 0, 0.5, 0.4)], ["untrained", "0", "", "", "50.0", "memory bank"]),
        ([loss(20), knn(20, 2, 0.6, 0.5)], ["IR", "2", "100", "", "60.0", "memory bank"]),
        (
            [knn(20, 2, 0.6, 0.5), loss(21)],
            ["LA", "2.1", "100", "64", "60.0", "memory bank of epo"],
        ),
    ],
)
def test_the_objective_is_that_of_the_last_step(write_run, metrics, expected):
    row = from_csv(format_csv(comparison([write_run(metrics=metrics)])))[0]
    columns = ("objective", "epochs", "batch", "k", "KNN (K=200)", "gallery")
    assert [cell[:18] for cell in pick(row, *columns)] == expected


def test_evaluations_give_a_line_for_each_data_set_and_row(write_run):
    layers = {f"conv{i}": i / 10 for i in range(1, 6)}
    bank, crops = {"gallery": "memory bank"}, {"gallery": "centre crops"}
    run = write_run(
        metrics=[knn(20, 2, 0.9, 0.9), loss(24)],
        evaluations=[
            evaluation("linear", "LA", layers),
            evaluation("knn", "LA", {"KNN": 0.81, "KNN K=1": 0.7049}, settings=bank),
            evaluation("knn", "raw pixels", {"KNN": 0.2}, settings=crops, step=0, epoch=0.0),
            evaluation("knn", "LA", {"KNN": 0.4}, settings=crops, data="sun", transfer=True),
            evaluation("knn", "LA", {"KNN": 0.5}, settings=bank, step=24, epoch=2.4),
        ],
    )
    rows = [row for row in from_csv(format_csv(comparison([run]))) if row["run"] == run]
    columns = ("data", "objective", "epochs", "k", "conv1", "conv5", *HEAD[14:17])
    assert sorted(pick(row, *columns) for row in rows) == sorted(
        [
            ["flowers", "LA", "2.5", "64", "10.0", "50.0", "81.0", "70.5", "memory bank"],
            ["flowers", "LA", "2.4", "64", "", "", "50.0", "", "memory bank"],
            ["flowers", "raw pixels", "0", "", "", "", "20.0", "", "centre crops"],
            ["sun (trained on flowers)", "LA", "2.5", "64", "", "", "40.0", "", "centre crops"],
        ]
    )


def test_readouts_on_raw_pixels_have_a_column_where_there_are_any(write_run):
    accuracy = {"pixels": 0.123}
    run = write_run(evaluations=[evaluation("linear", "raw pixels", accuracy, step=0, epoch=0.0)])
    row = from_csv(format_csv(comparison([run])))[0]
    assert row["pixels"] == "12.3" and set(row) == {*HEAD, "pixels"}


def test_mean_average_precision_has_columns_where_there_is_any(write_run):
    """And no rows of the paper beside it, which has none."""
    accuracy = {"mAP conv2": 0.25, "AP conv2 cat": 0.3, "mAP conv2 of 8": 0.1}
    voc = evaluation("voc07", "LA", accuracy, data="VOC2007", transfer=True)
    rows = from_csv(format_csv(comparison([write_run(evaluations=[voc])])))
    (row,) = rows
    assert pick(row, "data", "objective", "epochs", "mAP conv2", "conv2") == (
        ["VOC2007 (trained on flowers)", "LA", "2.5", "25.0", ""]
    )
    assert set(row) == {*HEAD, "mAP conv2"}


LAYERS = ACCURACIES[:6]
PLACES = "Places (trained on ImageNet)"


def test_the_paper_stands_beside(write_run):
    elsewhere = evaluation("knn", "LA", {"KNN": 0.4}, data="sun", transfer=True)
    small = write_run("small", "smallnet")
    deep = write_run("deep", "resnet18", evaluations=[evaluation("knn", "LA", {}), elsewhere])
    rows = from_csv(format_csv(comparison([small, deep])))
    assert [row["run"] for row in rows[:3]] == [small, deep, deep]
    paper = {(row["network"], row["data"], row["objective"]): row for row in rows[3:]}
    assert len(paper) == len(rows) - 3 and {row["run"] for row in rows[3:]} == {"(paper)"}
    # Table 1, the AlexNet rows IR (with BN), and DC, without kNN; Table 1 and 2 (of the supplement
    # for kNN), ResNet-18, LA.
    alexnet = "alexnet (closest to smallnet)"
    assert pick(paper[alexnet, "ImageNet", "IR (with BN)"], *LAYERS) == (
        ["18.4", "30.1", "34.4", "39.2", "39.9", "34.9"]
    )
    assert pick(paper[alexnet, "ImageNet", "DC"], *LAYERS) == (
        ["13.4", "32.3", "41.0", "39.6", "38.2", ""]
    )
    assert pick(paper["resnet18", "ImageNet", "LA"], *LAYERS, "gallery", "k", "H", "m") == (
        ["9.1", "18.7", "34.8", "48.4", "52.8", "45.0", "memory bank", "4096", "10", "30000"]
    )
    assert pick(paper["resnet18", PLACES, "LA"], *LAYERS, "gallery", "hours") == (
        ["18.9", "26.7", "36.5", "44.7", "45.6", "40.3", "centre crops", ""]
    )
    assert {key[:2] for key in paper} == {
        (alexnet, "ImageNet"),
        ("resnet18", "ImageNet"),
        ("resnet18", PLACES),
    }


def test_the_paper_s_networks_are_named_plainly_where_a_run_has_them(write_run):
    runs = [write_run("small", "smallnet"), write_run("a", "alexnet"), write_run("b", "alexnet")]
    rows = from_csv(format_csv(comparison(runs)))
    assert {row["network"] for row in rows[3:]} == {"alexnet"} and len(rows) == 3 + 10


def test_hours_are_those_of_all_windows_and_clusterings():
    config = from_dict(CONFIG)
    # Windows of 4, 4 and 2 steps of 100 images, then one of a clustering and the next epoch.
    timing = [speed(4, 50.0), speed(8, 100.0), speed(10, 10.0), k_means(10, 7.0), speed(14, 40.0)]
    seconds = 400 / 50 + 400 / 100 + 200 / 10 + 7 + 400 / 40
    assert hours(timing, config, 10, 14) == pytest.approx(seconds / 3600)
    assert hours(timing, config, 10, 13) == pytest.approx((seconds - 10) / 3600)
    # Killed after step 14 and resumed from the end of the epoch: clustered and trained again.
    again = [*timing, k_means(10, 6.0), speed(14, 20.0), speed(18, 20.0)]
    assert hours(again, config, 10, 18) == pytest.approx((seconds + 6 + 20 + 20) / 3600)


def test_hours_stand_in_the_table(write_run):
    timing = [speed(4, 0.5), k_means(4, 1000.0), speed(8, 0.5)]
    evaluated = [evaluation("knn", row, {"KNN": 0.1}, step=step) for row, step in (("IR", 4),)]
    runs = [
        write_run("a", metrics=[loss(8)], timing=timing),
        write_run("b", metrics=[loss(8)], timing=timing, evaluations=evaluated),
        write_run("c", metrics=[loss(8)]),
    ]
    rows = from_csv(format_csv(comparison(runs)))
    # 2 * 400 / 0.5 + 1000 = 2600 s; up to step 4, 800 + 1000 s; no log.
    assert [row["hours"] for row in rows[:3]] == ["0.72", "0.50", ""]


def test_hours_of_steps_that_were_taken_over_count(write_run):
    """As --extend and --warm_start do; a run that is gone leaves them unknown."""
    first = write_run("a", metrics=[loss(8)], timing=[speed(4, 0.5), speed(8, 0.5)])
    own = {"metrics": [loss(12)], "timing": [speed(12, 0.25)]}
    begins = {"option": "extend", "path": first, "step": 8}
    gone = {"option": "warm_start", "path": first + "-gone", "step": 8}
    weights = {"option": "init_from", "path": first, "step": 8, "weights": "aa"}
    names = zip("bcd", (begins, gone, weights), strict=True)
    runs = [write_run(name, origin=origin, **own) for name, origin in names]
    rows = from_csv(format_csv(comparison(runs)))
    # Twice 400 / 0.5 s, then 200 / 0.25 s: two steps of the second epoch's first window.
    assert [row["hours"] for row in rows[:3]] == ["0.67", "", "0.22"]


def test_all_commits_and_machines_of_a_run_are_named_once(write_run):
    gpu = START | {"gpus": ["NVIDIA X"] * 4, "replicas": 4, "git_commit": "f" * 40 + "+"}
    starts = [START, START, gpu, START | {"git_commit": None}]
    row = from_csv(format_csv(comparison([write_run(starts=starts)])))[0]
    assert row["git commit"] == "0123456789, ffffffffff+"
    assert row["hardware"] == "2 cores of Some CPU, 4 x NVIDIA X"


def test_markdown_says_what_csv_says_whatever_is_in_a_name(write_run):
    odd = START | {"cpu": 'A|B, "C" \\'}
    run = write_run("x|y", metrics=[loss(4), knn(10, 1, 0.5, 0.25)], starts=[odd])
    lines = comparison([run])
    markdown, table = from_markdown(format_markdown(lines)), from_csv(format_csv(lines))
    assert table[0]["run"].endswith("x|y") and table[0]["hardware"] == '2 cores of A|B, "C" \\'
    assert markdown == [{c: text or "-" for c, text in row.items()} for row in table]


def test_what_is_no_run_is_named_and_nothing_is_printed(write_run, run_tool, tmp_path):
    good, damaged = write_run("good"), write_run("damaged")
    (tmp_path / "damaged" / "environment.json").write_text("{\n")
    (tmp_path / "empty").mkdir()
    code, out, err = run_tool("compare", good, str(tmp_path / "empty"), damaged, fresh=True)
    assert (code, out) == (1, "")
    first, second = err.splitlines()
    assert first.startswith("error: ") and "empty holds no run" in first
    assert second.startswith("error: ") and "damaged/environment.json cannot be read" in second
    with pytest.raises(RunError, match="holds no run"):
        comparison([good, str(tmp_path / "missing")])


@pytest.mark.parametrize("file", ["config.json", "environment.json"])
@pytest.mark.parametrize("text", ["{", "[]\n", '{"kind": "knn"}\n', '[{"a": 1}]\n'])
def test_damaged_files_end_in_a_sentence(write_run, tmp_path, file, text):
    run = write_run()
    (tmp_path / "run" / file).write_text(text)
    if file == "environment.json" and text.startswith("["):
        comparison([run])  # no start yet, or one of which little is known
        return
    with pytest.raises(RunError, match=rf"^[^\n]*run.{file} cannot be read[^\n]*$"):
        comparison([run])


def test_the_tool_prints_or_writes_either_format(write_run, run_tool, tmp_path):
    run = write_run(metrics=[loss(4)])
    lines = comparison([run])
    assert run_tool("compare", run, fresh=True) == (0, format_markdown(lines), "")
    assert run_tool("compare", run, "--format=csv", fresh=True) == (0, format_csv(lines), "")
    file = tmp_path / "table.csv"
    code, out, _ = run_tool("compare", "--format=csv", f"--output={file}", run, fresh=True)
    assert (code, out) == (0, f"written: {file}\n") and file.read_text() == format_csv(lines)
    nowhere = tmp_path / "missing" / "table.csv"
    code, out, err = run_tool("compare", run, f"--output={nowhere}", fresh=True)
    assert (code, out, err.count("\n")) == (1, "", 1) and f"{nowhere} cannot be written" in err


@pytest.mark.parametrize("flags", [[], ["--frmat=csv", "run"], ["--format=html", "run"]])
def test_flags_that_make_no_sense_end_in_one_sentence(run_tool, flags):
    code, out, err = run_tool("compare", *flags, fresh=True)
    assert (code, out, err.count("\n")) == (1, "", 1) and err.startswith("error: ")


def test_tensorflow_is_not_imported():
    script = (
        "import sys; sys.path.insert(0, 'tools'); import compare; "
        "print(sorted({'tensorflow', 'keras'} & set(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (process.stdout, process.returncode) == ("[]\n", 0), process.stderr
