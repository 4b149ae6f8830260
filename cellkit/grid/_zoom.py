"""Weighted sums along rows and columns: compiled kernels."""

from __future__ import annotations

import numba as nb
import numpy as np

from cellkit.core.compile import kernel

_PIXELS = nb.types.Array(nb.float32, 3, "C", readonly=True)
_INDEX = nb.types.Array(nb.int64, 1, "C", readonly=True)
_WEIGHTS = nb.types.Array(nb.float64, 2, "C", readonly=True)


@kernel(nb.float32[:, :, ::1](_PIXELS, _INDEX, _INDEX, _WEIGHTS))
def along_rows(pixels, first, count, weights):
    """Return (n, x, c): row i is the sum of `count[i]` rows from `first[i]` on, each times its weight."""
    width, channels = pixels.shape[1], pixels.shape[2]
    out = np.empty((len(first), width, channels), np.float32)
    total = np.empty((width, channels), np.float64)
    for i in range(len(first)):
        total[:] = 0.0
        for k in range(count[i]):
            row, weight = pixels[first[i] + k], weights[i, k]
            for x in range(width):
                for c in range(channels):
                    total[x, c] += weight * row[x, c]
        for x in range(width):
            for c in range(channels):
                out[i, x, c] = total[x, c]
    return out


@kernel(nb.float32[:, :, ::1](_PIXELS, _INDEX, _INDEX, _WEIGHTS))
def along_columns(pixels, first, count, weights):
    """Return (y, n, c): column i is the sum of `count[i]` columns from `first[i]` on, each times its weight."""
    height, channels = pixels.shape[0], pixels.shape[2]
    out = np.empty((height, len(first), channels), np.float32)
    for y in range(height):
        for i in range(len(first)):
            for c in range(channels):
                total = 0.0
                for k in range(count[i]):
                    total += weights[i, k] * pixels[y, first[i] + k, c]
                out[y, i, c] = total
    return out
