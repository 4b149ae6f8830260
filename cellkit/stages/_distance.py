"""Exact Euclidean distance to the background: a compiled kernel.

Distances along columns first, then along rows (Saito & Toriwaki 1994; Meijster et al. 2000). Within a row, background
just beyond a run of foreground is nearer than anything behind it, so each run is solved by itself.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from cellkit.core.compile import kernel

MASK = nb.types.Array(nb.boolean, 2, "C", readonly=True)
LONG_RUN = 96


@nb.njit
def _search(column, first, last, start, stop, row):
    """Distances of a short run: look outwards until nothing nearer can come."""
    for x in range(start, stop):
        best = column[x] * column[x]
        step = 1
        reach = 1
        while reach < best:
            if x - step >= first:
                best = min(best, reach + column[x - step] * column[x - step])
            if x + step <= last:
                best = min(best, reach + column[x + step] * column[x + step])
            step += 1
            reach = step * step
        row[x] = np.float32(math.sqrt(best))


@nb.njit
def _envelope(column, first, last, run, row, centre, begin):
    """Distances of a long run: lower envelope of the parabolas that stand on ``column``."""
    start, stop = run
    top = 0
    centre[0], begin[0] = first, start
    for u in range(first + 1, last + 1):
        height = u * u + column[u] * column[u]
        while top >= 0:
            c = centre[top]
            # First x at which the parabola of u is lower than that of c.
            x = (height - c * c - column[c] * column[c]) // (2 * (u - c)) + 1
            if x > begin[top]:
                break
            top -= 1
        if top < 0:
            top = 0
            centre[0], begin[0] = u, start
        elif x < stop:
            top += 1
            centre[top], begin[top] = u, x
    for x in range(stop - 1, start - 1, -1):
        while begin[top] > x:
            top -= 1
        c = centre[top]
        row[x] = np.float32(math.sqrt((x - c) * (x - c) + column[c] * column[c]))


@kernel(nb.float32[:, ::1](MASK))
def distance(mask):
    """Return the distance of every foreground pixel to the nearest background pixel, of which there is at least one."""
    height, width = mask.shape
    far = height + width
    out = np.empty((height, width), np.float32)
    for x in range(width):
        out[0, x] = far if mask[0, x] else 0
    for y in range(1, height):
        for x in range(width):
            out[y, x] = out[y - 1, x] + 1 if mask[y, x] else 0
    column = np.full(width, far, np.int64)
    centre = np.empty(width, np.int64)
    begin = np.empty(width, np.int64)
    for y in range(height - 1, -1, -1):
        row = out[y]
        for x in range(width):
            column[x] = min(column[x] + 1, np.int64(row[x]))
        stop = 0
        while stop < width:
            start = stop
            while start < width and column[start] == 0:
                start += 1
            stop = start
            while stop < width and column[stop] > 0:
                stop += 1
            first, last = max(start - 1, 0), min(stop, width - 1)
            if stop - start < LONG_RUN:
                _search(column, first, last, start, stop, row)
            else:
                _envelope(column, first, last, (start, stop), row, centre, begin)
    return out
