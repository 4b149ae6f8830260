"""Compiled: which objects lie in a part of a window, and objects drawn under other numbers."""

from __future__ import annotations

import numba as nb
import numpy as np

from cellkit.core.compile import kernel
from cellkit.grid.cover import Window

__all__ = ["bounds", "draw", "ids_under", "mark"]

_LABELS = nb.types.Array(nb.int32, 2, "A", readonly=True)
_MASK = nb.types.Array(nb.boolean, 2, "A", readonly=True)
_NUMBERS = nb.types.Array(nb.int32, 1, "C", readonly=True)


def ids_under(labels: np.ndarray, mask: np.ndarray, count: int) -> np.ndarray:
    """Return the labels above 0 and below `count` that have a pixel in `mask`, in their order."""
    return np.flatnonzero(_under(labels, mask, count))


@kernel(nb.boolean[::1](_LABELS, _MASK, nb.int64))
def _under(labels, mask, count):
    found = np.zeros(count, np.bool_)
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            if mask[y, x]:
                found[labels[y, x]] = True
    found[0] = False
    return found


def mark(mask: np.ndarray, labels: np.ndarray, chosen: np.ndarray) -> bool:
    """Set the pixels of `mask` whose label is `chosen`; tell whether one was not set before."""
    return bool(_mark(mask, labels, chosen))


@kernel(nb.boolean(nb.boolean[:, :], _LABELS, nb.types.Array(nb.boolean, 1, "C", readonly=True)))
def _mark(mask, labels, chosen):
    height, width = mask.shape
    new = False
    for y in range(height):
        for x in range(width):
            if chosen[labels[y, x]] and not mask[y, x]:
                mask[y, x] = True
                new = True
    return new


def draw(made: np.ndarray, labels: np.ndarray, numbers: np.ndarray) -> None:
    """Set the pixels of `made`, int32 (y, x), whose label has a number above 0 to that number."""
    _draw(made, labels, numbers)


@kernel(nb.void(nb.int32[:, :], _LABELS, _NUMBERS))
def _draw(made, labels, numbers):
    height, width = made.shape
    for y in range(height):
        for x in range(width):
            number = numbers[labels[y, x]]
            if number > 0:
                made[y, x] = number


def bounds(labels: np.ndarray, numbers: np.ndarray) -> Window | None:
    """Return the smallest window that holds every pixel whose label has a number above 0; None without any."""
    top, left, bottom, right = _bounds(labels, numbers)
    return Window(int(top), int(left), int(bottom), int(right)) if bottom > top else None


@kernel(nb.int64[::1](_LABELS, _NUMBERS))
def _bounds(labels, numbers):
    height, width = labels.shape
    found = np.array([height, width, 0, 0], np.int64)
    for y in range(height):
        for x in range(width):
            if numbers[labels[y, x]] > 0:
                found[0] = min(found[0], y)
                found[1] = min(found[1], x)
                found[2] = y + 1
                found[3] = max(found[3], x + 1)
    return found
