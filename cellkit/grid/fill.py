"""Cut a window out of an array and fill what lies beyond its edge."""

from __future__ import annotations

from typing import Literal

import numpy as np

from cellkit.grid.cover import Window

__all__ = ["Fill", "cut", "source"]

Fill = Literal["zero", "reflect", "symmetric", "edge"]


def cut(array: np.ndarray, window: Window, fill: Fill) -> np.ndarray:
    """Return the pixels of `window`, C-contiguous; `array` itself where the window is all of it.

    `array` is (y, x) or (y, x, c). Beyond its edge `fill` decides: `zero`, `reflect` (mirror without repeating the
    edge), `symmetric` (mirror with the edge) or `edge`; mirrors repeat where the array is smaller than the padding.
    """
    whole = Window(0, 0, *array.shape[:2])
    if window == whole:
        return array
    inside = window.clipped(whole)
    if inside == window:
        return np.ascontiguousarray(array[window.slices])
    if fill == "zero":
        out = np.zeros((*window.shape, *array.shape[2:]), array.dtype)
        if inside.top < inside.bottom and inside.left < inside.right:
            out[inside.within(window).slices] = array[inside.slices]
        return out
    rows = source(window.top, window.bottom, array.shape[0], fill)
    columns = source(window.left, window.right, array.shape[1], fill)
    return np.ascontiguousarray(np.take(np.take(array, rows, axis=0), columns, axis=1))


def source(start: int, stop: int, length: int, fill: Fill) -> np.ndarray:
    """Return, for each position from `start` to `stop`, the index in [0, length) that fills it."""
    at = np.arange(start, stop)
    if fill == "edge" or length == 1:
        return np.clip(at, 0, length - 1)
    if fill == "symmetric":
        at %= 2 * length
        return np.minimum(at, 2 * length - 1 - at)
    at %= 2 * length - 2
    return np.minimum(at, 2 * length - 2 - at)
