"""Data sets are the same when their images, order and labels are."""

import shutil

import numpy as np

from la_tf.data.base import Subset
from la_tf.data.digits import DigitsSource
from la_tf.data.folder import FolderSource
from la_tf.data.identity import fingerprint, identify
from la_tf.data.record_writer import write_records
from la_tf.data.records import RecordSource


def test_fingerprints_tell_names_order_and_labels_apart():
    labels = np.array([0, 1])
    prints = {
        fingerprint(["a", "b"], labels),
        fingerprint(["b", "a"], labels),
        fingerprint(["ab", ""], labels),
        fingerprint(["a", "b"], labels[::-1]),
        fingerprint(["a", "b"], None),
    }
    assert len(prints) == 5
    assert fingerprint(["a", "b"], labels) in prints


def test_a_moved_folder_is_the_same_data_and_a_changed_one_is_not(tmp_path):
    digits = DigitsSource()
    for place in ("here", "there/deep"):
        for label in ("x", "y"):
            folder = tmp_path / place / label
            folder.mkdir(parents=True)
            for i in range(2):
                (folder / f"{i}.png").write_bytes(digits.read(i))
    here = identify(FolderSource(str(tmp_path / "here")))
    assert here == identify(FolderSource(str(tmp_path / "there" / "deep")))
    assert here["examples"] == 4
    (tmp_path / "here" / "x" / "1.png").unlink()
    assert identify(FolderSource(str(tmp_path / "here"))) != here


def test_moved_records_are_the_same_data(tmp_path):
    write_records(Subset(DigitsSource(), range(6)), str(tmp_path / "a"), num_shards=2)
    shutil.copytree(tmp_path / "a", tmp_path / "b" / "c")
    here, there = RecordSource(str(tmp_path / "a")), RecordSource(str(tmp_path / "b" / "c"))
    assert identify(here) == identify(there)


def test_a_subset_is_not_the_whole():
    digits = DigitsSource()
    prints = {identify(Subset(digits, range(n)))["fingerprint"] for n in (1, 10, 100)}
    assert len(prints) == 3
