"""Images with several classes: VOC's, by hand-made annotations and real ones, and a CSV file's."""

import os

import numpy as np
import pytest
from PIL import Image
from test_voc import annotation

from la_tf.data.base import DataError
from la_tf.data.folder import FolderSource
from la_tf.data.multilabel import ABSENT, DIFFICULT, PRESENT, open_voc, read_labels_csv
from la_tf.data.voc import VOC_CLASSES, VOCError

CAT, DOG, COW = (VOC_CLASSES.index(name) for name in ("cat", "dog", "cow"))


def write_pictures(folder, names, size=(20, 16), seed=0):
    rng = np.random.default_rng(seed)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(path)


def write_voc(folder, splits):
    """VOC with small pictures of noise. splits: name -> {image id: [(class, difficult)]}."""
    for name in ("Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for split, images in splits.items():
        write_pictures(folder / "JPEGImages", [f"{i}.jpg" for i in images], seed=len(split))
        for image_id, objects in images.items():
            boxes = [(name, (2, 3, 12, 11), difficult, 0) for name, difficult in objects]
            path = folder / "Annotations" / f"{image_id}.xml"
            path.write_text(annotation(20, 16, boxes))
        listed = "".join(f"{image_id}\n" for image_id in images)
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(listed)
    return folder


@pytest.fixture
def voc(tmp_path):
    train = {"000012": [("cat", 1), ("dog", 1), ("dog", 0)], "000005": [("cat", 0), ("cat", 1)]}
    test = {"000007": [], "000001": [("cow", 1), ("cow", 1)]}
    return write_voc(tmp_path / "VOC2007", {"trainval": train, "test": test})


def test_only_difficult_objects_make_an_image_neither_positive_nor_negative(voc):
    train, test, labels = open_voc(voc, "trainval", "test")
    assert labels.class_names == VOC_CLASSES
    # In the order of the lists.
    assert [os.path.basename(train.describe(i)) for i in range(2)] == ["000012.jpg", "000005.jpg"]
    first, second = labels.of(train)
    assert (first[CAT], first[DOG], first[COW]) == (DIFFICULT, PRESENT, ABSENT)
    assert (second[CAT], second[DOG]) == (PRESENT, ABSENT)
    assert set(np.delete(first, [CAT, DOG])) == {ABSENT}
    nothing, cows = labels.of(test)
    assert set(nothing) == {ABSENT} and cows[COW] == DIFFICULT
    assert train.read(0) == (voc / "JPEGImages" / "000012.jpg").read_bytes()


def test_marks_are_those_of_vocs_own_lists_of_classes(sample_data):
    """ImageSets/Main/cat_test.txt and the like: 1, -1, and 0 for difficult objects alone."""
    folder = sample_data / "VOCdevkit" / "VOC2007"
    train, test, labels = open_voc(folder, "trainval", "test")
    seen = set()
    for split, source in (("trainval", train), ("test", test)):
        marks = labels.of(source)
        for column, name in enumerate(VOC_CLASSES):
            lines = (folder / "ImageSets" / "Main" / f"{name}_{split}.txt").read_text().split("\n")
            listed = [int(line.split()[1]) for line in lines if line]
            np.testing.assert_array_equal(marks[:, column], listed)
            seen |= set(listed)
    assert seen == {-1, 0, 1}


def test_voc_that_cannot_be_used_is_a_sentence(voc):
    with pytest.raises(VOCError, match="/nowhere has no JPEGImages"):
        open_voc("/nowhere", "trainval", "test")
    with pytest.raises(
        VOCError, match=r"train\.txt is not there: choose a split of test, trainval"
    ):
        open_voc(voc, "train", "test")
    with pytest.raises(VOCError, match="are in --train_split=test too"):
        open_voc(voc, "test", "test")
    (voc / "Annotations" / "000005.xml").unlink()
    with pytest.raises(VOCError, match=r"000005\.xml: repair it, or take it out of .* trainval\."):
        open_voc(voc, "trainval", "test")


@pytest.fixture
def pictures(tmp_path):
    write_pictures(tmp_path / "pictures", ["train/b.png", "train/a/c.png", "test/d, e.png"])
    return tmp_path / "pictures"


def write_csv(folder, *lines, encoding="utf-8"):
    file = folder / "labels.csv"
    file.write_text("\n".join(("file,classes", *lines)) + "\n", encoding=encoding)
    return file


def test_a_csv_file_names_the_classes_of_each_file(pictures, tmp_path):
    lines = ("train/b.png,dog; cat", './train/a/c.png,"cat;cat"', '"test/d, e.png",')
    labels = read_labels_csv(write_csv(tmp_path, *lines, encoding="utf-8-sig"), pictures)
    assert labels.class_names == ("cat", "dog")
    for part, marks in (("train", [[1, -1], [1, 1]]), ("test", [[-1, -1]])):
        source = FolderSource(f"{pictures}/{part}")  # by path: a/c.png, b.png
        np.testing.assert_array_equal(labels.of(source), marks)


@pytest.mark.parametrize(
    "lines, message",
    [
        (["train/x.png,cat"], r"line 2 of .*labels\.csv names 'train/x\.png', and there is no fil"),
        (["train/b.png,cat", "train/./b.png,dog"], r"line 3 of .* names train/\./b\.png again"),
        (["train/b.png"], "line 2 of .* has not as many values as the first line has columns"),
        (["train/b.png,cat,dog"], "line 2 of .* has not as many values"),
        (["train/b.png,"], "names no class"),
        (['train/b.png,"cat'], "cannot be read .*: name a CSV file with the columns file and clas"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(pictures, tmp_path, lines, message):
    with pytest.raises(DataError, match=message):
        read_labels_csv(write_csv(tmp_path, *lines), pictures)


def test_a_csv_file_that_cannot_be_used_is_named(pictures, tmp_path):
    with pytest.raises(DataError, match=r"none\.csv cannot be read \(No such file"):
        read_labels_csv(tmp_path / "none.csv", pictures)
    file = tmp_path / "labels.csv"
    file.write_text("file;classes\ntrain/b.png;cat\n")
    with pytest.raises(DataError, match=r"has no column file: begin it with the line file,classes"):
        read_labels_csv(file, pictures)
    file.write_bytes(b"file,classes\ntrain/b.png,ca\xff\n")
    with pytest.raises(DataError, match=r"labels\.csv cannot be read"):
        read_labels_csv(file, pictures)


def test_an_image_without_a_line_is_named(pictures, tmp_path):
    labels = read_labels_csv(write_csv(tmp_path, "train/b.png,cat"), pictures)
    with pytest.raises(DataError, match=r"labels\.csv does not name 1 of the 2 .*c\.png for exam"):
        labels.of(FolderSource(f"{pictures}/train"))
