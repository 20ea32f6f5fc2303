"""tools/evaluate.py --protocol=voc07 on a tiny run: bright and dark pictures, as VOC and as CSV."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from test_multilabel import write_voc

from la_tf.data.voc import VOC_CLASSES

pytestmark = pytest.mark.slow

# In no order, so that pictures and their classes can be confused.
IDS = {"trainval": (9, 2, 30, 4, 17, 6, 11, 8, 1, 13), "test": (20, 7, 22, 3, 24)}
BRIGHT, DARK = VOC_CLASSES[::2], VOC_CLASSES[1::2]


def is_bright(number):
    return number % 2 == 0


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    """Even numbers are bright and have half of the classes, odd ones are dark and have the others.

    All dark pictures but one have a difficult object of a class of bright ones.
    """

    def objects(number):
        names = BRIGHT if is_bright(number) else DARK
        difficult = [] if is_bright(number) or number == 7 else [(BRIGHT[0], 1)]
        return [(name, 0) for name in names] + difficult

    splits = {
        split: {f"{number:06d}": objects(number) for number in numbers}
        for split, numbers in IDS.items()
    }
    # Three dark ones to train on stay without it, since three folds need them.
    for number in (1, 9, 11):
        splits["trainval"][f"{number:06d}"].pop()
    folder = write_voc(tmp_path_factory.mktemp("VOCdevkit") / "VOC2007", splits)
    rng = np.random.default_rng(0)
    for number in (n for numbers in IDS.values() for n in numbers):
        low = 150 if is_bright(number) else 0
        pixels = rng.integers(low, low + 100, (16, 20, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "JPEGImages" / f"{number:06d}.jpg")
    return folder


@pytest.fixture(scope="module")
def evaluated(trained_run, voc, tmp_path_factory, run_tool):
    """The run, what the tool printed, and its flags."""
    run_dir = shutil.copytree(trained_run, tmp_path_factory.mktemp("evaluated") / "run")
    flags = [f"--run_dir={run_dir}", "--protocol=voc07", f"--voc_dir={voc}", "--baselines"]
    flags += ["--draws=2"]
    code, stdout, stderr = run_tool("evaluate", *flags)
    assert code == 0, stderr
    return run_dir, stdout, flags


def result(run_dir, name):
    (file,) = (run_dir / "evaluation").glob(f"{name}-????????.json")
    return json.loads(file.read_text())


def test_every_number_has_its_name(evaluated):
    for row, layers in (("LA", 5), ("untrained", 5), ("raw-pixels", 1)):
        got = result(evaluated[0], f"VOC2007-voc07-{row}")
        names = ["pixels"] if layers == 1 else [f"conv{i}" for i in range(1, 6)]
        expected = {
            *(f"{kind} {layer}" for layer in names for kind in ("mAP", "mAP (area)")),
            *(f"AP {layer} {name}" for layer in names for name in VOC_CLASSES),
            *(
                f"mAP {layer} of {k}{end}"
                for layer in names
                for k in (1, 2, 4)
                for end in ("", ", deviation")
            ),
        }
        assert set(got["accuracy"]) == expected
        for layer in names:
            mean = np.mean([got["accuracy"][f"AP {layer} {name}"] for name in VOC_CLASSES])
            assert got["accuracy"][f"mAP {layer}"] == pytest.approx(mean)


def test_what_pixels_tell_apart_is_told_apart(evaluated):
    got = result(evaluated[0], "VOC2007-voc07-raw-pixels")["accuracy"]
    assert {name: value for name, value in got.items() if "deviation" not in name} == (
        pytest.approx(dict.fromkeys((n for n in got if "deviation" not in n), 1.0))
    )
    assert got["mAP pixels of 1, deviation"] == pytest.approx(0)


def test_a_result_says_what_it_is_of(evaluated):
    got = result(evaluated[0], "VOC2007-voc07-LA")
    assert got["protocol"] == "voc07" and got["transfer"] and got["step"] > 0
    settings = got["settings"]
    assert settings["classes"] == list(VOC_CLASSES) and settings["shots"] == [1, 2, 4]
    assert (settings["training_images"], settings["test_images"], settings["draws"]) == (10, 5, 2)


def test_the_tables_are_printed(evaluated):
    stdout = evaluated[1]
    assert "the low-shot form ends at 4 a class" in stdout
    means, by_class, few = stdout.split("\n\n")[-5::2]
    assert len(means.splitlines()) == 4 and len(by_class.splitlines()) == 21
    assert len(few.splitlines()) == 1 + 5 + 5 + 1
    assert "raw pixels, pixels" in few and "100.0 ± 0.0" in few


def test_what_was_computed_is_not_computed_again(evaluated, run_tool):
    _, stdout, flags = evaluated
    code, again, stderr = run_tool("evaluate", *flags)
    assert code == 0, stderr
    assert again.count("trained before, not trained again") == 3
    tables = stdout[stdout.index("VOC2007: mean average precision") :]
    assert again.endswith(tables) and len(tables.splitlines()) > 40


@pytest.fixture(scope="module")
def folder(voc, tmp_path_factory):
    """The same pictures in train and test; labels.csv beside them."""
    folder = tmp_path_factory.mktemp("folder") / "moods"
    lines = ["file,classes"]
    for split, part in (("trainval", "train"), ("test", "test")):
        (folder / part).mkdir(parents=True)
        for number in IDS[split]:
            name = f"{part}/{number:06d}.jpg"
            shutil.copy(voc / "JPEGImages" / f"{number:06d}.jpg", folder / name)
            lines.append(f"{name},{'bright;gay' if is_bright(number) else 'dark'}")
    (folder.parent / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def csv_flags(folder):
    labels = folder.parent / "labels.csv"
    return ["--protocol=voc07", f"--data={folder}", f"--labels_csv={labels}"]


def test_a_folder_with_a_csv_file_is_evaluated_alike(trained_run, folder, tmp_path, run_tool):
    run_dir = shutil.copytree(trained_run, tmp_path / "run")
    flags = [f"--run_dir={run_dir}", *csv_flags(folder), "--draws=0", "--baselines"]
    code, stdout, stderr = run_tool("evaluate", *flags)
    assert code == 0, stderr
    got = result(run_dir, "moods-voc07-raw-pixels")
    names = ("mAP", "mAP (area)", "AP", "AP", "AP")
    ends = ("", "", " bright", " gay", " dark")
    assert got["accuracy"] == pytest.approx(
        {f"{name} pixels{end}": 1.0 for name, end in zip(names, ends, strict=True)}
    )
    assert got["settings"]["shots"] == [] and "moods: mAP in percent after" not in stdout


def test_bad_input_is_one_sentence(evaluated, voc, folder, tmp_path, run_tool):
    run_dir, voc_flag = evaluated[0], f"--voc_dir={voc}"
    alone = shutil.copytree(folder / "train", tmp_path / "alone")
    labels = tmp_path / "labels.csv"
    labels.write_text("file,classes\n" + "".join(f"{f.name},a\n" for f in alone.iterdir()))
    files = sorted(run_dir.rglob("*"))
    for flags, message in (
        (["--protocol=voc07"], "takes either --voc_dir, or --labels_csv and --data"),
        (["--protocol=voc07", voc_flag, f"--labels_csv={labels}"], "takes either --voc_dir, or"),
        (["--protocol=voc07", f"--labels_csv={labels}"], "--labels_csv needs --data"),
        (["--protocol=voc07", voc_flag, f"--data={folder}"], "leave out --data"),
        ([*csv_flags(folder), f"--val_data={folder}"], "--val_data is of knn and linear alone"),
        (["--protocol=knn,voc07", voc_flag], "give it a command of its own"),
        ([voc_flag], "are of --protocol=voc07 alone"),
        (["--protocol=voc07", "--voc_dir=/nowhere"], "/nowhere has no JPEGImages"),
        (["--protocol=voc07", voc_flag, "--test_split=trainval"], "name splits without a common"),
        ([*csv_flags(alone)[:2], f"--labels_csv={labels}"], "has no images to test on"),
        (
            [*csv_flags(alone)[:2], f"--labels_csv={labels}", "--holdout=3"],
            "there are 0 training images of alone without a, and 3 are needed",
        ),
    ):
        code, _, stderr = run_tool("evaluate", f"--run_dir={run_dir}", *flags)
        assert code == 1 and message in stderr, flags
        assert len(stderr.strip().splitlines()) == 1, stderr
    assert sorted(run_dir.rglob("*")) == files
