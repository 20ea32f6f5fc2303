"""The parts of a report: drawings, and strips of pictures."""

import dataclasses
from typing import NamedTuple

import numpy as np


class Unavailable(Exception):
    """A part that cannot be made; the message is a sentence that says why."""


@dataclasses.dataclass(frozen=True)
class Plot:
    """A drawing.

    Attributes:
      name: of its file, without .svg.
      svg: the drawing.
      alt: what it shows, in words.
      wide: whether it is drawn as wide as the page.
    """

    name: str
    svg: str
    alt: str
    wide: bool = False


class Tile(NamedTuple):
    """A picture with its class, and how it compares with the query of its strip."""

    picture: np.ndarray  # uint8 [S, S, 3]
    name: str  # of its class; empty without labels
    similarity: float | None = None  # to the query, or to what the strip is of; None for the query
    same: bool | None = None  # whether it is of the query's class; None without labels


@dataclasses.dataclass(frozen=True)
class Strip:
    """Pictures side by side, and the words above them: of a query and its neighbours, for example.

    The query, if there is one, is the first.
    """

    words: str
    tiles: tuple[Tile, ...]


@dataclasses.dataclass(frozen=True)
class Group:
    """Strips under a heading."""

    heading: str
    strips: tuple[Strip, ...]


@dataclasses.dataclass(frozen=True)
class Part:
    """Drawings or strips, and how to read them."""

    caption: str
    plots: tuple[Plot, ...] = ()
    groups: tuple[Group, ...] = ()
