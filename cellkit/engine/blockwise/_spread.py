"""Compiled: how far what is not known spreads in connected pieces, and what objects a block holds."""

from __future__ import annotations

import numba as nb
import numpy as np

from cellkit.core.compile import kernel
from cellkit.grid.cover import Window

__all__ = ["first_pixels", "spread"]

_MASK = nb.types.Array(nb.boolean, 2, "A", readonly=True)
_LABELS = nb.types.Array(nb.int32, 2, "C", readonly=True)


def spread(
    support: np.ndarray, bad: np.ndarray, rect: Window, ends: tuple[bool, bool, bool, bool], some: bool = True
) -> bool:
    """Mark in `bad` every piece of `support` (8 neighbours) inside `rect` that holds a bad pixel or touches an end.

    `ends`: which sides of `rect` (top, left, bottom, right) are no edge of the image; `some`: whether any pixel may be
    bad already. Tells whether any piece is bad.
    """
    rect = rect.clipped(Window(0, 0, *support.shape))
    inside, doubtful = support[rect.slices], bad[rect.slices]
    for end, line in zip(ends, ((0, slice(None)), (slice(None), 0), (-1, slice(None)), (slice(None), -1)), strict=True):
        if end:
            doubtful[line] |= inside[line]
            some = True
    seeds = np.flatnonzero(doubtful & inside) if some else np.zeros(0, np.intp)
    _spread(inside, doubtful, seeds)
    return bool(len(seeds))


@kernel(nb.void(_MASK, nb.boolean[:, :], nb.int64[::1]))
def _spread(support, bad, seeds):
    stack = np.empty(len(seeds) + 1024, np.int64)
    stack[: len(seeds)] = seeds
    size = len(seeds)
    height, width = support.shape
    while size:
        size -= 1
        y, x = divmod(stack[size], width)
        for v in range(max(y - 1, 0), min(y + 2, height)):
            for u in range(max(x - 1, 0), min(x + 2, width)):
                if support[v, u] and not bad[v, u]:
                    bad[v, u] = True
                    if size == len(stack):
                        stack = np.concatenate((stack, np.empty_like(stack)))
                    stack[size] = v * width + u
                    size += 1


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
