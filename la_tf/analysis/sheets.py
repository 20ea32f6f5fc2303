"""Pictures side by side, as one PNG, and at their places in the plane, as SVG."""

import functools
import io
from collections.abc import Sequence

import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from la_tf.analysis.html import data_uri
from la_tf.analysis.part import Group, Tile
from la_tf.analysis.plots import COLOURS, DARK, GROUND, INK, MUTED

_SIDE = 128  # pixels of a picture on a sheet
_CELL = 140
_LINE = 16  # pixels from a line of text to the next
_LETTER = 8  # pixels of a letter, about
_FEW = 96  # pixels; those of a smaller picture stay visible
_MAP = 1000  # units of the map's side
_MAP_PICTURE = 96  # pixels, enough where a map is as wide as a large window
_DOT = 4.5


def sheet(groups: Sequence[Group]) -> bytes:
    """All strips of some groups below each other as one PNG, in the form of Figure 3."""
    strips = [(group.heading, strip) for group in groups for strip in group.strips]
    height = _CELL + 5 * _LINE
    width = _CELL * max(len(strip.tiles) for _, strip in strips)
    page = Image.new("RGB", (width, height * len(strips)), GROUND)
    draw = ImageDraw.Draw(page)
    for i, (heading, strip) in enumerate(strips):
        top = i * height + _LINE // 2
        letters = width // _LETTER
        draw.text((6, top), _cut(f"{heading}: {strip.words}", letters), MUTED, _font())
        for column, tile in enumerate(strip.tiles):
            corner = (column * _CELL + 6, top + int(1.5 * _LINE))
            page.paste(_scaled(tile.picture), corner)
            draw.multiline_text((corner[0], corner[1] + _SIDE + 3), _below(tile), INK, _font())
    buffer = io.BytesIO()
    page.save(buffer, "png")
    return buffer.getvalue()


def photo_map(
    dots: np.ndarray, places: np.ndarray, pictures: Sequence[np.ndarray], side: float
) -> str:
    """A map with pictures as SVG that is legible on a light and on a dark page.

    Args:
      dots: [P, 2] points in [0, 1] without a picture.
      places: [Q, 2] the middles of the pictures.
      pictures: Q of uint8 [S, S, 3].
      side: of a picture, as a share of the map's.
    """
    # y points up, as in the other figures.
    circles = [
        f'<circle cx="{_MAP * x:.1f}" cy="{_MAP * (1 - y):.1f}" r="{_DOT}"/>' for x, y in dots
    ]
    size = 0.97 * _MAP * side  # a gap between neighbours
    look = "" if len(pictures[0]) >= _FEW else ' style="image-rendering:pixelated"'
    images = [
        f'<image x="{_MAP * x - size / 2:.1f}" y="{_MAP * (1 - y) - size / 2:.1f}" '
        f'width="{size:.1f}" height="{size:.1f}"{look} href="{data_uri(picture, _MAP_PICTURE)}"/>'
        for (x, y), picture in zip(places, pictures, strict=True)
    ]
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_MAP} {_MAP}">',
            f"<style>circle{{fill:{COLOURS[0]};fill-opacity:0.6}} rect{{fill:{GROUND}}}",
            f"@media screen and (prefers-color-scheme:dark){{rect{{fill:{DARK[GROUND]}}}}}</style>",
            f'<rect width="{_MAP}" height="{_MAP}"/>',
            *circles,
            *images,
            "</svg>\n",
        )
    )


def _below(tile: Tile) -> str:
    """The words below a picture: similarity, class, and ≠ if the query's is another."""
    lines = ["query" if tile.similarity is None else f"{tile.similarity:.2f}"]
    if tile.name:
        lines.append(_cut(tile.name, _CELL // _LETTER))
    return "\n".join(lines + ["≠"] * (tile.same is False))


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def _scaled(picture: np.ndarray) -> Image.Image:
    few = len(picture) < _FEW
    how = Image.Resampling.NEAREST if few else Image.Resampling.LANCZOS
    return Image.fromarray(picture).resize((_SIDE, _SIDE), how)


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 12)  # comes with matplotlib
