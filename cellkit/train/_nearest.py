"""Distances among the objects of a label image, as compiled kernels.

Labels above 0 are objects, whatever their numbers; distances run between the centres of pixels. What lies beyond the
edge of the array is nothing: no outline, no other object.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from cellkit.core.compile import kernel

__all__ = ["BACKGROUND", "OBJECTS", "depth", "largest", "passage"]

LABELS = nb.types.Array(nb.int32, 2, "C", readonly=True)
DEPTH = nb.types.Array(nb.float32, 2, "C", readonly=True)
BACKGROUND, OBJECTS = 0, 1


@nb.njit
def _steps_to_others(labels, far):
    """Return, for every pixel, how far up or down its column the nearest pixel of another label is, at most `far`."""
    height, width = labels.shape
    out = np.empty((height, width), np.int32)
    for x in range(width):
        out[0, x] = far
    for y in range(1, height):
        for x in range(width):
            out[y, x] = min(out[y - 1, x] + 1, far) if labels[y, x] == labels[y - 1, x] else 1
    for y in range(height - 2, -1, -1):
        for x in range(width):
            below = out[y + 1, x] + 1 if labels[y, x] == labels[y + 1, x] else 1
            out[y, x] = min(out[y, x], below)
    return out


@nb.njit
def _add_site(u, height, centre, squares, begin, top, stop):
    """Add the parabola that stands `height` (a square) above `u` to an envelope over columns below `stop`."""
    x = begin[0]
    while top >= 0:
        c = centre[top]
        # First column at which the parabola of u is lower than that of c.
        x = (height + u * u - squares[top] - c * c) // (2 * (u - c)) + 1
        if x > begin[top]:
            break
        top -= 1
    if top < 0:
        x = begin[0]
    if x < stop:
        top += 1
        centre[top], squares[top], begin[top] = u, height, x
    return top


@kernel(nb.float32[:, ::1](LABELS))
def depth(labels):
    """Return, for every pixel of an object, the Euclidean distance to the nearest pixel that is not of that object.

    0 in the background; height + width where nothing but the one object is in sight. Source: lower envelopes of
    parabolas (Felzenszwalb & Huttenlocher, Theory of Computing 8, 2012), within runs of one label.
    """
    height, width = labels.shape
    far = height + width
    column = _steps_to_others(labels, far)
    out = np.zeros((height, width), np.float32)
    centre = np.empty(width + 2, np.int64)
    squares = np.empty(width + 2, np.int64)
    begin = np.empty(width + 2, np.int64)
    for y in range(height):
        stop = 0
        while stop < width:
            start = stop
            label = labels[y, start]
            stop += 1
            while stop < width and labels[y, stop] == label:
                stop += 1
            if label <= 0:
                continue
            top = -1
            begin[0] = start
            # Just beyond a run's ends stand other labels: nothing behind them is nearer.
            if start > 0:
                top = _add_site(start - 1, 0, centre, squares, begin, top, stop)
            for x in range(start, stop):
                height2 = np.int64(column[y, x]) * np.int64(column[y, x])
                top = _add_site(x, height2, centre, squares, begin, top, stop)
            if stop < width:
                top = _add_site(stop, 0, centre, squares, begin, top, stop)
            for x in range(stop - 1, start - 1, -1):
                while begin[top] > x:
                    top -= 1
                step = x - centre[top]
                out[y, x] = np.float32(math.sqrt(step * step + squares[top]))
    return out


@kernel(nb.float32[::1](LABELS, DEPTH, nb.int64))
def largest(labels, values, objects):
    """Return the largest of `values` in each object, whose numbers are 1 to `objects`; 0 for the background."""
    out = np.zeros(objects + 1, np.float32)
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label > 0 and values[y, x] > out[label]:
                out[label] = values[y, x]
    return out


@nb.njit
def _two_per_column(labels, most):
    """Return labels (y, x, 2) and distances (y, x, 2) of the two nearest objects of every pixel's column.

    Label 0 where there is none within `most` rows.
    """
    height, width = labels.shape
    who = np.zeros((height, width, 2), np.int32)
    far = np.zeros((height, width, 2), np.int32)
    for turn in range(2):
        for step in range(height):
            y = step if turn == 0 else height - 1 - step
            before = y - 1 if turn == 0 else y + 1
            for x in range(width):
                first, second, near, next_near = np.int32(0), np.int32(0), np.int32(0), np.int32(0)
                if turn == 1:  # what the way down found
                    first, second, near, next_near = who[y, x, 0], who[y, x, 1], far[y, x, 0], far[y, x, 1]
                elif labels[y, x] > 0:
                    first = labels[y, x]
                if step > 0:
                    for k in range(2):
                        label, away = who[before, x, k], far[before, x, k] + 1
                        if label == 0 or away > most:
                            continue
                        if label == first:
                            near = min(near, away)
                        elif first == 0 or away < near:
                            second, next_near = first, near
                            first, near = label, away
                        elif (second == 0 or away < next_near) and label != second:
                            second, next_near = label, away
                        elif label == second:
                            next_near = min(next_near, away)
                who[y, x, 0], who[y, x, 1], far[y, x, 0], far[y, x, 1] = first, second, near, next_near
    return who, far


@kernel(nb.float32[:, ::1](LABELS, nb.float64, nb.int64))
def passage(labels, most, where):
    """Return the sum of the distances to the nearest and to the second nearest object, infinite where above `most`.

    Worked out for pixels of the background or of objects (for which the nearest is their own, at distance 0), as
    `where` says; infinite elsewhere.
    """
    height, width = labels.shape
    out = np.full((height, width), np.inf, np.float32)
    who, far = _two_per_column(labels, np.int64(most))
    for y in range(height):
        for x in range(width):
            if (labels[y, x] > 0) != (where == 1):
                continue
            first, near, nearest = np.int32(0), np.inf, np.inf  # label, square, root of the nearest
            second = np.inf  # square of the second nearest
            step = 0
            # Both are at least `step` away once nothing nearer was found.
            while step * step < second and step + min(nearest, float(step)) <= most:
                for side in range(2 if step > 0 else 1):
                    u = x - step if side == 0 else x + step
                    if u < 0 or u >= width:
                        continue
                    for k in range(2):
                        label = who[y, u, k]
                        if label == 0:
                            break
                        square = float(step * step + far[y, u, k] * far[y, u, k])
                        if label == first:
                            if square < near:
                                near, nearest = square, math.sqrt(square)
                        elif square < near:
                            first, second = label, near
                            near, nearest = square, math.sqrt(square)
                        elif square < second:
                            second = square
                step += 1
            total = nearest + math.sqrt(second)
            if total <= most:
                out[y, x] = total
    return out
