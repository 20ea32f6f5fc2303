"""The result of a fine-tuning for people, and the difference of two."""

import pathlib
from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import numpy as np

from detection.metric import RESAMPLES
from detection.output_directory import RESULTS
from la_tf.errors import RunError
from la_tf.stored import StoredFileError, read_json

_NINETY_FIVE = (2.5, 97.5)  # percentiles


class _Start(TypedDict):
    init: str
    network: str
    objective: str
    run_step: int


class _Settings(TypedDict):
    steps: int
    train_split: str
    test_split: str


class Result(TypedDict):
    """What voc_results.json holds, as far as it is shown.

    `resampled` is mAP with the test pictures drawn anew, see `VOCDetectionMetric.resampled`; null
    where no object was drawn.
    """

    result: dict[str, float | None]
    settings: _Settings
    start: _Start
    data: dict[str, str]
    images: dict[str, int]
    saved_model: str
    resampled: NotRequired[list[float | None]]


def format_result(record: Result) -> str:
    """AP of each class and the means, in percent; - for a class without an object to find.

    Args:
      record: from `finetune`.
    """
    result, settings, start = record["result"], record["settings"], record["start"]
    by_class = {name.removeprefix("AP/"): ap for name, ap in result.items() if "/" in name}
    means = {"mAP, 11 points": result.get("mAP"), "mAP, area": result.get("mAP_area")}
    lines = [
        f"  {name:14}" + ("     -" if ap is None else f"{100 * ap:6.1f}")
        for name, ap in {**by_class, **means}.items()
    ]
    if drawn := record.get("resampled"):
        low, high = _interval(np.array(drawn, float))
        lines.append(
            f"95 % of draws of the test pictures have an 11-point mAP of {low:.1f} to {high:.1f}."
        )
    images = record["images"]
    train, test = (images.get(settings[split]) for split in ("train_split", "test_split"))
    weights = (
        "random weights"
        if start["init"] == "random"
        else f"weights of {start['objective']} at step {start['run_step']}"
    )
    head = (
        f"{start['network']} from {weights}, {settings['steps']} steps on {train} images, "
        f"{test} images of {settings['test_split']}; AP in percent, IoU 0.5:"
    )
    return "\n".join([head, *lines])


def read_other(output_dir: pathlib.Path) -> Result:
    """The result of another fine-tuning, to compare with.

    Raises:
      RunError: there is none, or it has no draws of test pictures.
    """
    path = output_dir / RESULTS
    try:
        other = read_json(path, Result)
    except StoredFileError as error:
        raise RunError(f"{path} is no result to compare with: {error}.") from error
    _draws(other, str(path))
    return other


def require_same_pictures(record: Mapping[str, Any], other: Result) -> None:
    """Refuses what has no difference in mAP.

    Args:
      record: `settings`, `data` and `images` of a result.
      other: from `read_other`.

    Raises:
      RunError: they have different test pictures.
    """
    # `data` names the pictures of the split, of which some may have been left out.
    ours, theirs = (
        [r[part].get(r["settings"]["test_split"]) for part in ("data", "images")]
        for r in (record, other)
    )
    if ours != theirs:
        raise RunError(
            "the fine-tuning to compare with was evaluated on other pictures: there is no "
            "difference in mAP. Leave out --compare_to, or give the same pictures."
        )


def format_difference(record: Result, other: Result, name: str) -> str:
    """How far the mAP of a fine-tuning lies above that of another, with the same test pictures.

    Args:
      record: from `finetune`.
      other: from `read_other`.
      name: of the other, for people.

    Raises:
      RunError: they were evaluated on different pictures, or one has no draws of them.
    """
    require_same_pictures(record, other)
    low, high = _interval(_draws(record, "this result") - _draws(other, name))
    means = [100 * r["result"]["mAP"] for r in (record, other)]
    return (
        f"11-point mAP {means[0]:.1f}, that of {name} {means[1]:.1f}: a difference of "
        f"{means[0] - means[1]:+.1f}, in 95 % of draws of the test pictures {low:+.1f} to "
        f"{high:+.1f}. How much another seed would change it is not in that."
    )


def _draws(record: Result, name: str) -> np.ndarray:
    """mAP of each draw; nan where no object was drawn."""
    drawn = record.get("resampled", [])
    if record["result"].get("mAP") is None or len(drawn) != RESAMPLES:
        raise RunError(
            f"{name} has no draws of test pictures: an earlier version made it, or there was no "
            "object to find. Fine-tune again, in another --output_dir."
        )
    return np.array(drawn, float)


def _interval(means: np.ndarray) -> np.ndarray:
    """Between which two values, in percent, 95 % of them lie."""
    return 100 * np.nanpercentile(means, _NINETY_FIVE)
