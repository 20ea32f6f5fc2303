"""Names of the numbers that `--protocol=voc07` stores; LAYER is conv1 to conv5 or pixels.

| name | what |
| --- | --- |
| `mAP LAYER` | mean over the classes of average precision by eleven points, VOC2007's |
| `mAP (area) LAYER` | the same by the area under the curve, VOC2010's |
| `AP LAYER CLASS` | of one class, by eleven points |
| `mAP LAYER of K` | after training on K images a class: the mean over draws |
| `mAP LAYER of K, deviation` | the standard deviation over draws; from two on |
"""

VOC07 = "voc07"


def mean_of(layer: str) -> str:
    """The name of mAP."""
    return f"mAP {layer}"


def area_of(layer: str) -> str:
    """The name of mAP by the area."""
    return f"mAP (area) {layer}"


def class_of(layer: str, class_name: str) -> str:
    """The name of a class's average precision."""
    return f"AP {layer} {class_name}"


def shots_of(layer: str, shots: int) -> str:
    """The name of low-shot mAP."""
    return f"mAP {layer} of {shots}"


def deviation_of(layer: str, shots: int) -> str:
    """The name of low-shot mAP's standard deviation."""
    return f"{shots_of(layer, shots)}, deviation"
