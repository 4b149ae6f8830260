"""Where the pixels of a warped crop come from, and which labels they take, as compiled kernels."""

from __future__ import annotations

import numba as nb
import numpy as np

from cellkit.core.compile import kernel

__all__ = ["bends", "coordinates", "gather", "waves"]

MATRIX = nb.types.Array(nb.float64, 2, "C", readonly=True)
FIELD = nb.types.Array(nb.float32, 3, "C", readonly=True)
NODES = nb.types.Array(nb.float64, 3, "C", readonly=True)
UINT8, UINT16, INT32 = (nb.types.Array(kind, 2, "C", readonly=True) for kind in (nb.uint8, nb.uint16, nb.int32))
_GATHERED = nb.types.UniTuple(nb.int32[:, ::1], 2)
_HALF = nb.int64(1 << 14)


@kernel(nb.float32[:, :, ::1](MATRIX, FIELD, nb.int64, nb.int64))
def coordinates(matrix, moved, height, width):
    """Return the source row and column, float32 (2, height, width), of each pixel of a crop.

    `matrix` (2, 3) maps (x, y, 1), counted from the middle of the crop, to the source's (x, y). `moved`, float32
    (height, width, 2) or of size 0, is added to (x, y) before.
    """
    out = np.empty((2, height, width), np.float32)
    bent = moved.size > 0
    for row in range(height):
        for column in range(width):
            x = column - 0.5 * (width - 1)
            y = row - 0.5 * (height - 1)
            if bent:
                x += moved[row, column, 0]
                y += moved[row, column, 1]
            out[0, row, column] = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
            out[1, row, column] = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]
    return out


@kernel(nb.float32[:, :, ::1](NODES, nb.float64, nb.float64, nb.float64, nb.int64, nb.int64))
def bends(nodes, spacing, top, left, height, width):
    """Return how far each pixel is moved, float32 (height, width, 2), by nodes (r, c, 2) on a square grid.

    Each square is cut along a diagonal, and the movement is affine in either half. Pixel (0, 0) lies at (`top`,
    `left`), in units of `spacing`, from the first node.
    """
    out = np.empty((height, width, 2), np.float32)
    for row in range(height):
        v = top + row / spacing
        i = min(int(v), nodes.shape[0] - 2)
        v -= i
        for column in range(width):
            u = left + column / spacing
            j = min(int(u), nodes.shape[1] - 2)
            u -= j
            for axis in range(2):
                right, below = nodes[i, j + 1, axis], nodes[i + 1, j, axis]
                if u + v <= 1:
                    corner = nodes[i, j, axis]
                    value = corner + u * (right - corner) + v * (below - corner)
                else:
                    corner = nodes[i + 1, j + 1, axis]
                    value = corner + (1 - u) * (below - corner) + (1 - v) * (right - corner)
                out[row, column, axis] = value
    return out


@nb.njit
def _spline(t):
    """Return the weights of the four nodes around a place `t` after the second: the uniform cubic B-spline."""
    u = 1 - t
    near = (3 * t * t * t - 6 * t * t + 4) / 6
    return u * u * u / 6, near, 1 - near - (u * u * u + t * t * t) / 6, t * t * t / 6


@kernel(nb.float32[:, :, ::1](NODES, nb.float64, nb.float64, nb.float64, nb.int64, nb.int64))
def waves(nodes, spacing, top, left, height, width):
    """Return how far each pixel is moved, float32 (height, width, 2), by nodes (r, c, 2): a cubic B-spline.

    Pixel (0, 0) lies at (`top`, `left`), in units of `spacing`, from the second node of each side.
    """
    out = np.empty((height, width, 2), np.float32)
    lines = np.empty((nodes.shape[1], 2))
    for row in range(height):
        v = top + row / spacing
        i = int(v)
        a, b, c, d = _spline(v - i)
        for j in range(nodes.shape[1]):
            for axis in range(2):
                lines[j, axis] = (
                    a * nodes[i, j, axis]
                    + b * nodes[i + 1, j, axis]
                    + c * nodes[i + 2, j, axis]
                    + d * nodes[i + 3, j, axis]
                )
        for column in range(width):
            u = left + column / spacing
            j = int(u)
            a, b, c, d = _spline(u - j)
            for axis in range(2):
                out[row, column, axis] = (
                    a * lines[j, axis] + b * lines[j + 1, axis] + c * lines[j + 2, axis] + d * lines[j + 3, axis]
                )
    return out


@nb.njit
def _folded(at, length):
    """Return the index in [0, length) that mirrors `at` without repeating the edge, and how many mirrors off it is."""
    if 0 <= at < length:
        return at, 0
    if length == 1:
        return 0, 0
    period = 2 * (length - 1)
    inside = at % period
    times = -1 - (-at - 1) // (length - 1) if at < 0 else 1 + (at - length) // (length - 1)
    return min(inside, period - inside), times


@kernel(*[_GATHERED(kind, FIELD, nb.int64, nb.int64) for kind in (UINT8, UINT16, INT32)])
def gather(labels, places, top, left):
    """Return the label at each of `places` (from `coordinates`) moved by (`top`, `left`), and the mirror it lies in.

    Both int32 (height, width). The nearest pixel counts; beyond the edge labels are mirrored. The second is 0 inside
    the labels, and another number for each mirror image of them.
    """
    height, width = places.shape[1:]
    out = np.empty((height, width), np.int32)
    mirror = np.empty((height, width), np.int32)
    for row in range(height):
        for column in range(width):
            y, up = _folded(int(np.rint(places[0, row, column])) + top, labels.shape[0])
            x, side = _folded(int(np.rint(places[1, row, column])) + left, labels.shape[1])
            out[row, column] = labels[y, x]
            mirror[row, column] = 0
            if up != 0 or side != 0:
                mirror[row, column] = ((up + _HALF) % (2 * _HALF)) * 2 * _HALF + (side + _HALF) % (2 * _HALF)
    return out, mirror
