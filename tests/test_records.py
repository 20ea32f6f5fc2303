"""TFRecords with an index: what is written is what is read, and damage is named."""

import gc
import json
import os
import pathlib
import resource
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from la_tf.config import AugmentConfig
from la_tf.data.base import DataError, Source
from la_tf.data.pipeline import Steps, train_dataset
from la_tf.data.record_writer import complete_or_absent, index_foreign_shards, write_records
from la_tf.data.records import RecordSource
from la_tf.data.sources import open_source

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


class ListSource(Source):
    """Byte strings in memory; they need not be images to be stored."""

    def __init__(self, contents: list[bytes], labels=None, class_names=None):
        super().__init__("list", len(contents), labels, class_names)
        self._contents = tf.constant(contents)

    def describe(self, i: int) -> str:
        return f"list{os.sep}näme {i}"

    def load(self, index: tf.Tensor) -> tf.Tensor:
        return tf.gather(self._contents, index)


@pytest.fixture
def contents() -> list[bytes]:
    rng = np.random.default_rng(0)
    random = [rng.bytes(int(length)) for length in rng.integers(1, 9000, size=21)]
    # Zeros at the end, and a content that occurs in the names of the fields.
    return [*random, b"\0\0", b"image", random[0], b"x" + b"\0" * 5000]


@pytest.fixture
def written(tmp_path, contents):
    labels = np.arange(len(contents)) % 3
    write_records(ListSource(contents, labels, ("a", "b", "c")), str(tmp_path / "r"), 4)
    return tmp_path / "r"


def test_round_trip(written, contents):
    source = open_source(str(written))
    assert isinstance(source, RecordSource)
    assert source.num_examples == len(contents)
    assert source.class_names == ("a", "b", "c")
    np.testing.assert_array_equal(source.labels, np.arange(len(contents)) % 3)
    assert [source.read(i) for i in range(len(contents))] == contents
    order = np.random.default_rng(1).permutation(len(contents))
    dataset = tf.data.Dataset.from_tensor_slices(order).map(source.load, num_parallel_calls=4)
    assert list(dataset.as_numpy_iterator()) == [contents[i] for i in order]
    for i, content in enumerate(contents):
        assert source.read_ends(i) == (content[:4096], content[-4096:], len(content))
        assert source.describe(i).startswith(f"näme {i} (record {i} of ")


def test_shards_are_ordinary_records_with_model_garden_names(written, contents):
    shards = sorted(str(path) for path in written.glob("*.tfrecord"))
    assert len(shards) == 4
    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
        "image/filename": tf.io.FixedLenFeature([], tf.string),
    }
    records = tf.data.TFRecordDataset(shards).map(lambda r: tf.io.parse_single_example(r, features))
    rows = list(records.as_numpy_iterator())
    assert [row["image/encoded"] for row in rows] == contents
    assert [row["image/class/label"] for row in rows] == [i % 3 for i in range(len(contents))]
    assert rows[3]["image/filename"].decode() == "näme 3"


def test_without_labels(tmp_path):
    write_records(ListSource([b"1", b"2"]), str(tmp_path / "r"))
    source = RecordSource(str(tmp_path / "r"))
    assert source.labels is None
    assert source.class_names is None


def test_missing_shard_is_named(written):
    shard = sorted(written.glob("*.tfrecord"))[2]
    shard.unlink()
    with pytest.raises(DataError, match=f"{shard.name} is missing"):
        open_source(str(written))


def test_shortened_shard_is_named(written):
    shard = sorted(written.glob("*.tfrecord"))[1]
    os.truncate(shard, shard.stat().st_size - 1)
    with pytest.raises(DataError, match=rf"{shard.name} has \d+ bytes where its index says \d+"):
        open_source(str(written))


def test_exchanged_shard_is_named(written):
    shard = sorted(written.glob("*.tfrecord"))[0]
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(DataError, match=f"{shard.name} is not the one its index describes"):
        open_source(str(written))


def test_index_that_is_not_dense(written):
    path = written / "index.json"
    description = json.loads(path.read_text())
    description["shards"].pop()
    path.write_text(json.dumps(description))
    with pytest.raises(DataError, match=r"index\.json is not dense"):
        open_source(str(written))


@pytest.mark.parametrize("damage", ["{", "[]", '{"version": 1}'])
def test_unreadable_index(written, damage):
    (written / "index.json").write_text(damage)
    with pytest.raises(DataError, match=r"index\.json cannot be read"):
        open_source(str(written))


def test_shard_cut_while_in_use_is_an_error_that_names_it(written):
    source = open_source(str(written))
    shard = sorted(written.glob("*.tfrecord"))[0]
    os.truncate(shard, 10)
    with pytest.raises(DataError, match=f"{shard.name} was cut short"):
        source.read(0)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{shard.name} was cut short"):
        list(tf.data.Dataset.range(1).map(source.load))


def test_records_without_index_are_refused(written):
    (written / "index.json").unlink()
    with pytest.raises(DataError, match=r"no index\.json"):
        open_source(str(written))


def test_failed_write_leaves_nothing(tmp_path, contents):
    class Failing(ListSource):
        def read(self, i):
            if i == 20:
                raise OSError("disk gone")
            return super().read(i)

    with pytest.raises(DataError, match=r"/r cannot be written: disk gone\. Fix that"):
        write_records(Failing(contents), str(tmp_path / "r"), 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("size", [5_000, 200])
def test_a_full_disk_is_one_sentence_and_nothing_is_left(tmp_path, contents, size):
    """While a shard or, with less room, the index is written."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    source = ListSource(contents if size > 1000 else [b"x"])
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))  # as a full disk
    try:
        with pytest.raises(DataError, match=r"r cannot be written: .*File too large") as caught:
            write_records(source, str(tmp_path / "r"), 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    gc.collect()  # a file that could not be closed would complain here


def test_existing_folder_is_not_overwritten(written):
    before = sorted(path.name for path in written.iterdir())
    with pytest.raises(DataError, match="exists already"):
        write_records(ListSource([b"1"]), str(written))
    assert sorted(path.name for path in written.iterdir()) == before
    with complete_or_absent(str(written), replace=True) as unfinished:
        pathlib.Path(unfinished, "new").touch()
    assert [path.name for path in written.iterdir()] == ["new"]


def test_more_shards_than_images(tmp_path):
    with pytest.raises(DataError, match="--num_shards=3 must lie between 1 and 2 images"):
        write_records(ListSource([b"1", b"2"]), str(tmp_path / "r"), 3)


KILLED = """
import sys, time
from la_tf.data.digits import DigitsSource
from la_tf.data.record_writer import write_records
class Slow(DigitsSource):
    def read(self, i):
        if i == 1000:
            print("writing", flush=True)
            time.sleep(3600)
        return super().read(i)
write_records(Slow(), sys.argv[1], 3)
"""


def test_killed_writer_leaves_no_folder_that_opens(tmp_path, program_server):
    script, tmp_path = tmp_path / "script.py", tmp_path / "folder"
    script.write_text(KILLED)
    tmp_path.mkdir()
    process = program_server.start(script, tmp_path / "r", cwd=REPOSITORY)
    assert process.stdout.readline() == "writing\n"
    process.kill()
    process.communicate()
    left = list(tmp_path.iterdir())
    assert not (tmp_path / "r").exists()
    assert left  # a killed process cannot clean up, but what it leaves does not open
    for folder in left:
        with pytest.raises(DataError):
            open_source(str(folder))
    write_records(ListSource([b"1"]), str(tmp_path / "r"))
    assert list(tmp_path.iterdir()) == [tmp_path / "r"]  # the next one does it


def test_views_are_the_same_from_records_and_files(tmp_path):
    digits = open_source("digits", "val")
    write_records(digits, str(tmp_path / "r"), 2)
    steps = Steps(44, 46, batch_size=8, seed=0)
    direct, stored = (
        train_dataset(source, steps, image_size=16, augment=AugmentConfig()).as_numpy_iterator()
        for source in (digits, RecordSource(str(tmp_path / "r")))
    )
    for (i, view), (j, other) in zip(direct, stored, strict=True):
        np.testing.assert_array_equal(i, j)
        np.testing.assert_array_equal(view, other)


def test_reading_stays_parallel_under_deterministic_ops(tmp_path):
    """TensorFlow runs maps with stateful functions one by one when ops must be deterministic."""
    script = f"""
import threading
import tensorflow as tf
tf.config.experimental.enable_op_determinism()
from la_tf.data.records import RecordSource
from la_tf.data.record_writer import write_records
from la_tf.data.sources import open_source
write_records(open_source("digits", "val"), {str(tmp_path / "r")!r})
reading, lock, met = [], threading.Lock(), threading.Event()
class Meeting(RecordSource):
    def read(self, i):
        with lock:
            reading.append(i)
            if len(reading) > 1:
                met.set()
        met.wait(0.5)  # for another read, which never comes where they are made one by one
        with lock:
            reading.remove(i)
        return super().read(i)
source = Meeting({str(tmp_path / "r")!r})
options = tf.data.Options()
options.threading.private_threadpool_size = 4
dataset = tf.data.Dataset.range(40).map(source.load, num_parallel_calls=4).with_options(options)
print(len(list(dataset)), met.is_set())
"""
    output = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        text=True,
    )
    assert output.stdout.split()[-2:] == ["40", "True"], output.stderr


def test_tool_writes_both_parts(tmp_path, run_tool):
    output = tmp_path / "digits"
    flags = ("--data=digits", "--num_shards=2", f"--output_dir={output}")
    code, _, stderr = run_tool("make_tfrecords", *flags, fresh=True)
    assert code == 0, stderr
    for part, count in (("train", 1437), ("val", 360)):
        source, original = open_source(str(output), part), open_source("digits", part)
        assert source.num_examples == count
        np.testing.assert_array_equal(source.labels, original.labels)
        assert source.read(count - 1) == original.read(count - 1)
    code, _, stderr = run_tool("make_tfrecords", *flags)
    assert code == 1
    assert stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in stderr


def test_a_shard_of_another_tool_that_is_damaged_is_named(written, tmp_path):
    shard = sorted(written.glob("*.tfrecord"))[0]
    arguments = "image/encoded", None, "image/filename", None
    assert index_foreign_shards([str(shard)], *arguments).counts[0] > 0
    whole = shard.read_bytes()
    for content in (whole[:-3], whole[:50] + b"x" + whole[51:], bytes(len(whole))):
        shard.write_bytes(content)
        with pytest.raises(DataError, match=f"{shard} cannot be read"):
            index_foreign_shards([str(shard)], *arguments)
    with tf.io.TFRecordWriter(str(shard)) as writer:
        writer.write(b"\xff no example")
    with pytest.raises(DataError, match=f"{shard} holds a record that is no example"):
        index_foreign_shards([str(shard)], *arguments)
