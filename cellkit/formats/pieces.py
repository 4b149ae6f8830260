"""Connected pieces of a mask as runs of pixels along rows: compiled kernels.

A run is a stretch of foreground within one row. There are far fewer runs than pixels, so pieces are found by joining
runs, and whatever is then done to a piece touches its own pixels alone.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from cellkit.core.compile import kernel

MASK = nb.types.Array(nb.boolean, 2, "C", readonly=True)
RUNS = nb.int32[:, ::1]
READ_RUNS = nb.types.Array(nb.int32, 2, "C", readonly=True)
CHOICE = nb.types.Array(nb.boolean, 1, "C", readonly=True)
PIECES = nb.types.Tuple((RUNS, nb.int32[::1], nb.int64))
GROUPS = nb.types.Tuple((RUNS, nb.int64[::1], nb.int32[:, ::1]))


@nb.njit
def _count(mask):
    height, width = mask.shape
    count = 0
    for y in range(height):
        row = mask[y]
        count += row[0]
        starts = 0
        for x in range(1, width):
            starts += row[x] & (not row[x - 1])
        count += starts
    return count


@nb.njit
def _find(parent, i):
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@nb.njit
def _join(parent, i, j):
    """Join two trees under the earlier root, so that a root is the first run of its piece in raster order."""
    i, j = _find(parent, i), _find(parent, j)
    if i < j:
        parent[j] = i
    else:
        parent[i] = j


@nb.njit
def _scan(mask, runs, parent, touch):
    """Fill in (row, start, stop) of every run and join it with the runs above that it touches."""
    height, width = mask.shape
    n = above = above_end = 0
    for y in range(height):
        row = mask[y]
        first = n
        x = 0
        while x < width:
            if not row[x]:
                x += 1
                continue
            start = x
            while x < width and row[x]:
                x += 1
            runs[n, 0], runs[n, 1], runs[n, 2] = y, start, x
            parent[n] = n
            while above < above_end and runs[above, 2] + touch <= start:
                above += 1
            while above < above_end and runs[above, 1] < x + touch:
                _join(parent, n, above)
                if runs[above, 2] > x:
                    break
                above += 1
            n += 1
        above, above_end = first, n


@kernel(PIECES(MASK, nb.int64))
def pieces(mask, connectivity):
    """Return the runs (row, start, stop), the number of the piece each lies in, and how many pieces there are.

    Pieces count from 0 in raster order of their first pixel; `connectivity` is 4 or 8.
    """
    if mask.size == 0:
        return np.empty((0, 3), np.int32), np.empty(0, np.int32), 0
    n = _count(mask)
    runs = np.empty((n, 3), np.int32)
    piece = np.empty(n, np.int32)
    _scan(mask, runs, piece, 1 if connectivity == 8 else 0)
    count = 0
    for i in range(n):
        # A root comes before its members, so a parent holds its final number by the time it is read.
        if piece[i] == i:
            piece[i] = count
            count += 1
        else:
            piece[i] = piece[piece[i]]
    return runs, piece, count


@kernel(GROUPS(RUNS, nb.int32[::1], nb.int64))
def by_piece(runs, piece, count):
    """Sort runs by piece; return them, offsets (piece k is ``offsets[k] : offsets[k + 1]``) and boxes.

    Boxes are (y0, x0, y1, x1), half-open. Within a piece runs stay in raster order.
    """
    # Rows are copied number by number: numba spends seconds on compiling the assignment of a whole row.
    offsets = np.zeros(count + 1, np.int64)
    box = np.zeros((count, 4), np.int32)
    for i in range(len(piece)):
        k = piece[i]
        y, start, stop = runs[i, 0], runs[i, 1], runs[i, 2]
        if offsets[k + 1] == 0:
            box[k, 0], box[k, 1] = y, start
        offsets[k + 1] += 1
        box[k, 1] = min(box[k, 1], start)
        box[k, 2] = y + 1
        box[k, 3] = max(box[k, 3], stop)
    for k in range(count):
        offsets[k + 1] += offsets[k]
    at = offsets[:-1].copy()
    grouped = np.empty(runs.shape, np.int32)
    for i in range(len(piece)):
        to = at[piece[i]]
        at[piece[i]] += 1
        for column in range(3):
            grouped[to, column] = runs[i, column]
    return grouped, offsets, box


@kernel(nb.int32[:, ::1](MASK, nb.int64))
def components(mask, connectivity):
    """Return the connected pieces, numbered from 1 on in raster order of their first pixels."""
    out = np.zeros(mask.shape, np.int32)
    runs, piece, _ = pieces(mask, connectivity)
    for i in range(len(piece)):
        out[runs[i, 0], runs[i, 1] : runs[i, 2]] = piece[i] + 1
    return out


@kernel(nb.void(nb.boolean[:, ::1], READ_RUNS, CHOICE, nb.boolean))
def paint(mask, runs, chosen, value):
    """Set the pixels of every chosen run (row, start, stop) to `value`."""
    for i in range(len(runs)):
        if chosen[i]:
            mask[runs[i, 0], runs[i, 1] : runs[i, 2]] = value


@kernel(nb.boolean[::1](MASK, READ_RUNS))
def touched(mask, runs):
    """Return which runs hold a pixel of the mask."""
    result = np.zeros(len(runs), np.bool_)
    for i in range(len(runs)):
        for x in range(runs[i, 1], runs[i, 2]):
            if mask[runs[i, 0], x]:
                result[i] = True
                break
    return result
