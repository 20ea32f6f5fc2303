"""The parts of a report: drawings, and strips of pictures."""

import dataclasses
from typing import NamedTuple

import numpy as np


class Unavailable(Exception):
    """A part that cannot be made; the message is a sentence that says why."""


@dataclasses.dataclass(frozen=True)
class Plot:
    """A drawing: its file name without .svg, the SVG, and what it shows in words."""

    name: str
    svg: str
    alt: str


class Tile(NamedTuple):
    """A picture with its class, and how it compares with the query."""

    picture: np.ndarray  # uint8 [S, S, 3]
    name: str  # of its class; empty without labels
    similarity: float | None = None  # None for the query itself
    same: bool | None = None  # whether it is of the query's class; None without labels


@dataclasses.dataclass(frozen=True)
class Strip:
    """A query, its neighbours with falling similarity, and the words above them."""

    words: str
    query: Tile
    neighbours: tuple[Tile, ...]


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
