"""Means and spreads of square windows, in whole numbers: a compiled kernel.

Running sums of floats remember what left the window long ago; sums of integers do not, so the result hangs on nothing
but the window, wherever the image is cut.
"""

from __future__ import annotations

import cv2
import numba as nb
import numpy as np

from cellkit.core.compile import kernel

__all__ = ["LIMIT", "above", "mirrored"]

STEPS = 65536.0
"""Values are counted in steps of 1 / 65,536."""
LIMIT = 127.0
"""Greatest magnitude whose square, summed over 255 x 255 px, is sure to fit 64 bits."""


def mirrored(length: int, margin: int) -> np.ndarray:
    """Return the indices of a row mirrored at its ends, the end repeated (d c b a | a b c d): int32."""
    row = np.arange(length, dtype=np.int32)[None]
    return cv2.copyMakeBorder(row, 0, 0, margin, margin, cv2.BORDER_REFLECT)[0]


@nb.njit(inline="never")
def _add(total, square, row, sign):
    for x in range(len(total)):
        value = np.int64(np.int32(np.floor(row[x] * np.float32(STEPS) + np.float32(0.5))))
        total[x] += sign * value
        square[x] += sign * value * value


@nb.njit(inline="never")
def _sums(total, columns, side, width):
    """Add up `side` neighbours of the mirrored columns, for every x."""
    run = np.int64(0)
    for x in range(side - 1):
        run += columns[x]
    for x in range(width):
        run += columns[x + side - 1]
        total[x] = run
        run -= columns[x]


_INDEX = nb.types.Array(nb.int32, 1, "C", readonly=True)


@kernel(
    nb.boolean[:, ::1](
        nb.types.Array(nb.float32, 2, "C", readonly=True), _INDEX, _INDEX, nb.float64, nb.float64, nb.float64
    ),
)
def above(image, rows, columns, k, r, offset):
    """Return where a value is greater than mean * (1 + k * (deviation / r - 1)) - offset of its window.

    `rows` and `columns` are the indices of the image's rows and columns with the window's half on either side.
    """
    height, width = image.shape
    side = len(rows) - height + 1
    count = float(side * side)
    total, square = np.zeros(width, np.int64), np.zeros(width, np.int64)
    wide, wide_square = np.empty(len(columns), np.int64), np.empty(len(columns), np.int64)
    sums, sums_square = np.empty(width, np.int64), np.empty(width, np.int64)
    result = np.empty((height, width), np.bool_)
    for y in range(side - 1):
        _add(total, square, image[rows[y]], np.int64(1))
    for y in range(height):
        _add(total, square, image[rows[y + side - 1]], np.int64(1))
        for x in range(len(columns)):
            wide[x] = total[columns[x]]
            wide_square[x] = square[columns[x]]
        _sums(sums, wide, side, width)
        if k != 0.0:
            _sums(sums_square, wide_square, side, width)
        for x in range(width):
            mean = sums[x] / count
            limit = mean
            if k != 0.0:
                spread = np.sqrt(max(0.0, sums_square[x] / count - mean * mean))
                limit = mean * (1.0 + k * (spread / (r * STEPS) - 1.0))
            value = np.floor(image[y, x] * np.float32(STEPS) + np.float32(0.5))
            result[y, x] = value > limit - offset * STEPS
        _add(total, square, image[rows[y]], np.int64(-1))
    return result
