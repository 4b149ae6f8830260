"""Maxima of a field that rise far enough above their surroundings (h-maxima): compiled kernels."""

from __future__ import annotations

from collections import namedtuple

import numba as nb
import numpy as np

from cellkit.core.compile import kernel
from cellkit.formats.pieces import by_piece, pieces

FIELD = nb.types.Array(nb.float32, 2, "C", readonly=True)
KEPT = -1

Basins = namedtuple("Basins", "of parent peak kept")
"""`of`: the basin of each pixel of the window; for each basin its parent, its peak and whether that is kept."""


@nb.njit
def _descending(bits, n, order, spare_order, key, spare):
    """Sort the first `n` entries of `order` by falling ``bits[entry]``, equals as they come: radix sort.

    Returns whichever of `order` and `spare_order` holds the result.
    """
    digit_bits = 8 if n < 4096 else 11
    low_bits = np.uint32((1 << digit_bits) - 1)
    tally = np.empty(1 << digit_bits, np.int64)
    for i in range(n):
        # Positive float32 numbers rise with their bits.
        key[i] = ~bits[order[i]]
    for shift in range(0, 32, digit_bits):
        tally[:] = 0
        for i in range(n):
            tally[(key[i] >> np.uint32(shift)) & low_bits] += 1
        start = 0
        for digit in range(len(tally)):
            tally[digit], start = start, start + tally[digit]
        for i in range(n):
            digit = (key[i] >> np.uint32(shift)) & low_bits
            at = tally[digit]
            tally[digit] += 1
            spare[at] = key[i]
            spare_order[at] = order[i]
        key, spare = spare, key
        order, spare_order = spare_order, order
    return order


@nb.njit
def _root(parent, i):
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@nb.njit
def _dynamics(order, values, stride, basins, h):
    """Let the level fall over one piece; note in `basins.kept` the maxima that rise `h` above the pass to a higher one.

    Returns the number of basins. Basins count from 1 in falling order of their peaks, the earlier in raster order first
    among equals, so of two that meet the lower number goes on.
    """
    of, parent, peak, kept = basins
    steps = np.array((-stride - 1, -stride, -stride + 1, -1, 1, stride - 1, stride, stride + 1))
    count = 0
    for p in order:
        own = np.int32(0)
        for s in range(8):
            other = of[np.uint32(p + steps[np.uintp(s)])]
            if own == 0:
                own = other
            if not other or other == own:
                continue
            a, b = _root(parent, own), _root(parent, other)
            if a > b:
                a, b = b, a
            if a != b:
                kept[b] = np.float64(values[peak[b]]) - values[p] >= h
                parent[b] = a
        if own == 0:
            count += 1
            own = np.int32(count)
            parent[own], peak[own], kept[own] = own, p, False
        of[p] = own
    kept[1] = values[peak[1]] >= h
    return count


@nb.njit
def _part(peaks, values, stride, distance):
    """Return which of `peaks`, sorted, have no higher and no equal earlier one within `distance` rows and columns."""
    alone = np.ones(len(peaks), np.bool_)
    for i in range(len(peaks)):
        y, x = peaks[i] // stride, peaks[i] % stride
        for j in range(i + 1, len(peaks)):
            if peaks[j] // stride - y > distance:
                break
            if abs(peaks[j] % stride - x) <= distance:
                if values[peaks[j]] > values[peaks[i]]:
                    alone[i] = False
                else:
                    alone[j] = False
    return alone


@nb.njit
def _gather(runs, box, field, values, order):
    """Copy a piece into the window and list its pixels in raster order; return how many they are."""
    stride = np.int64(box[3] - box[1] + 2)
    n = 0
    for i in range(len(runs)):
        y, start, stop = runs[i, 0], runs[i, 1], runs[i, 2]
        at = (y - box[0] + 1) * stride + 1 - box[1]
        for x in range(start, stop):
            values[at + x] = field[y, x]
            order[n] = at + x
            n += 1
    return n


@nb.njit
def _unload(runs, box, basins, count):
    """Return the peaks kept, in raster order, and leave the window as it was found."""
    for b in range(1, count + 1):
        if basins.kept[b]:
            basins.of[basins.peak[b]] = KEPT
    stride = np.int64(box[3] - box[1] + 2)
    n = 0
    for i in range(len(runs)):
        y, start, stop = runs[i, 0], runs[i, 1], runs[i, 2]
        at = (y - box[0] + 1) * stride + 1 - box[1]
        for x in range(start, stop):
            if basins.of[at + x] == KEPT:
                basins.peak[n] = at + x
                n += 1
            basins.of[at + x] = 0
    return basins.peak[:n]


@nb.njit
def _mark(field, pieces_of, h, distance, out):
    """Set `out` to 1 at the h-maxima of every piece."""
    runs, offsets, box = pieces_of
    size = most = 0
    for k in range(len(box)):
        area = (box[k, 2] - box[k, 0]) * np.int64(box[k, 3] - box[k, 1])
        size = max(size, area + 2 * (box[k, 2] - box[k, 0] + box[k, 3] - box[k, 1] + 2))
        most = max(most, area)
    values = np.empty(size, np.float32)
    order, spare_order = np.empty(most, np.uint32), np.empty(most, np.uint32)
    key, spare = np.empty(most, np.uint32), np.empty(most, np.uint32)
    basins = Basins(
        np.zeros(size, np.int32),
        np.empty(most + 1, np.int32),
        np.empty(most + 1, np.uint32),
        np.empty(most + 1, np.bool_),
    )
    for k in range(len(box)):
        n = _gather(runs[offsets[k] : offsets[k + 1]], box[k], field, values, order)
        falling = _descending(values.view(np.uint32), n, order, spare_order, key, spare)[:n]
        stride = np.int64(box[k, 3] - box[k, 1] + 2)
        count = _dynamics(falling, values, stride, basins, h)
        peaks = _unload(runs[offsets[k] : offsets[k + 1]], box[k], basins, count)
        alone = _part(peaks, values, stride, distance)
        for i in range(len(peaks)):
            if alone[i]:
                out[peaks[i] // stride - 1 + box[k, 0], peaks[i] % stride - 1 + box[k, 1]] = 1


@kernel(nb.int32[:, ::1](FIELD, nb.float64, nb.int64, nb.float32))
def h_maxima(field, h, distance, threshold):
    """Return the maxima of dynamics `h` or more, numbered, one pixel each, none near a higher one of its piece.

    A piece is what hangs together of ``field > 0``, diagonals included; what lies around it counts as height 0.
    """
    height, width = field.shape
    inside = np.empty((height, width), np.bool_)
    for y in range(height):
        for x in range(width):
            inside[y, x] = field[y, x] > 0
    out = np.zeros((height, width), np.int32)
    runs, piece, count = pieces(inside, 8)
    _mark(field, by_piece(runs, piece, count), h, distance, out)
    count = 0
    for y in range(height):
        for x in range(width):
            if out[y, x] > 0:
                above = field[y, x] > threshold
                count += above
                out[y, x] = count if above else 0
    return out
