"""Windows and the tiles that cover a shape. Plain arithmetic: no pixels here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Tile", "Window", "columns_of", "cover", "earlier_neighbours"]


class Window(NamedTuple):
    """A rectangle of pixels, half-open; it may reach beyond the image it is taken from."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of these pixels in the array whose origin the window counts from."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def clipped(self, other: Window) -> Window:
        """Return the pixels shared with `other`; where there are none, `bottom` <= `top` or `right` <= `left`."""
        return Window(
            max(self.top, other.top),
            max(self.left, other.left),
            min(self.bottom, other.bottom),
            min(self.right, other.right),
        )

    def within(self, other: Window) -> Window:
        """Return the same pixels counted from the origin of `other`."""
        return Window(self.top - other.top, self.left - other.left, self.bottom - other.top, self.right - other.left)


@dataclass(frozen=True)
class Tile:
    """One tile in outer coordinates: the `core` it owns, and the `window` it sees."""

    core: Window
    window: Window


def cover(shape: tuple[int, int], size: tuple[int, int], halo: int, *, clip: bool) -> tuple[Tile, ...]:
    """Return the tiles that cover `shape`, row by row.

    Cores of `size` lie on a grid anchored at (0, 0) and cover every pixel once; the last ones are smaller. Windows are
    all ``size + 2 * halo`` large and may reach beyond the shape; with `clip` each ends `halo` beyond its core or at the
    edge.
    """
    height, width = shape
    tiles = []
    for top in range(0, height, size[0]):
        for left in range(0, width, size[1]):
            core = Window(top, left, min(top + size[0], height), min(left + size[1], width))
            window = Window(top - halo, left - halo, top + size[0] + halo, left + size[1] + halo)
            tiles.append(Tile(core, window.clipped(Window(0, 0, height, width)) if clip else window))
    return tuple(tiles)


def columns_of(tiles: tuple[Tile, ...]) -> int:
    """Return how many tiles stand in one row of a cover."""
    return sum(tile.core.top == tiles[0].core.top for tile in tiles)


def earlier_neighbours(index: int, columns: int) -> list[int]:
    """Return the tiles before `index` whose cores touch its core: west, north-west, north, north-east."""
    column = index % columns
    found = [index - 1] if column else []
    if index >= columns:
        found += [index - columns + step for step in (-1, 0, 1) if 0 <= column + step < columns]
    return found
