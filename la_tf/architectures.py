"""Which networks of other libraries there are, and with which parameters: known without TensorFlow.

`keras:NAME` is a function of tf.keras.applications, `garden:NAME` a backbone that TF Model Garden
registers. Their parameters follow behind commas: `keras:MobileNetV2,alpha=0.5`.
"""

import dataclasses
import difflib
from typing import Any, NamedTuple

PREFIXES = ("garden:", "keras:")


class _Interval(NamedTuple):
    """Real numbers that a parameter may be."""

    low: float
    high: float


_Allowed = _Interval | tuple[Any, ...]  # an interval, or one of these
_WIDTH = _Interval(0.05, 8.0)
_TRUTHS = (True, False)

# Of Keras, those that take more than the images' size. Rates of dropout and of stochastic depth are
# left out here and below: Keras draws them from generators whose state no checkpoint holds.
_KERAS_PARAMETERS: dict[str, dict[str, _Allowed]] = {
    "MobileNet": {"alpha": _WIDTH, "depth_multiplier": (1, 2, 4)},
    "MobileNetV2": {"alpha": _WIDTH},
    "MobileNetV3Small": {"alpha": _WIDTH, "minimalistic": _TRUTHS},
    "MobileNetV3Large": {"alpha": _WIDTH, "minimalistic": _TRUTHS},
}
_REGNET_SIZES = "002 004 006 008 016 032 040 064 080 120 160 320"
_KERAS = (
    *_KERAS_PARAMETERS,
    *(f"ConvNeXt{size}" for size in ("Tiny", "Small", "Base", "Large", "XLarge")),
    *(f"DenseNet{depth}" for depth in (121, 169, 201)),
    *(f"EfficientNetB{number}" for number in range(8)),
    *(f"EfficientNetV2{size}" for size in ("B0", "B1", "B2", "B3", "S", "M", "L")),
    *("InceptionV3", "InceptionResNetV2", "Xception", "VGG16", "VGG19"),
    *(f"RegNet{kind}{size}" for kind in "XY" for size in _REGNET_SIZES.split()),
    *(f"ResNet{depth}{version}" for depth in (50, 101, 152) for version in ("", "V2")),
    *(f"ResNetRS{depth}" for depth in (50, 101, 152, 200, 270, 350, 420)),
)

_NORM: dict[str, _Allowed] = {
    "activation": ("relu", "relu6", "swish", "hard_swish", "gelu"),
    "norm_epsilon": _Interval(1e-8, 1.0),
}
_SCALE = {"filter_size_scale": _WIDTH}
_GARDEN: dict[str, dict[str, _Allowed]] = {
    "mobilenet": {
        "model_id": (
            *("MobileNetV1", "MobileNetV2", "MobileNetV3Large", "MobileNetV3Small"),
            *("MobileNetV3EdgeTPU", "MobileNetMultiMAX", "MobileNetMultiAVG"),
            *("MobileNetMultiMAXSeg", "MobileNetMultiAVGSeg", "MobileNetV3SmallReducedFilters"),
        ),
        **_SCALE,
        "norm_epsilon": _NORM["norm_epsilon"],
    },
    "efficientnet": {
        "model_id": tuple(f"b{number}" for number in range(8)),
        "se_ratio": _Interval(0.0, 1.0),
        **_NORM,
    },
    "mobiledet": {
        "model_id": ("MobileDetCPU", "MobileDetDSP", "MobileDetEdgeTPU", "MobileDetGPU"),
        **_SCALE,
        "norm_epsilon": _NORM["norm_epsilon"],
    },
    "resnet": {
        "model_id": (10, 18, 26, 34, 50, 101, 152, 200, 270, 350, 420),
        "depth_multiplier": _WIDTH,
        "stem_type": ("v0", "v1"),
        "se_ratio": _Interval(0.0, 1.0),
        "scale_stem": _TRUTHS,
        "resnetd_shortcut": _TRUTHS,
        "replace_stem_max_pool": _TRUTHS,
        **_NORM,
    },
}

FOREIGN: dict[str, dict[str, dict[str, _Allowed]]] = {
    "keras": {name: _KERAS_PARAMETERS.get(name, {}) for name in _KERAS},
    "garden": _GARDEN,
}
_LIBRARIES = {"keras": "tf.keras.applications", "garden": "TF Model Garden"}
_PASSED_OVER = {
    **dict.fromkeys(
        ("keras:NASNetMobile", "keras:NASNetLarge"),
        "has cells that read two maps at a time, so none of its maps stands for a level",
    ),
    **dict.fromkeys(
        ("garden:spinenet", "garden:spinenet_mobile"),
        "ends in a pyramid of maps, where an embedding needs one that is coarsest",
    ),
    "garden:dilated_resnet": "is for segmentation: its maps stop halving",
    "garden:revnet": "has gradients of its own, which were never tried with this training",
    "garden:vit": "has patches of one size and no maps that halve",
}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A network of another library.

    Attributes:
      library: "keras" or "garden".
      name: as that library calls it.
      parameters: by their names there.
    """

    library: str
    name: str
    parameters: dict[str, Any]

    @property
    def min_size(self) -> int:
        """The smallest side of images, in pixels, that it takes."""
        if self.library == "keras":
            return {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}.get(self.name, 32)
        return 32


def parse(text: str) -> Architecture:
    """What `keras:MobileNetV2,alpha=0.5` says.

    Raises:
      ValueError: there is no such network or parameter, or no such value; the message goes on a
        sentence that begins with the text.
    """
    (title, *given) = text.split(",")
    library, _, name = title.partition(":")
    if title in _PASSED_OVER:
        raise ValueError(_PASSED_OVER[title])
    if name not in FOREIGN.get(library, {}):
        raise ValueError(_unknown(library, name))
    allowed, parameters = FOREIGN[library][name], {}
    for part in given:
        key, _, value = part.partition("=")
        if key not in allowed:
            takes = f"takes {', '.join(allowed)}" if allowed else "takes none"
            raise ValueError(f"has no parameter '{key}': {name} {takes}")
        if key in parameters:
            raise ValueError(f"gives {key} twice")
        parameters[key] = _value(key, value, allowed[key])
    return Architecture(library, name, parameters)


def _value(key: str, text: str, allowed: _Allowed) -> Any:
    if not isinstance(allowed, _Interval):
        by_text = {str(choice).lower(): choice for choice in allowed}
        if text.lower() not in by_text:
            raise ValueError(f"needs {key} of {', '.join(map(str, allowed))}")
        return by_text[text.lower()]
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not allowed.low <= value <= allowed.high:
        raise ValueError(f"needs {key} from {allowed.low:g} to {allowed.high:g}")
    return value


def _unknown(library: str, name: str) -> str:
    if library not in FOREIGN:
        return f"must begin with {' or '.join(PREFIXES)}"
    names = {known.lower(): known for known in FOREIGN[library]}
    near = [names[n] for n in difflib.get_close_matches(name.lower(), names)]
    listed = near or ([] if library == "keras" else list(names.values()))
    return f"is no network of {_LIBRARIES[library]} that is known here" + (
        f": choose {' or '.join(listed)}" if listed else ": docs/networks.md lists them"
    )
