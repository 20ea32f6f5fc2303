"""Folders, digits, TFDS names and the parts made of them."""

import dataclasses
import io
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from la_tf.config import DataConfig
from la_tf.data.base import DataError, Subset, align_labels, philox_order, split_holdout
from la_tf.data.digits import DigitsSource
from la_tf.data.folder import FolderSource
from la_tf.data.sources import open_source, open_train_and_val


def put(path, value: int = 0, kind: str = "PNG") -> bytes:
    """Writes a 6x5 picture of one grey value; returns its bytes."""
    buffer = io.BytesIO()
    Image.new("RGB", (6, 5), (value,) * 3).save(buffer, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())
    return buffer.getvalue()


def names_of(source) -> list[str]:
    return [source.describe(i) for i in range(source.num_examples)]


# Folders


def test_folder_gives_each_file_its_bytes_label_and_path(tmp_path):
    expected = {
        "cat/a.png": put(tmp_path / "cat/a.png", 1),
        "cat/deep/er/b.JPEG": put(tmp_path / "cat/deep/er/b.JPEG", 2, "JPEG"),
        "dog/c.bmp": put(tmp_path / "dog/c.bmp", 3, "BMP"),
        "dog/d.gif": put(tmp_path / "dog/d.gif", 4, "GIF"),
    }
    (tmp_path / "cat/notes.txt").write_text("no image")
    (tmp_path / "cat/._a.png").write_text("resource fork")
    (tmp_path / "empty").mkdir()
    source = open_source(str(tmp_path))
    assert names_of(source) == [str(tmp_path / name) for name in sorted(expected)]
    assert source.class_names == ("cat", "dog")
    assert source.labels.dtype == np.int32
    np.testing.assert_array_equal(source.labels, [0, 0, 1, 1])
    loaded = tf.data.Dataset.range(4).map(source.load).as_numpy_iterator()
    assert list(loaded) == list(expected.values())
    assert [source.read(i) for i in range(4)] == list(expected.values())


def test_folder_order_is_bytewise_whatever_the_system_lists_first(tmp_path, monkeypatch):
    files = ["B/1.png", "a/10.png", "a/9.png", "a-b/x.png", "é/1.png", "Z/2.png"]
    for name in files:
        put(tmp_path / name)
    forward = FolderSource(str(tmp_path))
    scan = os.scandir

    class Backwards:
        def __init__(self, path):
            self.entries = sorted(scan(path), key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(os, "scandir", Backwards)
    backward = FolderSource(str(tmp_path))
    relative = [os.path.relpath(name, tmp_path) for name in names_of(forward)]
    assert relative == sorted(files, key=lambda name: name.encode())
    assert names_of(backward) == names_of(forward)
    assert backward.class_names == forward.class_names == ("B", "Z", "a", "a-b", "é")
    for i, name in enumerate(relative):
        assert forward.class_names[forward.labels[i]] == name.split("/")[0]


def test_images_directly_in_a_folder_have_no_labels(tmp_path):
    put(tmp_path / "1.jpg", kind="JPEG")
    put(tmp_path / "2.PNG")
    source = open_source(str(tmp_path))
    assert source.num_examples == 2
    assert source.labels is None
    assert source.class_names is None


def test_images_beside_folders_make_all_unlabelled_and_none_is_lost(tmp_path):
    put(tmp_path / "cover.png")
    put(tmp_path / "2019/1.png")
    put(tmp_path / "2020/1.png")
    source = open_source(str(tmp_path))
    assert source.num_examples == 3
    assert source.labels is None


def test_linked_folders_are_followed_and_circles_end(tmp_path):
    put(tmp_path / "elsewhere/1.png")
    data = tmp_path / "data"
    data.mkdir()
    (data / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(data)
    assert names_of(open_source(str(data))) == [str(data / "linked/1.png")]


def test_file_names_that_are_not_unicode_can_be_read_and_printed(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.png"
    with open(path, "wb") as file:
        file.write(b"bytes")
    source = FolderSource(str(tmp_path))
    assert source.read(0) == b"bytes"
    source.describe(0).encode("utf-8")


@pytest.mark.parametrize("data", ["missing", "missing/below"])
def test_missing_folder_says_what_data_may_be(tmp_path, data):
    with pytest.raises(DataError, match=r"missing.* does not exist: .*tfds:NAME"):
        open_source(str(tmp_path / data))


def test_folder_without_images_says_what_was_there(tmp_path):
    with pytest.raises(DataError, match="it is empty"):
        open_source(str(tmp_path))
    for name in ("a.webp", "b.webp", "c.txt"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"no images \(\.jpg .*2 \.webp, 1 \.txt"):
        open_source(str(tmp_path))


def test_a_file_is_not_a_folder(tmp_path):
    put(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png is a file"):
        open_source(str(tmp_path / "a.png"))


# Training and held-out parts


@pytest.mark.parametrize("held_out", ["val", "validation", "test"])
def test_train_and_held_out_folders(tmp_path, held_out):
    for name in ("train/x/1.png", "train/y/1.png", "train/y/2.png", f"{held_out}/y/1.png"):
        put(tmp_path / name)
    (tmp_path / "meta").mkdir()
    train, val = open_train_and_val(DataConfig(data=str(tmp_path)), seed=0)
    assert (train.num_examples, val.num_examples) == (3, 1)
    # y is the only class of the held-out part, where it has number 0.
    np.testing.assert_array_equal(val.labels, [1])
    assert val.class_names == train.class_names == ("x", "y")
    assert val.describe(0) == str(tmp_path / held_out / "y/1.png")


def test_a_class_may_be_called_train(tmp_path):
    put(tmp_path / "train/1.png")
    put(tmp_path / "bus/1.png")
    train, val = open_train_and_val(DataConfig(data=str(tmp_path)), seed=0)
    assert train.class_names == ("bus", "train")
    assert val is None


def test_val_data_overrides_and_unknown_classes_are_named(tmp_path):
    put(tmp_path / "a/train/x/1.png")
    put(tmp_path / "a/val/x/1.png")
    put(tmp_path / "b/x/7.png")
    config = DataConfig(data=str(tmp_path / "a"), val_data=str(tmp_path / "b"))
    assert open_train_and_val(config, 0)[1].describe(0) == str(tmp_path / "b/x/7.png")
    put(tmp_path / "b/zebra/1.png")
    with pytest.raises(DataError, match=r"1 of the 2 classes .* \(zebra\)"):
        open_train_and_val(config, 0)


def test_unlabelled_parts_stay_unlabelled(tmp_path):
    put(tmp_path / "train/1.png")
    put(tmp_path / "val/x/1.png")
    train, val = open_train_and_val(DataConfig(data=str(tmp_path)), seed=0)
    assert train.labels is None
    assert val.class_names == ("x",)
    assert align_labels(train, val) is train


def test_holdout_is_a_disjoint_function_of_the_seed(tmp_path):
    for i in range(20):
        put(tmp_path / f"{i:02}.png")
    config = DataConfig(data=str(tmp_path), holdout=6)
    train, val = open_train_and_val(config, seed=3)
    assert sorted(names_of(train) + names_of(val)) == names_of(FolderSource(str(tmp_path)))
    assert val.num_examples == 6
    again = open_train_and_val(config, seed=3)[1]
    other = open_train_and_val(config, seed=4)[1]
    assert names_of(val) == names_of(again) != names_of(other)
    for count in (0, 20, -1):
        with pytest.raises(DataError, match=f"--holdout={count} "):
            split_holdout(train, count, 0)


def test_limit_takes_some_of_what_is_not_held_out(tmp_path):
    for i in range(20):
        put(tmp_path / f"{i:02}.png")
    config = DataConfig(data=str(tmp_path), holdout=6, limit=5)
    train, val = open_train_and_val(config, seed=3)
    assert (train.num_examples, val.num_examples) == (5, 6)
    assert not set(names_of(train)) & set(names_of(val))
    assert names_of(train) == names_of(open_train_and_val(config, seed=3)[0])
    assert names_of(train) != names_of(open_train_and_val(config, seed=4)[0])
    everything = dataclasses.replace(config, limit=99)
    assert open_train_and_val(everything, seed=3)[0].num_examples == 14


def test_subset_renumbers_densely():
    digits = DigitsSource()
    subset = Subset(digits, [5, 3, 1000])
    assert subset.num_examples == len(subset) == 3
    np.testing.assert_array_equal(subset.labels, digits.labels[[5, 3, 1000]])
    assert [subset.read(i) for i in range(3)] == [digits.read(i) for i in (5, 3, 1000)]
    assert subset.read_ends(1)[2] == len(digits.read(3))
    assert subset.describe(2) == "digits[1000]"
    with pytest.raises(DataError, match=r"outside 0\.\.2"):
        Subset(subset, [3])


def test_philox_order_never_changes():
    """Values that a checkpoint of any earlier release relies on."""
    np.testing.assert_array_equal(philox_order(8, 0, 0, 0), [0, 2, 1, 5, 4, 3, 6, 7])
    np.testing.assert_array_equal(philox_order(8, -1, 7, 1), [1, 3, 4, 7, 6, 0, 2, 5])


# Digits


def test_digits_parts_are_all_digits_once():
    train, val = open_train_and_val(DataConfig(data="digits"), seed=99)
    assert (train.num_examples, val.num_examples) == (1437, 360)
    assert len(set(names_of(train)) | set(names_of(val))) == 1797
    assert set(train.labels) == set(val.labels) == set(range(10))
    assert names_of(open_source("digits", "val")) == names_of(val)
    image = np.asarray(Image.open(io.BytesIO(train.read(0))))
    assert image.shape == (32, 32)
    assert image.max() > 200


# TFDS


@pytest.fixture
def tiny_dataset(tmp_path, monkeypatch):
    """Registers a data set that needs no download; returns its pictures by split."""
    tfds = pytest.importorskip("tensorflow_datasets")
    pictures = {
        split: [np.full((4 + i, 5, 3), 10 * i + number, np.uint8) for i in range(count)]
        for number, (split, count) in enumerate({"train": 7, "test": 3}.items())
    }

    class TinyPictures(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["odd", "even"]),
                "id": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, _):
            return {split: self._generate_examples(split) for split in pictures}

        def _generate_examples(self, split):
            for i, picture in enumerate(pictures[split]):
                yield i, {"image": picture, "label": (i + 1) % 2, "id": f"{split} {i}"}

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield pictures
    tfds.core.registered._DATASET_REGISTRY.pop("tiny_pictures")


def test_tfds_name(tiny_dataset, tmp_path):
    train, val = open_train_and_val(DataConfig(data="tfds:tiny_pictures"), seed=0)
    for split, source in (("train", train), ("test", val)):
        assert source.num_examples == len(tiny_dataset[split])
        seen = set()
        for i in range(source.num_examples):
            number = int(source.describe(i).split()[1])
            assert source.describe(i).startswith(f"{split} {number} (record {i} of tfds:tiny")
            picture = tf.io.decode_image(source.read(i)).numpy()
            np.testing.assert_array_equal(picture, tiny_dataset[split][number])
            assert source.class_names[source.labels[i]] == ("odd", "even")[(number + 1) % 2]
            seen.add(number)
        assert len(seen) == source.num_examples
    # A second opening uses the index, and the shards themselves were not copied.
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"index.json", "index.npz"}
    again = open_source("tfds:tiny_pictures")
    assert names_of(again) == names_of(train)


def test_tfds_index_is_renewed_when_the_data_set_was_prepared_anew(tiny_dataset, tmp_path):
    first = open_source("tfds:tiny_pictures")
    for shard in (tmp_path / "tfds").rglob("*train.tfrecord*"):
        records = list(tf.data.TFRecordDataset(str(shard)).as_numpy_iterator())
        with tf.io.TFRecordWriter(str(shard)) as writer:
            for record in records[:-1]:
                writer.write(record)
    assert open_source("tfds:tiny_pictures").num_examples == first.num_examples - 1


def test_unknown_tfds_name_is_one_sentence():
    with pytest.raises(DataError, match="knows no 'no_such_pictures'") as error:
        open_source("tfds:no_such_pictures")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250


# Sample data


def test_sample_folders(sample_data):
    train, val = open_train_and_val(DataConfig(data=str(sample_data / "sun18")), seed=0)
    assert (train.num_examples, val.num_examples, len(train.class_names)) == (1080, 360, 18)
    np.testing.assert_array_equal(np.bincount(train.labels), [60] * 18)
    assert val.class_names == train.class_names
    voc = open_source(str(sample_data / "VOCdevkit/VOC2007/JPEGImages"))
    assert (voc.num_examples, voc.labels) == (600, None)


def test_pictures_of_formats_that_are_not_read_are_counted_and_named(tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.webp").touch()
    with pytest.raises(DataError, match=r"there is: 5 \.webp\): convert them to JPEG or PNG"):
        open_source(str(tmp_path))
    for name in ("IMG_1.HEIC", "notes.txt", "one.png", "two.png"):
        (tmp_path / name).touch()
    source = open_source(str(tmp_path))
    said = f"not read in {tmp_path}: 5 .webp, 1 .heic; convert them to JPEG or PNG."
    assert (source.num_examples, source.not_read) == (2, said)
    assert [part.not_read for part in split_holdout(source, 1, seed=0)] == [said, ""]
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "one.png").touch()
    assert open_source(str(tmp_path / "others")).not_read == ""
