"""Label images: renumbering, growing and smoothing, as compiled kernels."""

from __future__ import annotations

import numba as nb
import numpy as np

from cellkit.core.compile import kernel

LABELS = nb.types.Array(nb.int32, 2, "C", readonly=True)
MASK = nb.types.Array(nb.boolean, 2, "C", readonly=True)
DISC = nb.types.Array(nb.int64, 1, "C", readonly=True)

FAR = np.int16(32767)


@kernel(nb.int32[:, ::1](LABELS, nb.int64))
def renumber(labels, largest):
    """Return labels, none above `largest`, renumbered from 1 on in the order of their old numbers."""
    height, width = labels.shape
    table = np.zeros(largest + 1, np.int32)
    for y in range(height):
        before = np.int32(0)
        for x in range(width):
            if labels[y, x] != before:
                before = labels[y, x]
                table[before] = 1
    table[0] = count = 0
    for label in range(1, largest + 1):
        if table[label]:
            count += 1
            table[label] = count
    out = np.empty((height, width), np.int32)
    for y in range(height):
        for x in range(width):
            out[y, x] = table[labels[y, x]]
    return out


@nb.njit
def _rows_above(labels, limit):
    """Return, for every pixel, how many rows up the nearest label of its column is, `FAR` where above `limit`."""
    height, width = labels.shape
    up = np.empty((height, width), np.int16)
    for y in range(height):
        for x in range(width):
            if labels[y, x] != 0:
                up[y, x] = 0
            elif y == 0 or up[y - 1, x] >= limit:
                up[y, x] = FAR
            else:
                up[y, x] = up[y - 1, x] + 1
    return up


@nb.njit
def _nearest(x, row, left, right, limit, most):
    """Return (squared distance, rows, columns) to the nearest label; `most` is the largest squared distance allowed.

    `row` holds the signed distance to the nearest label of each column. Of labels equally near the first in raster
    order is taken.
    """
    best = (most + 1, 0, 0)
    step = min(x - left, right - x)
    while step <= limit and step * step <= best[0]:
        for column in (x - step, x + step):
            if 0 <= column < len(row) and row[column] != FAR:
                rows = np.int64(row[column])
                found = (rows * rows + step * step, rows, column - x)
                if found < best:  # noqa: PLR1730 (numba has no `min` of tuples)
                    best = found
        step += 1
    return best


@kernel(nb.int32[:, ::1](LABELS, nb.int64, nb.int64))
def grow(labels, limit, most):
    """Give every background pixel the nearest label within the squared distance `most`; `limit` is its whole root."""
    height, width = labels.shape
    row = _rows_above(labels, limit)
    out = labels.copy()
    down = np.full(width, FAR, np.int16)
    right = np.empty(width + 1, np.int64)
    for y in range(height - 1, -1, -1):
        nearest = row[y]
        right[width] = width + limit
        for x in range(width - 1, -1, -1):
            if nearest[x] == 0:
                down[x] = 0
            elif down[x] != FAR:
                down[x] = down[x] + 1 if down[x] < limit else FAR
            # Negative is up, which also wins where both are equally near.
            if nearest[x] != FAR and nearest[x] <= down[x]:
                nearest[x] = -nearest[x]
            else:
                nearest[x] = down[x]
            right[x] = x if nearest[x] != FAR else right[x + 1]
        left = -limit - 1
        for x in range(width):
            if nearest[x] != FAR:
                left = x
            if labels[y, x] == 0:
                square, rows, columns = _nearest(x, nearest, left, right[x], limit, most)
                if square <= most:
                    out[y, x] = labels[y + rows, x + columns]
    return out


@nb.njit
def _votes(labels, y, x, half_widths, label):
    """Return how many pixels of the disc around (y, x) hold `label`, and how many there are."""
    height, width = labels.shape
    radius = len(half_widths) // 2
    votes = area = 0
    for v in range(max(y - radius, 0), min(y + radius + 1, height)):
        reach = half_widths[v - y + radius]
        start, stop = max(x - reach, 0), min(x + reach + 1, width)
        area += stop - start
        for u in range(np.uintp(start), np.uintp(stop)):
            votes += labels[v, u] == label
    return votes, area


@nb.njit
def _leader(labels, y, x, half_widths):
    """Return the only label that can hold more than half of the disc around (y, x)."""
    height, width = labels.shape
    radius = len(half_widths) // 2
    leader, lead = labels[y, x], 0
    for v in range(max(y - radius, 0), min(y + radius + 1, height)):
        reach = half_widths[v - y + radius]
        for u in range(np.uintp(max(x - reach, 0)), np.uintp(min(x + reach + 1, width))):
            if lead == 0:
                leader = labels[v, u]
            lead += 1 if labels[v, u] == leader else -1
    return leader


@kernel(nb.int32[:, ::1](LABELS, MASK, DISC))
def majority(labels, doubtful, half_widths):
    """Give `doubtful` pixels the label that more than half of the disc around them holds, if one does.

    ``half_widths[k]`` is the disc's half width in the row that is ``k - radius`` from its centre. Source: Boyer & Moore
    1981, "MJRTY: a fast majority vote algorithm".
    """
    height, width = labels.shape
    out = labels.copy()
    for y in range(height):
        for x in range(width):
            if not doubtful[y, x]:
                continue
            votes, area = _votes(labels, y, x, half_widths, labels[y, x])
            if 2 * votes >= area:
                continue
            leader = _leader(labels, y, x, half_widths)
            votes, area = _votes(labels, y, x, half_widths, leader)
            if 2 * votes > area:
                out[y, x] = leader
    return out
