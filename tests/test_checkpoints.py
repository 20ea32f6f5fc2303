"""Which checkpoints are there is told by their files, whatever TensorFlow's list of them says."""

import pathlib

import pytest
import tensorflow as tf

from la_tf.errors import RunError
from la_tf.runs.checkpoints import mend_list, present_checkpoints


@pytest.fixture
def saved(tmp_path):
    """A variable saved at steps 2, 4 and 10 of which the last two are kept; (manager, variable)."""
    variable = tf.Variable(0)
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(variable=variable), str(tmp_path), max_to_keep=2
    )
    for step in (2, 4, 10):
        variable.assign(step)
        manager.save(checkpoint_number=step)
    return manager, variable


def names(folder):
    return [pathlib.Path(path).name for path in present_checkpoints(folder)]


def test_checkpoints_are_in_the_order_of_their_steps(saved, tmp_path):
    assert names(tmp_path) == ["ckpt-4", "ckpt-10"]
    assert names(tmp_path / "nowhere") == []


@pytest.mark.parametrize("ending", [".index", ".data-00000-of-00001"])
def test_a_checkpoint_that_lost_a_file_does_not_count(saved, tmp_path, ending):
    (tmp_path / f"ckpt-10{ending}").unlink()
    assert names(tmp_path) == ["ckpt-4"]


def test_a_checkpoint_in_several_data_files_counts_with_all_of_them(tmp_path):
    for part in ("index", "data-00000-of-00002"):
        (tmp_path / f"ckpt-7.{part}").touch()
    assert names(tmp_path) == []
    (tmp_path / "ckpt-7.data-00001-of-00002").touch()
    assert names(tmp_path) == ["ckpt-7"]


def test_a_list_that_is_right_is_left_alone(saved, tmp_path):
    before = (tmp_path / "checkpoint").read_bytes()
    assert mend_list(tmp_path) is None
    assert (tmp_path / "checkpoint").read_bytes() == before


def nothing(file):
    file.unlink()


def folder(file):
    file.unlink()
    file.mkdir()
    (file / "mine").touch()


DAMAGES = {
    "empty": lambda file: file.write_bytes(b""),
    "zeros": lambda file: file.write_bytes(bytes(300)),
    "garbage": lambda file: file.write_bytes(b"\xff\xfe{]"),
    "half": lambda file: file.write_bytes(file.read_bytes()[:12]),
    "gone": nothing,
    "a folder": folder,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_list_is_made_anew_and_kept(saved, tmp_path, damage):
    manager, variable = saved
    DAMAGES[damage](tmp_path / "checkpoint")
    sentence = mend_list(tmp_path)
    assert "2 checkpoints" in sentence and len(sentence.splitlines()) == 1
    kept = list(tmp_path.glob("checkpoint.damaged-*"))
    assert len(kept) == (damage != "gone") and all(file.name in sentence for file in kept)
    assert mend_list(tmp_path) is None
    # TensorFlow restores by it, and goes on removing the oldest.
    again = tf.train.CheckpointManager(manager.checkpoint, str(tmp_path), max_to_keep=2)
    variable.assign(0)
    manager.checkpoint.restore(again.latest_checkpoint).assert_consumed()
    assert variable == 10
    again.save(checkpoint_number=11)
    assert names(tmp_path) == ["ckpt-10", "ckpt-11"]


def test_after_a_kill_the_list_may_name_one_less_or_one_more(saved, tmp_path):
    list_ = (tmp_path / "checkpoint").read_text()
    (tmp_path / "checkpoint").write_text(
        'model_checkpoint_path: "ckpt-4"\nall_model_checkpoint_paths: "ckpt-4"\n'
    )
    assert mend_list(tmp_path) is None
    assert tf.train.latest_checkpoint(str(tmp_path)) == str(tmp_path / "ckpt-10")
    (tmp_path / "ckpt-10.index").unlink()
    (tmp_path / "checkpoint").write_text(list_)
    assert mend_list(tmp_path) is None
    assert tf.train.latest_checkpoint(str(tmp_path)) == str(tmp_path / "ckpt-4")


def test_checkpoints_that_are_all_gone_are_missed(saved, tmp_path):
    for file in tmp_path.glob("ckpt-*"):
        file.unlink()
    with pytest.raises(RunError, match="are gone: restore one"):
        present_checkpoints(tmp_path)
