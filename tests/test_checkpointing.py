"""Checkpoints: when they come, what signals leave, and which are refused."""

import signal

import numpy as np
import pytest
import tensorflow as tf
from callback_runs import (
    SPE,
    Bystander,
    Clock,
    D,
    H,
    N,
    clustering,
    fit,
    make_model,
    of_kind,
    train_logger,
    with_labels,
)

from la_tf.callbacks import checkpointing
from la_tf.callbacks.checkpointing import Checkpointing, Interrupted
from la_tf.errors import RunError
from la_tf.runs.health import TrainingDiverged
from la_tf.runs.log import RunLog, read_log
from la_tf.schedules import Plateau


def checkpoints(model, folder, log, *, every_steps=0, every_minutes=0, keep=3, **more):
    return Checkpointing(
        model,
        folder / "checkpoints",
        log=log,
        steps_per_epoch=SPE,
        every_steps=every_steps,
        every_minutes=every_minutes,
        keep=keep,
        **more,
    )


@pytest.mark.parametrize("every_steps,every_minutes", [(3, 0), (0, 10)])
def test_checkpoints_come_by_step_or_by_time_and_the_newest_are_kept(
    tmp_path, log, monkeypatch, every_steps, every_minutes
):
    clock, newest, folder = Clock(monkeypatch, checkpointing), [], tmp_path / "checkpoints"

    def look(_):
        name = tf.train.latest_checkpoint(str(folder))
        if name and name.split("-")[-1] not in newest:
            newest.append(name.split("-")[-1])

    def start():
        model = with_labels(make_model(SPE))
        due = {"every_steps": every_steps, "every_minutes": every_minutes}
        saver = checkpoints(model, tmp_path, log, keep=2, **due)
        waits = Bystander(before=lambda _: clock.wait(4 * 60))  # 10 minutes are over in 3 steps
        return model, saver, [waits, saver, Bystander(after=look, at_epoch_end=look)]

    model, _, callbacks = start()
    fit(model, callbacks, epochs=3)
    assert newest == ["3", "6", "9", "12"]
    assert {path.name for path in folder.glob("*.index")} == {"ckpt-9.index", "ckpt-12.index"}
    model, saver, callbacks = start()
    assert saver.restore() == 12
    fit(model, callbacks, epochs=5, start=12)
    assert newest[4:] == ["15", "18"]
    assert {path.name for path in folder.glob("*.index")} == {"ckpt-15.index", "ckpt-18.index"}


def test_without_a_checkpoint_there_is_nothing_to_restore(tmp_path, log):
    log.write("train", 1, 1)
    assert checkpoints(make_model(), tmp_path, log).restore() is None
    assert len(read_log(log.path)) == 1


@pytest.fixture
def signals():
    """The signals that reach the handlers of before the run; they end no process here."""
    reached = []
    stops = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {s: signal.signal(s, lambda number, _: reached.append(number)) for s in stops}
    mine = {s: signal.getsignal(s) for s in stops}
    yield reached
    after = {s: signal.getsignal(s) for s in stops}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == mine  # the run has put them back


@pytest.mark.parametrize("signum,step", [(signal.SIGTERM, 6), (signal.SIGINT, 2 * SPE)])
def test_a_signal_saves_the_run_and_a_new_start_ends_as_if_there_had_been_none(
    tmp_path, timing, signals, signum, step
):
    def start(name, stop=None):
        """A model, its callbacks, and the step it stands at."""
        (tmp_path / name).mkdir(exist_ok=True)
        log, model = RunLog(tmp_path / name / "log.jsonl"), make_model(SPE)
        saver = checkpoints(model, tmp_path / name, log)
        callbacks = [
            clustering(log, timing),
            train_logger(log, timing, SPE),  # so step 6 lies in the middle of a window
            Bystander(
                after=stop,
                at_epoch_end=lambda step: log.write("knn", step, step // SPE, knn1=0.5),
            ),
            saver,
        ]
        return model, callbacks, saver.restore()

    def send(done):
        if done == step:
            signal.raise_signal(signum)

    straight, callbacks, _ = start("straight")
    fit(straight, callbacks, epochs=4)
    model, callbacks, _ = start("stopped", stop=send)
    stopped = pytest.raises(Interrupted, match=f"{signum.name} after step {step}$")
    with stopped as caught, callbacks[-1].listening():
        fit(model, callbacks, epochs=4)
    assert (caught.value.signum, caught.value.step) == (signum, step)
    saved = [variable.numpy() for variable in model.variables]
    records = read_log(tmp_path / "stopped" / "log.jsonl")
    # A record that no checkpoint knows of, as before a kill between two checkpoints.
    RunLog(tmp_path / "stopped" / "log.jsonl").write("train", 99, 9, loss=9.0)

    resumed, callbacks, restored = start("stopped")
    assert restored == step
    for variable, value in zip(resumed.variables, saved, strict=True):
        np.testing.assert_array_equal(variable, value, err_msg=variable.name)
    assert read_log(tmp_path / "stopped" / "log.jsonl") == records
    fit(resumed, callbacks, epochs=4, start=step)
    for a, b in zip(straight.variables, resumed.variables, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, err_msg=a.name)
    expected = read_log(tmp_path / "straight" / "log.jsonl")
    got = read_log(tmp_path / "stopped" / "log.jsonl")
    assert len(got) == len(expected) == 4 + 4 + 3
    for a, b in zip(got, expected, strict=True):
        words = {name: value for name, value in b.items() if isinstance(value, str)}
        assert {name: a.pop(name) for name in words} == words
        numbers = {name: value for name, value in b.items() if name not in words}
        assert a == pytest.approx(numbers, rel=1e-4, abs=1e-6)
    assert signals == []


def test_a_second_signal_is_not_held_back(tmp_path, log, signals):
    model = with_labels(make_model(SPE))

    def insist(step):
        if step == 2:
            signal.raise_signal(signal.SIGINT)
            assert signals == []
            signal.raise_signal(signal.SIGINT)
            assert signals == [signal.SIGINT]

    saver = checkpoints(model, tmp_path, log)
    with pytest.raises(Interrupted), saver.listening():
        fit(model, [Bystander(after=insist), saver], epochs=1)


def test_a_run_that_ends_by_itself_gives_the_signals_back(tmp_path, log, signals):
    model, before = with_labels(make_model(SPE)), signal.getsignal(signal.SIGTERM)
    seen = []
    saver = checkpoints(model, tmp_path, log)
    watch = Bystander(after=lambda _: seen.append(signal.getsignal(signal.SIGTERM)))
    with saver.listening():
        fit(model, [saver, watch], epochs=1)
    assert before not in seen and signals == []  # the fixture sees that they are back


def test_a_signal_after_the_last_step_stops_the_run_once_it_is_saved(tmp_path, log, signals):
    model = with_labels(make_model(SPE))
    saver = checkpoints(model, tmp_path, log)
    with pytest.raises(Interrupted, match=f"after step {SPE}$"), saver.listening():
        fit(model, [saver], epochs=1)
        signal.raise_signal(signal.SIGTERM)
        saver.finish()
    assert checkpoints(make_model(SPE), tmp_path, log).restore() == SPE


def test_a_closed_terminal_saves_the_run_unless_the_caller_ignores_that(tmp_path, log, signals):
    hung_up = Bystander(after=lambda step: step == 2 and signal.raise_signal(signal.SIGHUP))
    model = with_labels(make_model(SPE))
    saver = checkpoints(model, tmp_path, log)
    with pytest.raises(Interrupted, match="SIGHUP after step 2"), saver.listening():
        fit(model, [hung_up, saver], epochs=1)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
    try:
        model = with_labels(make_model(SPE))
        saver = checkpoints(model, tmp_path / "nohup", log)
        with saver.listening():
            fit(model, [hung_up, saver], epochs=1)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_signals_are_given_back_whatever_ends_the_run(tmp_path, log, signals):
    with pytest.raises(KeyError), checkpoints(make_model(), tmp_path, log).listening():
        signal.raise_signal(signal.SIGTERM)
        raise KeyError
    assert signals == []
    signal.raise_signal(signal.SIGTERM)
    assert signals == [signal.SIGTERM]


def test_one_of_several_workers_saves_by_steps_alone_and_leaves_signals_be(
    tmp_path, log, signals, monkeypatch
):
    """Clocks and signals differ from worker to worker, and saving needs all of them at once."""
    clock, model = Clock(monkeypatch, checkpointing), with_labels(make_model(SPE))
    saver = checkpoints(model, tmp_path, log, every_minutes=1, alone=False)
    with saver.listening():
        signal.raise_signal(signal.SIGTERM)
        assert signals == [signal.SIGTERM]
        fit(model, [Bystander(before=lambda _: clock.wait(300)), saver], epochs=2)
    kept = {path.name for path in (tmp_path / "checkpoints").glob("*.index")}
    assert kept == {f"ckpt-{SPE}.index", f"ckpt-{2 * SPE}.index"}


def test_weights_that_are_no_numbers_are_never_saved(tmp_path, log):
    model = with_labels(make_model(SPE))
    saver = checkpoints(model, tmp_path, log)
    saver.save()
    fit(model, [saver], epochs=1)
    weight = model.network.trainable_variables[0]
    weight.assign(weight / 0.0)
    with pytest.raises(TrainingDiverged, match=f"between step 0 and step {SPE}"):
        saver.save()
    assert checkpoints(make_model(SPE), tmp_path, log).restore() == 0


def smaller_bank(**state):
    return make_model(size=N - 1), state


def deeper_network(**state):
    return make_model(layers=2), state


def watched(**state):
    model = make_model()
    return model, {"plateau": Plateau(model.optimizer, 2)}


def refused(tmp_path, log, model, **state):
    log.write("train", 5, 2, loss=0.5)
    with pytest.raises(RunError, match="cannot be restored") as caught:
        checkpoints(model, tmp_path, log, **state).restore()
    assert str(tmp_path / "checkpoints" / "ckpt-0") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(read_log(log.path)) == 1  # not cut to the length that the checkpoint holds


@pytest.mark.parametrize("other", [smaller_bank, deeper_network, watched])
def test_a_checkpoint_of_another_model_is_refused_both_ways(tmp_path, other):
    for name, models in (("there", 1), ("back", -1)):
        (tmp_path / name).mkdir()
        (stored, stored_state), (wanted, state) = [(make_model(), {}), other()][::models]
        log = RunLog(tmp_path / name / "log.jsonl")
        checkpoints(stored, tmp_path / name, log, **stored_state).save()
        refused(tmp_path / name, log, wanted, **state)


def test_a_checkpoint_with_labels_of_an_earlier_version_is_refused_in_words(tmp_path, log):
    labels = tf.Variable(tf.zeros([H, N], tf.int32))
    earlier = tf.train.Checkpoint(model=tf.train.Checkpoint(cluster_labels=labels))
    earlier.write(str(tmp_path / "checkpoints" / "ckpt-0"))
    with pytest.raises(RunError, match="ckpt-0 was written by an earlier version: finish"):
        checkpoints(make_model(), tmp_path, log).restore()


def test_statistics_that_are_not_finite_are_not_saved(tmp_path, log):
    """The loss of a step may be finite where a moving variance has overflowed."""
    model = make_model()
    norm = tf.keras.layers.BatchNormalization()
    model.network = tf.keras.Sequential([model.network, norm])
    norm.moving_variance.assign(tf.fill([D], np.inf))
    with pytest.raises(TrainingDiverged, match="variance"):
        checkpoints(model, tmp_path, log).save()
    assert not list(tmp_path.glob("checkpoints/*"))


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)


@pytest.mark.parametrize(
    "part,damage",
    [("data", cut), ("data", flip), ("index", cut), ("index", flip)],
)
def test_a_damaged_checkpoint_is_refused(tmp_path, log, part, damage):
    checkpoints(make_model(), tmp_path, log).save()
    (file,) = (tmp_path / "checkpoints").glob(f"ckpt-0.{part}*")
    damage(file)
    refused(tmp_path, log, make_model())


@pytest.mark.parametrize("part", ["data", "index"])
def test_checkpoints_that_are_gone_are_missed(tmp_path, log, part):
    checkpoints(make_model(), tmp_path, log).save()
    (file,) = (tmp_path / "checkpoints").glob(f"ckpt-0.{part}*")
    file.unlink()
    log.write("train", 5, 2, loss=0.5)
    with pytest.raises(RunError, match="are gone: restore one"):
        checkpoints(make_model(), tmp_path, log).restore()
    assert len(read_log(log.path)) == 1


def test_without_the_newest_checkpoint_the_run_goes_on_from_an_older_one(tmp_path, log):
    """What the message about a damaged one advises."""
    model = with_labels(make_model(SPE))
    saver = checkpoints(model, tmp_path, log, every_steps=3)
    fit(model, [train_logger(log, log, 1), saver], epochs=2)
    for file in (tmp_path / "checkpoints").glob("ckpt-6.*"):
        file.unlink()
    assert checkpoints(make_model(SPE), tmp_path, log).restore() == 3
    assert [r["step"] for r in of_kind(log, "train")] == [1, 2, 3]


def test_a_run_whose_checkpoints_are_all_gone_does_not_begin_again(tmp_path, log):
    checkpoints(make_model(), tmp_path, log).save()
    log.write("train", 5, 2, loss=0.5)
    for file in (tmp_path / "checkpoints").glob("ckpt-0.*"):
        file.unlink()
    with pytest.raises(RunError, match="are gone"):
        checkpoints(make_model(), tmp_path, log).restore()
    assert len(read_log(log.path)) == 1


def test_where_nothing_can_be_written_the_error_is_one_sentence(tmp_path, log):
    saver = checkpoints(make_model(), tmp_path, log)
    (tmp_path / "checkpoints").write_text("not a folder")
    with pytest.raises(RunError, match="no checkpoint could be written to") as caught:
        saver.save()
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
