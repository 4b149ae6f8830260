"""Contrast-limited histogram equalisation by tiles: compiled kernels."""

from __future__ import annotations

import numba as nb
import numpy as np

__all__ = ["equalize"]

BINS = 256
_IMAGE = nb.types.Array(nb.float32, 2, "C", readonly=True)
_INDEX = nb.types.Array(nb.int32, 1, "C", readonly=True)


@nb.njit
def _level(value):
    return min(max(value, np.float32(0)), np.float32(1)) * np.float32(BINS - 1)


@nb.njit
def _table(count, limit):
    """Turn the counts of a tile into what each level becomes: cumulative, what exceeds `limit` spread over all."""
    total = count.sum()
    excess = 0.0
    for i in range(BINS):
        excess += max(0.0, count[i] - limit)
    table = np.empty(BINS, np.float32)
    reached = 0.0
    for i in range(BINS):
        reached += min(count[i], limit) + excess / BINS
        table[i] = reached / total
    return table


@nb.njit
def _tables(image, rows, columns, tiles, clip):
    tall, wide = len(rows) // tiles, len(columns) // tiles
    limit = max(1.0, np.floor(clip * tall * wide / BINS))
    tables = np.empty((tiles, tiles, BINS), np.float32)
    count = np.empty((tiles, BINS))
    for i in range(tiles):
        count[:] = 0
        for y in rows[i * tall : (i + 1) * tall]:
            for x in range(len(columns)):
                count[x // wide, int(_level(image[y, columns[x]]) + np.float32(0.5))] += 1
        for j in range(tiles):
            tables[i, j] = _table(count[j], limit)
    return tables


@nb.njit
def _between(at, length, tiles):
    """Return the two tiles whose middles a pixel lies between, and the weight of the second."""
    position = (at / length) - 0.5
    first = int(np.floor(position))
    weight = np.float32(position - first)
    return max(first, 0), min(first + 1, tiles - 1), weight


@nb.njit(nb.float32[:, ::1](_IMAGE, _INDEX, _INDEX, nb.int64, nb.float64), cache=True, nogil=True)
def equalize(image, rows, columns, tiles, clip):
    """Equalise by `tiles` x `tiles` tiles; `rows` and `columns` fill up to a multiple of it."""
    height, width = image.shape
    tables = _tables(image, rows, columns, tiles, clip)
    result = np.empty((height, width), np.float32)
    one = np.float32(1)
    for y in range(height):
        top, bottom, low = _between(y, len(rows) // tiles, tiles)
        strip = tables[top] * (one - low) + tables[bottom] * low
        for x in range(width):
            left, right, far = _between(x, len(columns) // tiles, tiles)
            level = _level(image[y, x])
            i = min(int(level), BINS - 2)
            part = level - np.float32(i)
            a = strip[left, i] * (one - part) + strip[left, i + 1] * part
            b = strip[right, i] * (one - part) + strip[right, i + 1] * part
            result[y, x] = a * (one - far) + b * far
    return result
