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

    `ends`: which sides of `rect` (top, left, bottom, right) are no edge of the image. Tells whether anything was marked.
    """
    limits = (max(rect.top, 0), max(rect.left, 0), min(rect.bottom, support.shape[0]), min(rect.right, support.shape[1]))
    return bool(_spread(support, bad, *limits, *ends))


@kernel(nb.boolean(_MASK, nb.boolean[:, ::1], *[nb.int64] * 4, *[nb.boolean] * 4))
def _spread(support, bad, top, left, bottom, right, at_top, at_left, at_bottom, at_right):  # type: ignore[no-untyped-def]
    stack = np.empty(1024, np.int64)
    size = 0
    width = support.shape[1]
    found = False
    for y in range(top, bottom):
        rim = (at_top and y == top) or (at_bottom and y == bottom - 1)
        for x in range(left, right):
            if not support[y, x]:
                continue
            if bad[y, x] or rim or (at_left and x == left) or (at_right and x == right - 1):
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
def _first(labels, count):  # type: ignore[no-untyped-def]
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
