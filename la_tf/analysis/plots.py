"""Draws figures as SVG that is legible on a light and on a dark page.

Every panel is a file of its own, so that a page can put them side by side or, on a telephone, below
each other. matplotlib's global settings are changed only while drawing.
"""

import dataclasses
import io
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter
from PIL import Image

GROUND, INK, MUTED, FAINT = "#ffffff", "#1f2430", "#667080", "#dde1e7"
DARK = {GROUND: "#1a1e26", INK: "#e4e8ef", MUTED: "#9aa5b5", FAINT: "#353c49"}
# Distinct with any colour vision (after Okabe and Ito), on white and on near black. Lines differ
# also in their dashes, points in their shapes.
COLOURS = ("#2b7fc4", "#e08214", "#169873", "#c2508e", "#7a68c9", "#8c8c1f")
DASHES = ("-", (0, (4, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
SHAPES = ("o", "s", "^")
_SIZE = (4.6, 3.0)  # inches
_BINS = 45  # of a histogram
_PICTURE = 64  # pixels of a picture on a map, at most
_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 10,
    "text.parse_math": False,  # names of files and classes may hold dollar signs
    "text.color": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelcolor": MUTED,
    "axes.facecolor": GROUND,
    "figure.facecolor": GROUND,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "svg.fonttype": "path",
    "svg.hashsalt": "la_tf",  # the same figure is the same file
}
_drawn = matplotlib.rc_context(_STYLE)


def _axes(width: float = _SIZE[0], height: float = _SIZE[1]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _legend(axes: Axes) -> None:
    """Names the lines below the axes, where they cover nothing; side by side if that fits."""
    handles, labels = axes.get_legend_handles_labels()
    columns = len(labels) if sum(len(label) + 8 for label in labels) < 60 else 1
    axes.figure.legend(handles, labels, loc="outside lower left", ncols=columns)


def _in_percent(value: float, position: int) -> str:
    del position
    return f"{100 * value:.3g}%"


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    # matplotlib writes colours as attributes, which a style sheet can match and replace.
    rules = "".join(
        f'[style*="{what}: {light}"]{{{what}:{dark} !important}}'
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
    )
    style = f"<style>@media screen and (prefers-color-scheme:dark){{{rules}}}</style>"
    head, end, body = buffer.getvalue().partition(" <defs>\n")
    return head + style + "\n" + end + body


@_drawn
def histograms(title: str, distributions: Mapping[str, np.ndarray]) -> str:
    """Histograms of values by label, with the same bins, as SVG (a panel of Figure 2).

    The lowest half percent of each is not drawn: a single image would stretch the axis.
    """
    figure, axes = _axes(_SIZE[0], _SIZE[1] + 0.18 * max(0, len(distributions) - 2))
    low = min(np.quantile(values, 0.005) for values in distributions.values())
    high = max(values.max() for values in distributions.values())
    edges = np.histogram_bin_edges([], _BINS, (low, high))
    for i, (label, values) in enumerate(distributions.items()):
        colour = COLOURS[i % len(COLOURS)]
        axes.hist(
            values,
            edges,
            weights=np.full(len(values), 1 / len(values)),
            histtype="stepfilled",
            facecolor=(colour, 0.22),
            edgecolor=colour,
            linewidth=1.6,
            linestyle=DASHES[i % len(DASHES)],
            label=label,
        )
    axes.set_title(title)
    axes.set_xlabel("mean similarity")
    axes.set_ylabel("images")
    axes.yaxis.set_major_formatter(_in_percent)
    axes.grid(visible=False, axis="x")
    _legend(axes)
    return _svg(figure)


@dataclasses.dataclass(frozen=True)
class Curve:
    """One line of a panel: what it is, epochs, and values."""

    label: str
    epochs: list[float]
    values: list[float]


@dataclasses.dataclass(frozen=True)
class Panel:
    """Curves over epochs that share their axes.

    Attributes:
      name: of the file.
      title: what is drawn, with its unit.
      curves: none of them empty.
      levels: value -> what a horizontal line at it means.
      share: whether the values are shares, between 0 and 1.
      log: whether the axis is logarithmic where values differ by more than a factor of 2.
    """

    name: str
    title: str
    curves: tuple[Curve, ...]
    levels: dict[float, str] = dataclasses.field(default_factory=dict)
    share: bool = False
    log: bool = False


@_drawn
def learning_curve(panel: Panel, switch: float | None, last_epoch: float) -> str:
    """One panel as SVG; `switch` is the epoch at which Local Aggregation began, or None."""
    figure, axes = _axes()
    for i, curve in enumerate(panel.curves):
        axes.plot(
            curve.epochs,
            curve.values,
            color=COLOURS[i],
            linestyle=DASHES[i],
            marker="o" if len(curve.epochs) < 3 else None,
            markersize=4,
            label=curve.label,
        )
    for value, meaning in panel.levels.items():
        axes.axhline(value, color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
        _note(axes, meaning, (1, value), ("axes fraction", "data"), offset=-2, ha="right")
    axes.set_title(panel.title, pad=20 if switch is not None else None)
    axes.set_xlabel("epoch")
    axes.set_xlim(0, last_epoch or 1)  # kNN is measured before the first step too
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=last_epoch >= 2))
    _scale(axes, panel)
    if switch is not None:
        axes.axvline(switch, color=MUTED, linewidth=1)
        _note(axes, "IR | LA", (switch, 1), ("data", "axes fraction"), offset=0, ha="center")
    if len(panel.curves) > 1:
        _legend(axes)
    return _svg(figure)


def _note(axes: Axes, text: str, at, coordinates, offset: int, ha: str) -> None:
    """Small words just above a point, `offset` points to its right."""
    look = {"ha": ha, "fontsize": 8.5, "color": MUTED}
    axes.annotate(
        text, at, xycoords=coordinates, xytext=(offset, 3), textcoords="offset points", **look
    )


def _scale(axes: Axes, panel: Panel) -> None:
    values = [value for curve in panel.curves for value in curve.values]
    if panel.log and max(values) > 2 * min(values):
        axes.set_yscale("log")
        axes.set_ylim(min(values) / 2, max(values) * 2)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        return
    if panel.share:
        axes.yaxis.set_major_formatter(_in_percent)
    # Space above for a line, and for the words on a level.
    axes.set_ylim(0, 1.1 * max([*values, *panel.levels]) or 1)


@dataclasses.dataclass(frozen=True)
class MapClass:
    """One class on a map: points [P, 2], and pictures uint8 [S, S, 3] at some of them."""

    label: str
    points: np.ndarray
    pictures: Sequence[tuple[np.ndarray, np.ndarray]]


@_drawn
def planar_map(title: str, classes: Sequence[MapClass], limits: np.ndarray) -> str:
    """Points of at most three classes with some of their images as SVG (a panel of Figure 4).

    `limits` [2, 2] are the ends of both axes, so that two panels have one scale.
    """
    figure, axes = _axes(_SIZE[0], 5.0)
    for i, of_class in enumerate(classes):
        axes.scatter(
            *of_class.points.T,
            s=20,
            color=COLOURS[i],
            marker=SHAPES[i],
            linewidths=0,
            alpha=0.8,
            label=of_class.label,
        )
    for i, of_class in enumerate(classes):
        for point, picture in of_class.pictures:
            small = Image.fromarray(picture)
            small.thumbnail((_PICTURE, _PICTURE))
            image = OffsetImage(small, zoom=26 / small.width, interpolation="nearest")
            frame = {"edgecolor": COLOURS[i], "linewidth": 1.6}
            axes.add_artist(AnnotationBbox(image, point, pad=0.06, bboxprops=frame))
    axes.set(title=title, xlim=limits[0], ylim=limits[1], aspect="equal", xticks=[], yticks=[])
    for side in ("top", "right"):
        axes.spines[side].set_visible(True)
    _legend(axes)
    return _svg(figure)
