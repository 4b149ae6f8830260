"""Compiled outlines of the objects of a label image: perimeter and convex hull.

Labels must lie in 0 to ``len(table) - 1``; values below 1 are background.
"""

from __future__ import annotations

import numpy as np
from numba import float64, int32, int64, uint8, void
from numba.types import Array

from cellkit.core.compile import kernel

__all__ = ["border_counts", "find_runs", "hull_areas"]

_LABELS = Array(int32, 2, "C", readonly=True)
_RUNS = Array(int32, 2, "C", readonly=True)
_OFFSETS = Array(int64, 1, "C", readonly=True)

# Which length a border pixel stands for, by 1 + 2 per neighbour beside it and 10 per diagonal neighbour, counting
# neighbours on the border of the same object: 1 for a length of 1, 2 for sqrt 2, 3 for their mean, 0 for none.
_STEP = np.zeros(50, np.uint8)
_STEP[[5, 7, 15, 17, 25, 27]] = 1
_STEP[[21, 33]] = 2
_STEP[[13, 23]] = 3


@kernel(void(_LABELS, int64, uint8[::1]))
def _mark_border(labels, y, border):
    """Mark the pixels of row `y` that have a pixel of another value, or the image's edge, above, below or beside."""
    height, width = labels.shape
    for x in range(width):
        label = labels[y, x]
        border[x] = label > 0 and (
            y == 0
            or y == height - 1
            or x == 0
            or x == width - 1
            or labels[y - 1, x] != label
            or labels[y + 1, x] != label
            or labels[y, x - 1] != label
            or labels[y, x + 1] != label
        )


@kernel(void(_LABELS, int64[:, ::1]))
def border_counts(labels, counts):
    """Add to `counts`, (ids, 4), how many border pixels of each object stand for which length (see `_STEP`)."""
    height, width = labels.shape
    borders = np.zeros((3, width), np.uint8)
    _mark_border(labels, 0, borders[0])
    for y in range(height):
        here = borders[y % 3]
        if y + 1 < height:
            _mark_border(labels, y + 1, borders[(y + 1) % 3])
        for x in range(width):
            if not here[x]:
                continue
            label = labels[y, x]
            code = 1
            for dy in range(-1, 2):
                if y + dy < 0 or y + dy >= height:
                    continue
                row = borders[(y + dy) % 3]
                for dx in range(-1, 2):
                    if (dy == 0 and dx == 0) or x + dx < 0 or x + dx >= width:
                        continue
                    if row[x + dx] and labels[y + dy, x + dx] == label:
                        code += 2 if dy == 0 or dx == 0 else 10
            counts[label, _STEP[code]] += 1


@kernel(void(_LABELS, int64[::1], int32[:, ::1]))
def find_runs(labels, cursor, runs):
    """Write the runs of every object as (y, first x, last x + 1) to `runs`, from row ``cursor[label]`` on.

    `cursor` must leave each label room for all its runs, and is moved behind the last one. Runs of one object in one
    image row are joined, gaps and all: a convex hull does not see them.
    """
    height, width = labels.shape
    start = cursor.copy()
    for y in range(height):
        x = 0
        while x < width:
            label = labels[y, x]
            begin = x
            x += 1
            if label <= 0:
                continue
            while x < width and labels[y, x] == label:
                x += 1
            at = cursor[label]
            if at > start[label] and runs[at - 1, 0] == y:
                runs[at - 1, 2] = x
            else:
                runs[at, 0], runs[at, 1], runs[at, 2] = y, begin, x
                cursor[label] = at + 1


@kernel(int64(int64[:, ::1], int64, int64, int64))
def _push(chain, size, y, x):
    """Add the corner (y, x) to a chain that is convex towards small x; y never falls. Returns the chain's new size."""
    if size > 0 and chain[size - 1, 0] == y:
        if chain[size - 1, 1] <= x:
            return size
        size -= 1
    while size > 1:
        ay, ax = chain[size - 2, 0], chain[size - 2, 1]
        by, bx = chain[size - 1, 0], chain[size - 1, 1]
        if (bx - ax) * (y - ay) < (x - ax) * (by - ay):
            break
        size -= 1
    chain[size, 0], chain[size, 1] = y, x
    return size + 1


@kernel(float64(int64[:, ::1], int64))
def _twice_integral(chain, size):
    total = int64(0)
    for i in range(1, size):
        total += (chain[i, 0] - chain[i - 1, 0]) * (chain[i, 1] + chain[i - 1, 1])
    return float64(total)


@kernel(void(_RUNS, _OFFSETS, _OFFSETS, float64[::1]))
def hull_areas(runs, begin, end, areas):
    """Write to `areas` the area of the convex hull of the corners of every object's pixels.

    Object i has the rows ``begin[i]`` to ``end[i] - 1`` of `runs`, one per image row, descending the image. Source:
    Andrew, Another efficient algorithm for convex hulls in two dimensions, Information Processing Letters 9 (1979).
    """
    longest = int64(0)
    for i in range(len(begin)):
        longest = max(longest, end[i] - begin[i])
    left = np.empty((2 * longest + 1, 2), np.int64)
    right = np.empty((2 * longest + 1, 2), np.int64)
    for i in range(len(begin)):
        lefts, rights = 0, 0
        for at in range(begin[i], end[i]):
            y = int64(runs[at, 0])
            for corner in range(y, y + 2):
                lefts = _push(left, lefts, corner, int64(runs[at, 1]))
                rights = _push(right, rights, corner, -int64(runs[at, 2]))
        areas[i] = -(_twice_integral(right, rights) + _twice_integral(left, lefts)) / 2
