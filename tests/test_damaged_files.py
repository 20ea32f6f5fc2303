"""Every stored file, damaged in every way: it is used, or refused in a sentence that names it.

Nothing here looks at what a damaged file gives: that no reader ends in an error of another kind,
and that the sentence is one line with the file's name, is held for thousands of damaged files.
"""

import copy
import json
import pathlib
import shutil
import zipfile
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from detection import output_directory
from detection.records import Index, convert
from detection.results import Result, format_result
from la_tf import stored_config
from la_tf.analysis import curves
from la_tf.config import Config, DataConfig, ScheduleConfig
from la_tf.data.base import Source
from la_tf.data.digits import digits_parts
from la_tf.data.identity import identify
from la_tf.data.record_writer import write_records
from la_tf.data.records import RecordSource
from la_tf.data.voc import VOCError
from la_tf.embedding.embedding_files import write_embeddings
from la_tf.embedding.embedding_model import EmbeddingModel, export_model
from la_tf.errors import UserError
from la_tf.export.weights import WeightsError, network_from_weights, save_weights
from la_tf.networks import build_network
from la_tf.results import run_facts
from la_tf.results.comparison import comparison, format_markdown
from la_tf.results.evaluations import Evaluation, read_evaluations, write_evaluation
from la_tf.results.tables import milestone_rows, result_tables
from la_tf.runs.description import read_description, read_starts
from la_tf.runs.directory import RunDirectory, read_file
from la_tf.runs.log import RunLog, read_log

REFUSALS = (UserError, VOCError, WeightsError)
CONFIG = Config(data=DataConfig(batch_size=8), schedule=ScheduleConfig(epochs=4, ir_epochs=2))
DATA = {
    "training set": {"examples": 40, "fingerprint": "abc"},
    "held-out set": {"examples": 9, "fingerprint": "def"},
}
START = {
    "python": "3.11",
    "packages": {"numpy": "1"},
    "cpu": "Some Processor",
    "cpu_cores": 2,
    "gpus": ["A GPU"],
    "git_commit": "0123456789abcdef",
    "replicas": 2,
}
STRANGE = (
    None, True, -1, 0, 10**18, 10**400, 1.5, float("nan"), float("inf"), "text", "0.5", "",
    "\ud800", "a\0b", [], {}, [None], {"a": None}, [[0]],
)  # fmt: skip


def texts(content: bytes) -> Iterator[bytes]:
    """A file cut, flipped, overwritten, and replaced by other JSON."""
    rng = np.random.default_rng(0)
    for size in (0, 1, len(content) // 3, len(content) - 2):
        yield content[:size]
    yield bytes(len(content))
    for place in rng.integers(0, len(content), 30):
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.integers(8)
        yield bytes(flipped)
    yield from (b"{}", b"[]", b"null", b"0", b'"text"', b"[{}]", b"[null]", b"{", b"\xff\xfe\x00")
    yield from (b"[" * 200_000, b'{"a":' * 200_000, b"1" * 5000, b"NaN", b"1e999")


def values(value: object) -> Iterator[object]:
    """A JSON value with each of its parts replaced by something strange, or left out."""

    def places(part: object, path: tuple = ()) -> Iterator[tuple]:
        if isinstance(part, dict | list):
            for key, inner in part.items() if isinstance(part, dict) else enumerate(part):
                yield (*path, key)
                yield from places(inner, (*path, key))

    for *path, last in places(value):
        for strange in (*STRANGE, places):
            damaged = copy.deepcopy(value)
            part = damaged
            for key in path:
                part = part[key]
            if strange is places:
                del part[last]
            else:
                part[last] = strange
            yield damaged


def damaged(content: bytes) -> Iterator[bytes]:
    yield from texts(content)
    for value in values(json.loads(content)):
        yield json.dumps(value).encode()


def hold(file: pathlib.Path, contents: Iterator[bytes], read: Callable[[], object]) -> int:
    """Puts each content into a file and reads it; returns how many were refused."""
    whole, refused = file.read_bytes(), 0
    for content in contents:
        file.write_bytes(content)
        try:
            read()
        except REFUSALS as error:
            refused += 1
            # The file, or the folder of it where others belong to it.
            assert str(file.parent) in str(error), (content[:300], error)
            assert "\n" not in str(error) and len(str(error)) < 1500
        except BaseException:
            print(content[:2000])  # pytest shows it
            raise
    file.write_bytes(whole)
    read()
    return refused


@pytest.fixture
def run(tmp_path) -> pathlib.Path:
    """The files of a run, without weights."""
    path = tmp_path / "run"
    RunDirectory(str(path), CONFIG, DATA, START).release()
    (path / "checkpoints").mkdir()
    for ending in ("index", "data-00000-of-00001"):
        (path / "checkpoints" / f"ckpt-20.{ending}").write_text("")
    metrics, timing = RunLog(path / "metrics.jsonl"), RunLog(path / "timing.jsonl")
    metrics.write("milestone", 0, 0, name="untrained network", knn200=0.1, knn1=0.05)
    train = {"steps": 5, "learning_rate": 0.03, "spread": 0.08, "empty_close": 0.0}
    metrics.write("train", 5, 1, phase="IR", loss=3.5, close_share=0.0, **train)
    metrics.write("knn", 5, 1, knn200=0.5, knn1=0.4)
    sizes = {"smallest_cluster": 2, "largest_cluster": 7, "nmi_previous": 0.5}
    metrics.write("neighbors", 10, 3, close_neighbors=4.5, close_in_background=None)
    metrics.write("clustering", 10, 3, round=0, inertia=9.0, empty_clusters=0, **sizes)
    timing.write("throughput", 5, 1, images_per_second=100.0, data_wait_share=0.1)
    timing.write("clustering", 10, 3, seconds=2.0, share=0.5)
    metrics.close()
    timing.close()
    for protocol, accuracy, settings in (
        ("knn", {"KNN": 0.5, "KNN K=1": 0.4}, {"gallery": "memory bank", "k": [200, 1]}),
        ("linear", {"conv5": 0.5}, {"epochs": 90, "learning_rate": 0.01, "crop": "margin"}),
        (
            "voc07",
            {"mAP conv5": 0.5, "AP conv5 cat": 0.5, "mAP conv5 of 1": 0.2},
            {"classes": ["cat"], "shots": [1], "draws": 2},
        ),
    ):
        shown = ("pets", "ff", "LA", False, "resnet18", 20, 4.0)
        write_evaluation(
            path, Evaluation(protocol, *shown, accuracy, settings, 1.0, {"python": "3.11"})
        )
    return path


class _Opened:
    """What the words of a report want of a run."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.config, self.data = read_description(path)
        self.step, self.objective = 20, "LA"
        self.num_examples = self.data["training set"]["examples"]
        self.steps_per_epoch = max(1, self.num_examples // self.config.data.batch_size)
        self.epoch = self.step / self.steps_per_epoch
        self.network = type("Network", (), {"count_params": lambda self: 1})()


def told(path: pathlib.Path) -> None:
    """What is told of a run by its files beside the results of evaluations."""
    run = _Opened(path)
    metrics, timing = read_log(path / "metrics.jsonl"), read_log(path / "timing.jsonl")
    curves.panels(metrics, timing, run.config, run.num_examples, run.steps_per_epoch)
    milestone_rows(metrics, 10, 20)
    run_facts.warnings(run, metrics)
    run_facts.environments(run)
    comparison([str(path)])


def test_the_description_of_a_run(run):
    file = run / "config.json"
    assert hold(file, damaged(file.read_bytes()), lambda: read_description(run)) > 1000
    told(run)
    sections = stored_config.to_dict(CONFIG)
    for strange in STRANGE:
        content = {"config": sections | {"network": strange}, "data": DATA}
        hold(file, [json.dumps(content).encode()], lambda: told(run))


def resume(run: pathlib.Path) -> None:
    RunDirectory(str(run), CONFIG, DATA, START).release()
    (run / "environment.json").write_text(json.dumps([START]))


def test_the_description_of_a_run_that_is_resumed(run):
    file = run / "config.json"
    stored = {"config": {"schedule": {"epochs": 4, "ir_epochs": 2}, "data": {}}, "data": DATA}
    stored["config"]["data"]["batch_size"] = 8
    file.write_text(json.dumps(stored))
    assert hold(file, damaged(file.read_bytes()), lambda: resume(run)) > 200


def test_the_machines_of_a_run(run):
    file = run / "environment.json"
    found = hold(file, damaged(file.read_bytes()), lambda: (read_starts(run), told(run)))
    assert found > 100
    content = file.read_bytes()
    hold(file, texts(content), lambda: RunDirectory(str(run), CONFIG, DATA, START).release())


@pytest.mark.parametrize("name", ["metrics.jsonl", "timing.jsonl"])
def test_a_line_of_a_log_is_whole_or_left_out(run, name):
    shutil.rmtree(run / "evaluation")  # else a comparison would not look at the logs
    file = run / name
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(read_log(file)) == len(lines)
    for i, line in enumerate(lines):
        contents = [
            b"".join([*lines[:i], content.replace(b"\n", b" ") + b"\n", *lines[i + 1 :]])
            for content in damaged(line)
        ]
        assert hold(file, contents, lambda: told(run)) == 0
        file.write_bytes(contents[0])
        assert len(read_log(file)) == len(lines) - 1
    file.write_bytes(b"".join(lines))


@pytest.mark.parametrize("protocol", ["knn", "linear", "voc07"])
def test_the_result_of_an_evaluation(run, protocol):
    (file,) = (run / "evaluation").glob(f"*{protocol}*")
    for other in set((run / "evaluation").iterdir()) - {file}:
        other.unlink()

    def told() -> None:
        list(map(str, result_tables(read_evaluations(run))))
        format_markdown(comparison([str(run)]))

    assert hold(file, damaged(file.read_bytes()), told) > 200


@pytest.fixture(scope="module")
def pictures() -> Source:
    return digits_parts()[1]


@pytest.fixture
def records(pictures, tmp_path) -> pathlib.Path:
    folder = tmp_path / "records"
    write_records(pictures, str(folder), 3)
    return folder


def every_picture(folder: pathlib.Path) -> None:
    source = RecordSource(str(folder))
    for i in (0, len(source) // 2, len(source) - 1):
        source.read(i)
        source.read_ends(i)
        source.describe(i)


def test_the_index_of_records(records):
    file = records / "index.json"
    assert hold(file, damaged(file.read_bytes()), lambda: every_picture(records)) > 300


def archives(file: pathlib.Path, spare: set[str]) -> Iterator[bytes]:
    """An archive of arrays cut, flipped, and with each array replaced."""
    content = file.read_bytes()
    yield from texts(content)
    with np.load(file) as arrays:
        arrays = dict(arrays)
    strange = [
        np.array(2**62),
        np.full(3, -1),
        np.zeros((2, 2)),
        np.array(["text"]),
        np.array([np.nan]),
        np.array([], np.int64),
    ]
    other = file.with_name("other.npz")
    for name in set(arrays) - spare:
        same = arrays[name]
        like = [same[:-1], same + 2**40, -same - 1] if same.ndim == 1 and same.size > 1 else []
        for value in (None, *strange, *like, same.astype("S9"), same[np.newaxis]):
            changed = {k: v for k, v in arrays.items() if k != name}
            np.savez(other, **changed | ({} if value is None else {name: value}))
            yield other.read_bytes()
        # An array that says to be a petabyte.
        with zipfile.ZipFile(other, "w") as archive:
            for key in arrays:
                with archive.open(f"{key}.npy", "w") as member:
                    if key == name:
                        np.lib.format.write_array_header_1_0(
                            member, {"descr": "<i8", "fortran_order": False, "shape": (2**47,)}
                        )
                    else:
                        np.lib.format.write_array(member, arrays[key])
        yield other.read_bytes()
    other.unlink()


def test_the_arrays_of_the_index_of_records(records):
    file = records / "index.npz"
    contents = list(archives(file, {"names"}))
    assert hold(file, contents, lambda: every_picture(records)) > 60


def test_weights(tmp_path):
    file = tmp_path / "weights.npz"
    save_weights(build_network("smallnet", 16, dim=8), file)
    with np.load(file) as arrays:
        spare = {name for name in arrays.files if not name.startswith("metadata/")}
    contents = list(archives(file, spare))
    # A flip in a member's header that the archive passes over leaves the weights whole.
    assert hold(file, contents, lambda: network_from_weights(file)) > 40


def blank(source: Source) -> Iterator[np.ndarray]:
    yield np.ones([len(source), 4], np.float32)


MODEL = EmbeddingModel({"kind": "blank"}, blank)


def test_embeddings_and_their_progress(pictures, tmp_path):
    written = write_embeddings(MODEL, pictures, str(tmp_path / "whole"))
    for file in (written.array, written.table):
        contents = list(texts(file.read_bytes()))
        read = lambda: write_embeddings(MODEL, pictures, str(tmp_path / "whole"))  # noqa: E731
        assert hold(file, contents, read) > 10
    folder = tmp_path / "half"
    folder.mkdir()
    progress = folder / "embeddings.progress.json"
    images = {"name": pictures.name, **identify(pictures)}
    content = json.dumps({"model": MODEL.identity, "data": images, "rows": 128}).encode()

    def again() -> None:
        (folder / "embeddings.npy.partial").write_bytes(written.array.read_bytes())
        for name in ("embeddings.npy", "embeddings.parquet"):
            (folder / name).unlink(missing_ok=True)
        write_embeddings(MODEL, pictures, str(folder))

    progress.write_bytes(content)
    assert hold(progress, damaged(content), again) > 50


def test_the_files_of_a_fine_tuning(tmp_path):
    settings = tmp_path / "settings.json"
    wanted = {"start": {"init": "run"}, "settings": {"steps": 8, "learning_rate": 0.1}}
    settings.write_text(json.dumps(wanted))
    results = tmp_path / output_directory.RESULTS
    result = {
        "result": {"mAP": 0.5, "mAP_area": None, "AP/cat": 0.25},
        "start": {"init": "run", "network": "alexnet", "objective": "LA", "run_step": 20},
        "settings": {"steps": 8, "train_split": "trainval", "test_split": "test"},
        "data": {"trainval": "4 pictures", "test": "2 pictures"},
        "images": {"trainval": 4, "test": 2},
        "saved_model": "export/1",
        "resampled": [0.5, None, 0.75],
    }
    results.write_text(json.dumps(result))
    contents = damaged(settings.read_bytes())
    assert hold(settings, contents, lambda: output_directory.claim(tmp_path, wanted)) > 50

    def shown() -> None:
        format_result(read_file(results, Result, output_directory.OPTION))

    assert hold(results, damaged(results.read_bytes()), shown) > 100


@pytest.fixture
def voc(tmp_path) -> pathlib.Path:
    """One picture in VOC's layout."""
    folder = tmp_path / "VOC2007"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    Image.new("RGB", (20, 10)).save(folder / "JPEGImages" / "000001.jpg")
    (folder / "ImageSets" / "Main" / "test.txt").write_text("000001\n")
    (folder / "Annotations" / "000001.xml").write_text(
        "<annotation><size><width>20</width><height>10</height></size><object><name>cat</name>"
        "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
        "</annotation>"
    )
    return folder


def test_the_records_of_a_detector(voc, tmp_path):
    def again() -> None:
        found = convert(voc, "test", tmp_path / "records", True, lambda sentence: None)
        read_file(index, Index)
        assert found.num_images == 1

    convert(voc, "test", tmp_path / "records", say=lambda sentence: None)
    index = tmp_path / "records" / "VOC2007-test" / "records.json"
    assert hold(index, damaged(index.read_bytes()), again) > 50
    (shard,) = index.parent.glob("*.tfrecord")
    hold(shard, texts(shard.read_bytes()), again)


def test_the_annotations_of_a_detector(voc, tmp_path):
    """They are not of this project, and may hold anything."""
    file = voc / "Annotations" / "000001.xml"
    words = (b"", b"text", b"nan", b"1e999", b"-1", b"1" * 5000, b"<a/>", b"\xff")
    content = file.read_bytes()
    contents = [*texts(content)]
    contents += [content.replace(b"9</xmax>", word + b"</xmax>") for word in words]
    contents += [content.replace(b"20</width>", word + b"</width>") for word in words]

    def again() -> None:
        for left in tmp_path.glob("records/*"):
            left.rename(tmp_path / f"old-{len(list(tmp_path.glob('old-*')))}")
        convert(voc, "test", tmp_path / "records", say=lambda sentence: None)

    hold(file, contents, again)


def test_an_export(tmp_path):
    class Blank(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
        def embed(self, image_bytes):
            return {"embedding": tf.ones([tf.size(image_bytes), 4])}

    module = Blank()
    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": module.embed})
    for name in ("saved_model.pb", "fingerprint.pb"):
        file = tmp_path / name
        content = file.read_bytes()
        flipped = content[:9] + bytes([content[9] ^ 0x40]) + content[10:]
        contents = [b"", content[: len(content) // 2], bytes(len(content)), b"{}", flipped]
        hold(file, contents, lambda: export_model(str(tmp_path)))
