"""The median of square windows of any size, exact: a compiled kernel.

Within a block every pixel has a rank of its own, so a window is a set of ranks. The set is kept as marks, with a
count for every 64 of them, and the median is found by walking from where it was one pixel before.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from cellkit.core.compile import kernel

__all__ = ["median"]

_BLOCK = 256
_GROUP = 64


@nb.njit(inline="never")
def _shift(ranks, marks, groups, mark):
    """Mark a column of ranks as inside or outside the window; return them to the caller's count by group."""
    for i in range(len(ranks)):
        marks[ranks[i]] = mark
        groups[ranks[i] // _GROUP] += 1 if mark else -1


@kernel(
    nb.void(
        nb.float32[:, :],
        nb.types.Array(nb.int32, 2, "C", readonly=True),
        nb.types.Array(nb.float32, 1, "C", readonly=True),
        nb.int64,
    ),
)
def _block(result, ranks, values, radius):
    """Fill in the medians of a block; `ranks` is turned so that a window grows along its rows."""
    height, width = result.shape
    side = 2 * radius + 1
    middle = side * side // 2
    marks = np.zeros(len(values), np.uint8)
    groups = np.zeros(len(values) // _GROUP + 1, np.int32)
    for y in range(height):
        marks[:] = 0
        groups[:] = 0
        for x in range(side):
            _shift(ranks[x, y : y + side], marks, groups, True)
        at, below = 0, 0
        for x in range(width):
            if x:
                for i in range(y, y + side):
                    old, new = ranks[x - 1, i], ranks[x + side - 1, i]
                    marks[old] = 0
                    marks[new] = 1
                    groups[old // _GROUP] -= 1
                    groups[new // _GROUP] += 1
                    below += (new // _GROUP < at) - (old // _GROUP < at)
            while below > middle:
                at -= 1
                below -= groups[at]
            while below + groups[at] <= middle:
                below += groups[at]
                at += 1
            rank, left = at * _GROUP, middle - below
            while True:
                left -= marks[rank]
                if left < 0:
                    break
                rank += 1
            result[y, x] = values[rank]


def median(padded: np.ndarray, radius: int) -> np.ndarray:
    """Return the medians over (2 radius + 1) squared windows of an image padded by `radius`: float32."""
    height, width = padded.shape[0] - 2 * radius, padded.shape[1] - 2 * radius
    result = np.empty((height, width), np.float32)
    for top in range(0, height, _BLOCK):
        for left in range(0, width, _BLOCK):
            target = result[top : top + _BLOCK, left : left + _BLOCK]
            block = padded[top : top + target.shape[0] + 2 * radius, left : left + target.shape[1] + 2 * radius].T
            order = np.argsort(block, axis=None)
            ranks = np.empty(block.size, np.int32)
            ranks[order] = np.arange(block.size, dtype=np.int32)
            _block(target, ranks.reshape(block.shape), block.ravel()[order], radius)
    return result
