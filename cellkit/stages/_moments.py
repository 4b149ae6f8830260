"""Compiled sums over the objects of a label image: boxes, moments, intensities, classes.

Every function goes over the image run by run and adds to the row of a table that the label itself names, so labels
must lie in 0 to ``len(table) - 1`` (`renumber` brings them there). Values below 1 are background.
"""

from __future__ import annotations

from numba import boolean, float32, float64, int32, int64, uint8, void
from numba.types import Array

from cellkit.core.compile import kernel

# Columns of the table that `accumulate` fills.
AREA, Y0, X0, Y1, X1, ORIGIN, SUM_Y, SUM_X, SUM_YY, SUM_XY, SUM_XX, RUNS = range(12)
COLUMNS = 12
# Values per object and channel: the sum alone, or all of these.
TOTAL, SQUARES, LEAST, MOST, SHIFT = range(5)
SPREAD = 5

_LABELS = Array(int32, 2, "C", readonly=True)
_RAW = Array(float32, 3, "C", readonly=True)
_CLASSES = Array(uint8, 2, "C", readonly=True)
_BOXES = Array(int64, 2, "C", readonly=True)
_IDS = Array(int32, 1, "C", readonly=True)


@kernel(void(float64[::1], int64, int64, int64, boolean))
def _add_run(row, y, begin, end, second):
    """Add the pixels (y, begin) to (y, end - 1) to one object's row."""
    count = end - begin
    if row[AREA] == 0.0:
        row[Y0] = y
        row[X0] = begin
        row[X1] = end
        row[ORIGIN] = begin
    # Relative to the object's first pixel, so that second moments do not cancel far from the image's corner.
    dy = y - int64(row[Y0])
    p = begin - int64(row[ORIGIN])
    q = p + count - 1
    total = count * (p + q) // 2
    row[AREA] += count
    row[Y1] = y + 1
    row[X0] = min(row[X0], begin)
    row[X1] = max(row[X1], end)
    row[SUM_Y] += count * dy
    row[SUM_X] += total
    row[RUNS] += 1
    if second:
        row[SUM_YY] += count * dy * dy
        row[SUM_XY] += dy * total
        row[SUM_XX] += count * (2 * (p * p + p * q + q * q) + q - p) // 6


@kernel(void(float64[::1], _RAW, int64, int64, int64, int64))
def _add_values(row, raw, channel, y, begin, end):
    """Add one channel's values along a run; all of `SPREAD`, or the sum alone where the row holds one value."""
    if len(row) == 1:
        total = 0.0
        for x in range(begin, end):
            total += raw[y, x, channel]
        row[TOTAL] += total
        return
    if row[MOST] < row[LEAST]:
        row[SHIFT] = raw[y, begin, channel]
    shift, least, most = row[SHIFT], row[LEAST], row[MOST]
    total, squares = 0.0, 0.0
    for x in range(begin, end):
        value = float64(raw[y, x, channel])
        least = min(least, value)
        most = max(most, value)
        value -= shift
        total += value
        squares += value * value
    row[TOTAL] += total
    row[SQUARES] += squares
    row[LEAST] = least
    row[MOST] = most


@kernel(void(_LABELS, _RAW, int64, int64, boolean, float64[:, ::1], float64[:, :, ::1]))
def accumulate(labels, raw, top, left, second, table, values):
    """Add every object of `labels`, whose corner lies at (top, left) of `raw`, to `table` and `values`.

    `table` is (ids, COLUMNS); `values` is (ids, channels, SPREAD or 1), with no channel where intensity is not
    wanted. With SPREAD, `LEAST` must begin at infinity and `MOST` at minus infinity. Both are added to.
    """
    height, width = labels.shape
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
            _add_run(table[label], y + top, begin + left, x + left, second)
            for channel in range(values.shape[1]):
                _add_values(values[label, channel], raw, channel, y + top, begin + left, x + left)


@kernel(void(_BOXES, _RAW, float64[:, :, ::1]))
def accumulate_boxes(boxes, raw, values):
    """Add the pixels of every box, (y0, x0, y1, x1) half-open inside the image, to `values` as `accumulate` does."""
    for i in range(len(boxes)):
        y0, x0, y1, x1 = boxes[i]
        if x1 > x0:
            for y in range(y0, y1):
                for channel in range(values.shape[1]):
                    _add_values(values[i, channel], raw, channel, y, x0, x1)


@kernel(void(_LABELS, _CLASSES, int64[:, ::1]))
def count_classes(labels, classes, counts):
    """Add to `counts`, (ids, classes), how many pixels of every object are of which class."""
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label > 0:
                counts[label, classes[y, x]] += 1


@kernel(void(_LABELS, _IDS, int32[:, ::1]))
def renumber(labels, ids, out):
    """Write to `out` the position, from 1, that every label has in `ids` (ascending); 0 for background."""
    height, width = labels.shape
    for y in range(height):
        known, number = int32(0), int32(0)
        for x in range(width):
            label = labels[y, x]
            if label != known:
                known, number = label, int32(0)
                if label > 0:
                    low, high = 0, len(ids)
                    while low < high:
                        middle = (low + high) // 2
                        if ids[middle] < label:
                            low = middle + 1
                        else:
                            high = middle
                    number = int32(low + 1)
            out[y, x] = number
