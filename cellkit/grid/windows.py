"""Windows of one size that a network looks at: where they lie on its grid, and which pixels each one answers for."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from cellkit.grid.cover import Tile, Window

__all__ = ["best_side", "padded", "windows"]

_MOST_WINDOWS = 128
"""Along one axis, beyond which only the smallest window is tried."""


def padded(side: int, grid: int) -> int:
    """Return `side` rounded up to a multiple of `grid`."""
    return math.ceil(side / grid) * grid


def windows(shape: tuple[int, int], side: tuple[int, int], halo: int, grid: int = 1) -> tuple[Tile, ...]:
    """Return the tiles of a picture of `shape`, row by row, whose windows are all of one size.

    An axis no longer than `side` (rounded up to the grid) has one window, the whole of it; a longer one has windows of
    `side`, shifted inwards at the end. Every window begins and ends on a multiple of `grid`, so the last may reach
    beyond the picture by less than that. Each core keeps at least `halo` pixels away from those ends of its window
    that are no edge of the picture, so that what a network of that reach says of it hangs on no tiling.

    Raises `ValueError` where a window is too small for its two halos.
    """
    rows = _spans(shape[0], side[0], halo, grid)
    columns = _spans(shape[1], side[1], halo, grid)
    return tuple(
        Tile(Window(top, left, bottom, right), Window(above, before, below, behind))
        for top, bottom, above, below in rows
        for left, right, before, behind in columns
    )


def _spans(length: int, side: int, halo: int, grid: int) -> list[tuple[int, int, int, int]]:
    """Return (core start, core stop, window start, window stop) along one axis."""
    whole = padded(length, grid)
    side = padded(side, grid)
    if whole <= side:
        return [(0, length, 0, whole)]
    margin = padded(halo, grid)
    step = side - 2 * margin
    if step < grid:
        raise ValueError(f"a window of {side} px has no room for a halo of {halo} px on either side")
    count = 1 + math.ceil((whole - side) / step)
    starts = [_round_down(i * (whole - side) / (count - 1), grid) for i in range(count)]
    # Between two windows the cut lies in the middle of what both see.
    cuts = [0, *((a + side + b) // 2 for a, b in pairwise(starts)), length]
    return [(cuts[i], cuts[i + 1], start, start + side) for i, start in enumerate(starts)]


def _round_down(value: float, grid: int) -> int:
    """Return the largest multiple of `grid` no larger than `value`."""
    return math.floor(value / grid + 1e-9) * grid


def best_side(shape: tuple[int, int], halo: int, grid: int, most: int, lanes: int = 1) -> tuple[int, int]:
    """Return the sides of the windows that are the least work for `lanes` workers side by side.

    `most` is the largest area of a window in pixels. Each side is a multiple of `grid`, and leaves a core of at least
    as much as its two halos where the area allows. Raises `ValueError` where no window within `most` has any core.
    """
    (rows, row_counts), (columns, column_counts) = (_sides(length, halo, grid) for length in shape)
    area = np.outer(rows, columns)
    count = np.outer(row_counts, column_counts)
    allowed = area <= most
    if not allowed.any():
        least = (2 * padded(halo, grid) + grid) ** 2
        raise ValueError(f"a halo of {halo} px needs windows of at least {least:,} px, {most:,} are allowed")
    work = np.where(allowed, -(-count // lanes) * area, np.iinfo(np.int64).max)
    # Of equal work, the one with fewer windows.
    row, column = np.unravel_index(np.lexsort((count.ravel(), work.ravel()))[0], work.shape)
    return int(rows[row]), int(columns[column])


def _sides(length: int, halo: int, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the window sides worth trying along one axis, and how many windows of each cover it.

    For 1, 2, 3 ... windows, that is the smallest side with which so many cover it.
    """
    whole = padded(length, grid)
    margin = padded(halo, grid)
    sides = [whole]
    for count in range(2, _MOST_WINDOWS + 1):
        side = padded(math.ceil((whole + 2 * margin * (count - 1)) / count), grid)
        if side - 2 * margin < grid or side >= sides[-1] == 2 * margin + grid:
            break
        sides.append(side)
    found = np.unique([*sides, min(whole, 2 * margin + grid)])
    return found, np.array([len(_spans(length, side, halo, grid)) for side in found.tolist()])
