"""What a run tells where there is no terminal."""

import pytest
from callback_runs import (
    SPE,
    B,
    Bystander,
    Clock,
    fit,
    make_model,
    of_kind,
    train_logger,
    with_labels,
)

from la_tf import banked_model
from la_tf.callbacks import progress, train_log
from la_tf.callbacks.progress import Progress
from la_tf.runs.log import RunLog


@pytest.mark.parametrize("start,shown", [(0, [1, 11, 16]), (6, [7, 16])])
def test_without_a_terminal_a_line_now_and_then_tells_how_far_the_run_is(
    tmp_path, capsys, monkeypatch, start, shown
):
    clock = Clock(monkeypatch, progress, train_log, banked_model)
    monitor = Progress(4 * SPE, SPE, B)
    log = RunLog(tmp_path / "log.jsonl", [monitor])
    timing = RunLog(tmp_path / "timing.jsonl", [monitor])
    model = with_labels(make_model(SPE))
    model.optimizer.iterations.assign(start)
    callbacks = [
        monitor,
        train_logger(log, timing, 1),
        Bystander(
            before=lambda _: clock.wait(3),  # so 10 steps in the 30 seconds between two lines
            at_epoch_end=lambda step: log.write(
                "knn", step, step // SPE, knn200=0.5, knn1=step / 80
            ),
        ),
    ]
    fit(model, callbacks, epochs=4, start=start)
    monitor.close()
    expected = []
    for step in shown:
        (record,) = [r for r in of_kind(log, "train") if r["step"] == step]
        epoch = step // SPE if step == 16 else (step - 1) // SPE  # the last one evaluated
        knn = 0 if start and step == start + 1 else epoch * SPE / 80
        expected.append(
            f"step {step}/16  epoch {(step - 1) // SPE + 1}"
            f"  loss {'IR' if step <= SPE else 'LA'} {record['loss']:.3f}"
            + (
                f"  kNN in the bank (K = 200 / 1) 50.0 / {100 * knn:.1f} % after epoch {epoch}"
                if knn
                else ""
            )
            + f"  images/s 2  wait 0%  left 00:{3 * (16 - step):02}"
        )
    output = capsys.readouterr()
    assert output.out.splitlines() == expected
    assert output.err == ""


def test_what_is_said_without_a_terminal_is_a_plain_line(capsys):
    Progress(4 * SPE, SPE, B).say("resuming.")
    assert capsys.readouterr().out == "resuming.\n"
