"""Windows of one size that a network looks at: where they lie on its grid, and which pixels each one answers for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from cellkit.grid.cover import Tile, Window

__all__ = ["best_side", "padded", "windows"]


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
    starts = [round_down(i * (whole - side) / (count - 1), grid) for i in range(count)]
    # Between two windows the cut lies in the middle of what both see.
    cuts = [0, *((a + side + b) // 2 for a, b in pairwise(starts)), length]
    return [(cuts[i], cuts[i + 1], start, start + side) for i, start in enumerate(starts)]


def round_down(value: float, grid: int) -> int:
    """Return the largest multiple of `grid` no larger than `value`."""
    return math.floor(value / grid + 1e-9) * grid


def best_side(shape: tuple[int, int], halo: int, grid: int, most: int, lanes: int = 1) -> tuple[int, int]:
    """Return the sides of the windows that are the least work for `lanes` workers side by side.

    `most` is the largest area of a window in pixels. Each side is a multiple of `grid`, and leaves a core of at least
    as much as its two halos where the area allows. Raises `ValueError` where no window within `most` has any core.
    """
    choices = [_sides(length, halo, grid) for length in shape]
    best: tuple[float, int, tuple[int, int]] | None = None
    for rows in choices[0]:
        for columns in choices[1]:
            if rows * columns > most:
                continue
            count = len(_spans(shape[0], rows, halo, grid)) * len(_spans(shape[1], columns, halo, grid))
            work = math.ceil(count / lanes) * rows * columns
            # Of equal work, the one with fewer windows.
            if best is None or (work, count) < best[:2]:
                best = work, count, (rows, columns)
    if best is None:
        least = (2 * padded(halo, grid) + grid) ** 2
        raise ValueError(f"a halo of {halo} px needs windows of at least {least:,} px, {most:,} are allowed")
    return best[2]


def _sides(length: int, halo: int, grid: int) -> Sequence[int]:
    """Return the window sides worth trying along one axis, smallest first: those that split it into 1, 2, 3 ... ."""
    whole = padded(length, grid)
    margin = padded(halo, grid)
    sides = {whole}
    for count in range(2, 129):
        # The smallest side with which `count` windows cover the axis.
        side = padded(math.ceil((whole + 2 * margin * (count - 1)) / count), grid)
        if side - 2 * margin < grid:
            break
        sides.add(min(side, whole))
    least = 2 * margin + grid
    sides |= {min(padded(s, grid), whole) for s in (256, 512, 1024, 2048, 4096) if s >= least}
    return sorted(sides)
