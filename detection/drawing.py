"""Draws boxes with class names into pictures."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from la_tf.data.voc import VOC_CLASSES

Frame = tuple[int, int, int, int]

# Okabe and Ito's colours, told apart with any colour vision, then the same darker and lighter: one
# for each class.
_HUES = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
COLOURS = (
    *_HUES,
    *(tuple(round(0.6 * c) for c in hue) for hue in _HUES),
    *(tuple(round(255 - 0.45 * (255 - c)) for c in hue) for hue in _HUES),
)
_EDGE = (0, 0, 0)
_MIN_SIDE = 256  # pixels of the shorter side, for a label to be legible and to fit
_MOST_PIXELS = 16_000_000  # of an enlarged picture


def colour_of(label: int) -> tuple[int, int, int]:
    """The red, green and blue in which a class is drawn.

    Args:
      label: 1..20, see `voc.VOC_CLASSES`.
    """
    return COLOURS[label - 1]


def draw_boxes(
    picture: Image.Image, boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray | None = None
) -> Image.Image:
    """Draws boxes and their labels into a copy of a picture.

    A picture whose shorter side is below 256 pixels is enlarged first by the smallest whole number
    that makes it so long, for the labels to be legible; by less where that would make more than 16
    million pixels.

    Args:
      picture: of any size and mode.
      boxes: [N, 4] xmin, ymin, xmax, ymax in the picture's pixels counted from 1, both ends inside.
      labels: [N] in 1..20, see `voc.VOC_CLASSES`.
      scores: [N] in 0..1, shown beside the names; the highest is drawn on top.

    Returns:
      The drawing, in RGB.

    Raises:
      ValueError: a label is not in 1..20.
    """
    labels = np.asarray(labels, int)
    if labels.size and not 1 <= labels.min() <= labels.max() <= len(VOC_CLASSES):
        raise ValueError(f"labels must lie in 1..{len(VOC_CLASSES)}, and one of {labels} does not.")
    wanted = -(-_MIN_SIDE // min(picture.size))
    affordable = math.isqrt(_MOST_PIXELS // (picture.width * picture.height))
    factor = max(1, min(wanted, affordable))
    drawing = picture.convert("RGB").resize(
        (picture.width * factor, picture.height * factor), Image.Resampling.NEAREST
    )
    canvas = ImageDraw.Draw(drawing)
    shorter = min(drawing.size)
    line = max(2, round(shorter / 200))
    font = ImageFont.load_default(size=max(13, round(shorter / 28)))
    order = range(len(labels)) if scores is None else np.argsort(scores, kind="stable")
    frames = {i: _frame(np.asarray(boxes[i], float), factor, drawing.size) for i in order}
    for i, frame in frames.items():
        _draw_frame(canvas, frame, colour_of(labels[i]), line)
    taken, labelled = [], []
    for i in reversed(frames):  # the best first, so that its place is free
        name = VOC_CLASSES[labels[i] - 1]
        text = name if scores is None else f"{name} {scores[i]:.2f}"
        taken.append(_place_label(frames[i], _label_size(text, font), drawing.size, taken))
        labelled.append((taken[-1], text, colour_of(labels[i])))
    for place, text, colour in reversed(labelled):  # after all frames, so that none crosses a name
        _draw_label(canvas, place, text, colour, font)
    return drawing


def _frame(box: np.ndarray, factor: int, size: tuple[int, int]) -> Frame:
    """The first and last column and row of a box in the drawing, counted from 0."""
    left, top = np.round((box[:2] - 1) * factor).astype(int)
    right, bottom = np.round(box[2:] * factor).astype(int) - 1
    left, right = np.clip([left, max(left, right)], 0, size[0] - 1)
    top, bottom = np.clip([top, max(top, bottom)], 0, size[1] - 1)
    return int(left), int(top), int(right), int(bottom)


def _draw_frame(
    canvas: ImageDraw.ImageDraw, frame: Frame, colour: tuple[int, int, int], line: int
) -> None:
    left, top, right, bottom = frame
    # A dark edge on both sides, so that the frame shows on a ground of its own colour.
    _draw_sides(canvas, (left - 1, top - 1, right + 1, bottom + 1), _EDGE, line + 2)
    _draw_sides(canvas, frame, colour, line)


def _draw_sides(
    canvas: ImageDraw.ImageDraw, frame: Frame, colour: tuple[int, int, int], line: int
) -> None:
    """An outline inside a frame; Pillow's own leaves a frame that is as small as the line."""
    left, top, right, bottom = frame
    canvas.rectangle((left, top, right, min(top + line - 1, bottom)), fill=colour)
    canvas.rectangle((left, max(bottom - line + 1, top), right, bottom), fill=colour)
    canvas.rectangle((left, top, min(left + line - 1, right), bottom), fill=colour)
    canvas.rectangle((max(right - line + 1, left), top, right, bottom), fill=colour)


def _label_size(text: str, font: ImageFont.FreeTypeFont) -> tuple[int, int]:
    return round(font.getlength(text)) + 2 * _margin(font), sum(font.getmetrics()) + _margin(font)


def _margin(font: ImageFont.FreeTypeFont) -> int:
    return max(2, round(font.size / 6))


def _place_label(
    frame: Frame, size: tuple[int, int], picture: tuple[int, int], taken: Sequence[Frame]
) -> Frame:
    """A free place inside the picture: above the box, else inside it or below."""
    left = max(0, min(frame[0], picture[0] - size[0]))
    tops = [frame[1] - size[1], frame[1], frame[3] + 1, frame[3] + 1 - size[1]]
    tops = [top for top in tops if 0 <= top <= picture[1] - size[1]] or [0]
    places = [(left, top, left + size[0] - 1, top + size[1] - 1) for top in tops]
    return next((p for p in places if not any(_meet(p, other) for other in taken)), places[0])


def _meet(a: Frame, b: Frame) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def _draw_label(
    canvas: ImageDraw.ImageDraw,
    place: Frame,
    text: str,
    colour: tuple[int, int, int],
    font: ImageFont.FreeTypeFont,
) -> None:
    canvas.rectangle(place, fill=colour)
    bright = np.dot(colour, (0.299, 0.587, 0.114)) > 110
    ink = (0, 0, 0) if bright else (255, 255, 255)
    margin = _margin(font)
    canvas.text((place[0] + margin, place[1] + margin // 2), text, fill=ink, font=font)
