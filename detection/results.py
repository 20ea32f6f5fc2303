"""The result of a fine-tuning for people."""

from typing import Any


def format_result(record: dict[str, Any]) -> str:
    """AP of each class and the means, in percent; - for a class without an object to find.

    Args:
      record: from `finetune`.
    """
    result, settings, start = record["result"], record["settings"], record["start"]
    by_class = {name.removeprefix("AP/"): ap for name, ap in result.items() if "/" in name}
    means = {"mAP, 11 points": result["mAP"], "mAP, area": result["mAP_area"]}
    lines = [
        f"  {name:14}" + ("     -" if ap is None else f"{100 * ap:6.1f}")
        for name, ap in {**by_class, **means}.items()
    ]
    images = record["images"]
    train, test = images[settings["train_split"]], images[settings["test_split"]]
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
