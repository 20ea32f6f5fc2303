"""The result of a fine-tuning for people."""

from typing import TypedDict


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
    """What voc_results.json holds, as far as it is shown."""

    result: dict[str, float | None]
    settings: _Settings
    start: _Start
    images: dict[str, int]
    saved_model: str


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
