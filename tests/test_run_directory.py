"""A run directory refuses to be mixed up, and its log forgets exactly what it should."""

import dataclasses
import json
import math
import os
import pathlib
import shutil
import signal
import sys

import pytest

from la_tf.config import Config, ConfigError
from la_tf.errors import RunError
from la_tf.runs.directory import RunDirectory, require_space
from la_tf.runs.log import RunLog, read_log

DATA = {"training set": {"examples": 3, "fingerprint": "abc"}}


def open_run(path, config=None, data=None):
    return RunDirectory(str(path), config or Config(), data or DATA, {"python": "3"})


def make_run(path):
    """A directory whose run has written a checkpoint."""
    open_run(path).release()
    make_checkpoint(path / "checkpoints", 1)


def make_checkpoint(folder, step):
    folder.mkdir(exist_ok=True)
    for ending in ("index", "data-00000-of-00001"):
        (folder / f"ckpt-{step}.{ending}").write_text("")


def changed(section: str, **options) -> Config:
    config = Config()
    part = dataclasses.replace(getattr(config, section), **options)
    return dataclasses.replace(config, **{section: part})


def test_a_second_start_resumes_and_is_recorded(tmp_path):
    assert not open_run(tmp_path / "new").resumed
    make_run(tmp_path / "run")
    second = open_run(tmp_path / "run")
    assert second.resumed
    assert len(json.loads((tmp_path / "run" / "environment.json").read_text())) == 2


@pytest.mark.parametrize(
    "config,words",
    [
        (changed("objective", tau=0.1), r"--tau was 0.07, now 0.1"),
        (changed("optimizer", drop_epochs=(5,)), r"--drop_epochs was \[\], now \[5\]"),
        (changed("schedule", seed=1), r"--seed was 0, now 1"),
    ],
)
def test_another_configuration_is_refused_naming_the_difference(tmp_path, config, words):
    make_run(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(RunError, match=words):
        open_run(tmp_path, config)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_an_option_younger_than_the_run_counts_as_its_default(tmp_path):
    make_run(tmp_path)
    file = tmp_path / "config.json"
    stored = json.loads(file.read_text())
    del stored["config"]["objective"]["nce_negatives"]
    file.write_text(json.dumps(stored))
    assert open_run(tmp_path).resumed
    file.write_text(json.dumps(stored))
    with pytest.raises(RunError, match=r"--nce_negatives was 4096, now 5"):
        open_run(tmp_path, changed("objective", nce_negatives=5))


def test_a_run_with_a_removed_option_is_resumed_only_where_it_was_not_in_use(tmp_path):
    make_run(tmp_path)
    file = tmp_path / "config.json"
    stored = json.loads(file.read_text())
    stored["config"]["clustering"]["cluster_in_background"] = False
    file.write_text(json.dumps(stored))
    assert open_run(tmp_path).resumed
    stored["config"]["clustering"]["cluster_in_background"] = True
    file.write_text(json.dumps(stored))
    with pytest.raises(ConfigError, match="--cluster_in_background=True"):
        open_run(tmp_path)


def test_a_start_that_never_saved_may_be_repeated_with_other_options(tmp_path):
    open_run(tmp_path).release()
    again = open_run(tmp_path, changed("objective", tau=0.1))
    assert not again.resumed
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["config"]["objective"]["tau"] == 0.1


def test_other_data_are_refused(tmp_path):
    make_run(tmp_path)
    with pytest.raises(RunError, match="the data's training set"):
        open_run(tmp_path, data={"training set": {"examples": 4, "fingerprint": "xyz"}})


def test_a_log_without_its_checkpoints_is_never_overwritten(tmp_path):
    make_run(tmp_path)
    RunLog(tmp_path / "metrics.jsonl").write("train", 7, 1, loss=0.5)
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(RunError, match="whose checkpoints are gone"):
        open_run(tmp_path)
    assert len(read_log(tmp_path / "metrics.jsonl")) == 1


def test_steps_that_were_taken_over_are_not_lost_with_the_checkpoints(tmp_path):
    """A start that was killed between taking them over and its first checkpoint is repeated."""
    for option, repeated in (("extend", True), ("warm_start", True), ("init_from", False)):
        path = tmp_path / option
        origin = {"option": option, "path": "other", "step": 7}
        RunDirectory(str(path), Config(), DATA, {}, origin).release()
        log = RunLog(path / "metrics.jsonl")
        log.write("train", 7, 1, loss=0.5)
        if repeated:
            RunDirectory(str(path), Config(), DATA, {}, origin).release()
            log.write("train", 8, 1, loss=0.5)
        with pytest.raises(RunError, match="whose checkpoints are gone"):
            open_run(path)


def test_a_run_with_other_initial_weights_is_another(tmp_path):
    make_run(tmp_path)
    assert open_run(tmp_path, changed("run", warm_start="x", callbacks="m:f")).resumed
    with pytest.raises(RunError, match="--init_from was None, now x"):
        open_run(tmp_path, changed("run", init_from="x"))


@pytest.mark.parametrize("name", ["config.json", "environment.json"])
@pytest.mark.parametrize("content", [None, "{half"])
def test_a_run_that_lost_a_file_says_which(tmp_path, name, content):
    make_run(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    elif name == "environment.json":
        open_run(tmp_path)  # it is only a record; a new one begins
        return
    with pytest.raises(RunError, match=f"{name} of a run"):
        open_run(tmp_path)


def test_where_and_on_what_a_run_happens_may_change(tmp_path):
    make_run(tmp_path)
    moved = dataclasses.replace(
        changed("run", num_devices=2, checkpoint_every_steps=7),
        data=dataclasses.replace(Config().data, data="/elsewhere"),
    )
    assert open_run(tmp_path, moved).resumed


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match="holds files but no run"):
        open_run(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["[x]*?{1,2}", "a?", "a*", "back\\slash"])
def test_a_directory_that_tensorflow_takes_for_a_pattern_is_refused_before_it_is_made(
    tmp_path, name
):
    with pytest.raises(RunError, match="pattern of names: name another directory"):
        open_run(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    open_run(tmp_path / "{1,2} a]").release()


def test_a_directory_in_use_is_refused(tmp_path):
    held = open_run(tmp_path)
    with pytest.raises(RunError, match="another process is training"):
        open_run(tmp_path)
    held.release()
    open_run(tmp_path)


def test_a_directory_that_cannot_be_made_says_why(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written: Not a directory"):
        open_run(tmp_path / "file" / "run")


def test_a_log_goes_back_to_where_it_was(tmp_path):
    log = RunLog(tmp_path / "log.jsonl")
    log.write("train", 1, 1, loss=0.5)
    kept = log.tell()
    log.write("train", 2, 1, loss=0.25)
    log.truncate(kept)
    log.write("train", 2, 1, loss=0.125)
    log.close()
    assert [r["loss"] for r in read_log(tmp_path / "log.jsonl")] == [0.5, 0.125]


def test_a_reopened_log_knows_its_length(tmp_path):
    log = RunLog(tmp_path / "log.jsonl")
    log.write("a", 1, 1)
    size = log.tell()
    log.close()
    assert RunLog(tmp_path / "log.jsonl").tell() == size > 0


def test_a_log_shorter_than_the_checkpoint_says_is_an_error(tmp_path):
    log = RunLog(tmp_path / "log.jsonl")
    with pytest.raises(RunError, match="shorter than when the last checkpoint"):
        log.truncate(10)


def test_half_a_line_is_not_a_record(tmp_path):
    whole = {"kind": "a", "step": 1, "epoch": 1}
    (tmp_path / "log.jsonl").write_text(f'{json.dumps(whole)}\n{{"kind": "b"')
    assert read_log(tmp_path / "log.jsonl") == [whole]


@pytest.mark.parametrize(
    "line",
    [b"{", b"\xff\xfe", bytes(9), b"[]", b"7", b"[" * 99_999, b'{"kind": "a", "step": "b"}', b""],
)
def test_a_damaged_line_in_the_middle_leaves_the_others(tmp_path, line):
    first, last = ({"kind": "a", "step": n, "epoch": 1, "loss": 0.5} for n in (1, 2))
    content = b"\n".join([json.dumps(first).encode(), line, json.dumps(last).encode(), b""])
    (tmp_path / "log.jsonl").write_bytes(content)
    assert read_log(tmp_path / "log.jsonl") == [first, last]


def test_a_listener_may_stop_a_record_from_being_written(tmp_path):
    def refuse(record):
        if not math.isfinite(record["loss"]):
            raise RuntimeError

    log = RunLog(tmp_path / "log.jsonl", [refuse])
    log.write("train", 1, 1, loss=1.0)
    with pytest.raises(RuntimeError):
        log.write("train", 2, 1, loss=math.nan)
    assert len(read_log(tmp_path / "log.jsonl")) == 1


def test_a_full_disk_is_one_sentence(tmp_path):
    log = RunLog(pathlib.Path("/dev/full"))
    with pytest.raises(RunError, match="cannot be written: No space left on device"):
        log.write("train", 1, 1, loss=0.5)


def test_a_run_that_could_not_be_saved_is_not_started(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    require_space(tmp_path, free // 2)
    with pytest.raises(RunError, match="lower --keep_checkpoints"):
        require_space(tmp_path, 2 * free)


LEFT_BY_A_KILL = [
    *([], ["lock"], ["config.json.0f3a.partial"], ["lock", "config.json.0f3a.partial"]),
    ["config.json", "lock", "environment.json.77.partial"],
]


@pytest.mark.parametrize("names", LEFT_BY_A_KILL)
def test_what_a_killed_start_leaves_is_its_own(tmp_path, names):
    open_run(tmp_path / "whole").release()
    run = tmp_path / "run"
    run.mkdir()
    for name in names:
        whole = tmp_path / "whole" / name
        (run / name).write_bytes(whole.read_bytes() if whole.exists() else b'{"half')
    open_run(run).release()
    assert {f.name for f in run.iterdir()} == {"lock", "config.json", "environment.json"}


def test_other_files_beside_a_lock_are_still_foreign(tmp_path):
    (tmp_path / "lock").touch()
    (tmp_path / "thesis.partial").touch()
    with pytest.raises(RunError, match="holds files but no run"):
        open_run(tmp_path)
    assert (tmp_path / "thesis.partial").exists()


def start_in_a_child(path, kill_at) -> int:
    """Starts in a child that kills itself before its file operation of this number; exit code.

    Python announces each open, rename, unlink and mkdir to audit hooks; there the kill comes.
    """
    count = 0

    def hook(event, args):
        nonlocal count
        touches = event in ("open", "os.rename", "os.remove", "os.mkdir", "os.truncate")
        if touches and str(args[0]).startswith(str(path)):
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        try:
            sys.addaudithook(hook)
            open_run(path).release()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_start_killed_at_any_of_its_file_operations_can_be_repeated(tmp_path):
    kills = 0
    while start_in_a_child(tmp_path / str(kills), kills + 1) == -signal.SIGKILL:
        open_run(tmp_path / str(kills)).release()
        names = {f.name for f in (tmp_path / str(kills)).iterdir()}
        assert names == {"lock", "config.json", "environment.json"}
        kills += 1
    assert kills >= 6
