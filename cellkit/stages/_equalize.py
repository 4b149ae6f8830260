"""Contrast-limited histogram equalisation by tiles."""

from __future__ import annotations

import cv2
import numba as nb
import numpy as np

from cellkit.core.compile import kernel

__all__ = ["equalize"]

_BINS = 256


def equalize(image: np.ndarray, tiles: int, clip: float) -> np.ndarray:
    """Equalise float32 (y, x) by `tiles` x `tiles` tiles; what they lack of a multiple is filled up by mirroring."""
    tables = _tables(image, tiles, clip)
    height, width = image.shape
    return _look_up(image, tables, -(-height // tiles), -(-width // tiles))


def _tables(image: np.ndarray, tiles: int, clip: float) -> np.ndarray:
    """Return what each level becomes in each tile: the cumulative share, counts above the limit spread over all."""
    levels = cv2.convertScaleAbs(np.maximum(image, 0), alpha=_BINS - 1)
    height, width = image.shape
    levels = cv2.copyMakeBorder(levels, 0, -height % tiles, 0, -width % tiles, cv2.BORDER_REFLECT_101)
    tall, wide = levels.shape[0] // tiles, levels.shape[1] // tiles
    counts = np.empty((tiles, tiles, _BINS), np.float32)
    for i in range(tiles):
        for j in range(tiles):
            tile = levels[i * tall : (i + 1) * tall, j * wide : (j + 1) * wide]
            counts[i, j] = cv2.calcHist([tile], [0], None, [_BINS], [0, _BINS]).ravel()
    limit = max(1, int(clip * tall * wide / _BINS))
    excess = np.maximum(counts - limit, 0).sum(axis=2, keepdims=True)
    reached = np.cumsum(np.minimum(counts, limit) + excess / _BINS, axis=2, dtype=np.float64)
    return (reached / (tall * wide)).astype(np.float32)


@kernel(
    nb.float32[:, ::1](nb.types.Array(nb.float32, 2, "C", readonly=True), nb.float32[:, :, ::1], nb.int64, nb.int64),
)
def _look_up(image, tables, tall, wide):
    """Interpolate between the levels beside a value and the tiles beside a pixel."""
    height, width = image.shape
    tiles = len(tables)
    result = np.empty((height, width), np.float32)
    strip = np.empty((tiles, _BINS), np.float32)
    for y in range(height):
        place = y / tall - 0.5
        top = int(np.floor(place))
        low = np.float32(place - top)
        above, below = tables[max(top, 0)], tables[min(top + 1, tiles - 1)]
        for j in range(tiles):
            for i in range(_BINS):
                strip[j, i] = above[j, i] + (below[j, i] - above[j, i]) * low
        for x in range(width):
            place = x / wide - 0.5
            left = int(np.floor(place))
            far = np.float32(place - left)
            level = min(max(image[y, x], np.float32(0)), np.float32(1)) * np.float32(_BINS - 1)
            i = min(int(level), _BINS - 2)
            part = level - np.float32(i)
            near, next_ = strip[max(left, 0)], strip[min(left + 1, tiles - 1)]
            a = near[i] + (near[i + 1] - near[i]) * part
            b = next_[i] + (next_[i + 1] - next_[i]) * part
            result[y, x] = a + (b - a) * far
    return result
