"""Compiled: how far what is not known spreads in connected pieces, and what objects a block holds."""

from __future__ import annotations

import numba as nb
import numpy as np

from cellkit.core.compile import kernel
from cellkit.grid.cover import Window

__all__ = ["first_pixels", "spread"]

_MASK = nb.types.Array(nb.boolean, 2, "C", readonly=True)
_LABELS = nb.types.Array(nb.int32, 2, "C", readonly=True)


def spread(support: np.ndarray, bad: np.ndarray, rect: Window, ends: tuple[bool, bool, bool, bool]) -> bool:
    """Mark in `bad` every piece of `support` (8 neighbours) inside `rect` that holds a bad pixel or touches an end.

    `ends`: which sides of `rect` (top, left, bottom, right) are no edge of the image.
    Tells whether anything was marked.
    """
    limits = np.array(rect.clipped(Window(0, 0, *support.shape)), np.int64)
    return bool(_spread(support, bad, limits, np.array(ends)))


@kernel(nb.boolean(_MASK, nb.boolean[:, ::1], nb.int64[::1], nb.boolean[::1]))
def _spread(support, bad, limits, ends):
    top, left, bottom, right = limits[0], limits[1], limits[2], limits[3]
    stack = np.empty(1024, np.int64)
    size = 0
    width = support.shape[1]
    found = False
    for y in range(top, bottom):
        rim = (ends[0] and y == top) or (ends[2] and y == bottom - 1)
        for x in range(left, right):
            if not support[y, x]:
                continue
            if bad[y, x] or rim or (ends[1] and x == left) or (ends[3] and x == right - 1):
                bad[y, x] = True
                found = True
                if size == len(stack):
                    stack = np.concatenate((stack, np.empty_like(stack)))
                stack[size] = y * width + x
                size += 1
    while size:
        size -= 1
        y, x = divmod(stack[size], width)
        for v in range(max(y - 1, top), min(y + 2, bottom)):
            for u in range(max(x - 1, left), min(x + 2, right)):
                if support[v, u] and not bad[v, u]:
                    bad[v, u] = True
                    if size == len(stack):
                        stack = np.concatenate((stack, np.empty_like(stack)))
                    stack[size] = v * width + u
                    size += 1
    return found


def first_pixels(labels: np.ndarray, count: int) -> np.ndarray:
    """Return, for ids 0 to `count`, the index of the first pixel in raster order; -1 where there is none."""
    return np.asarray(_first(np.ascontiguousarray(labels), count))


@kernel(nb.int64[::1](_LABELS, nb.int64))
def _first(labels, count):
    first = np.full(count + 1, -1, np.int64)
    height, width = labels.shape
    for y in range(height):
        before = 0
        for x in range(width):
            label = labels[y, x]
            if label != before:
                if label > 0 and first[label] < 0:
                    first[label] = y * width + x
                before = label
    return first
