"""What a part of a report consists of, whatever figure of the paper it is."""

import dataclasses

import numpy as np


class Unavailable(Exception):
    """A part that cannot be made; the message is a sentence that says why."""


@dataclasses.dataclass(frozen=True)
class Plot:
    """A drawing: file name without ending, SVG, and in words what it shows."""

    name: str
    svg: str
    alt: str


@dataclasses.dataclass(frozen=True)
class Tile:
    """A picture and what stands below it.

    Attributes:
      picture: uint8 [S, S, 3].
      name: of its class; empty without labels.
      similarity: to the query; None for the query itself.
      same: whether it is of the query's class; None without labels.
    """

    picture: np.ndarray
    name: str
    similarity: float | None = None
    same: bool | None = None


@dataclasses.dataclass(frozen=True)
class Strip:
    """A query and its neighbours with falling similarity, and what is to be said of them."""

    words: str
    query: Tile
    neighbours: tuple[Tile, ...]


@dataclasses.dataclass(frozen=True)
class Group:
    """Strips that belong together."""

    heading: str
    strips: tuple[Strip, ...]


@dataclasses.dataclass(frozen=True)
class Part:
    """Drawings or strips, and how to read them."""

    caption: str
    plots: tuple[Plot, ...] = ()
    groups: tuple[Group, ...] = ()
