"""Change the size of an image window by window: any window is, bit for bit, that part of the whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cellkit.grid.cover import Window

__all__ = ["held_by", "reach_of", "zoom_window"]


@dataclass(frozen=True)
class _Taps:
    """For each pixel of a side: the first pixel it is made of, how many, and their weights."""

    first: np.ndarray
    count: np.ndarray
    weights: np.ndarray

    @property
    def low(self) -> int:
        return int(self.first.min())

    @property
    def high(self) -> int:
        return int((self.first + self.count).max())


def zoom_window(
    read: Callable[[Window], np.ndarray], outer: tuple[int, int], inner: tuple[int, int], window: Window
) -> np.ndarray:
    """Return the pixels of `window` of an image that is `outer` large and is wanted `inner` large.

    `read` gives any window of the outer image, (y, x) or (y, x, c); it is called once, for the pixels that `window` is
    made of. An axis that shrinks is averaged by area, one that grows is linear between the pixels' centres. Weights
    come from whole numbers in the coordinates of the whole image, are summed in double precision and in a fixed order:
    windows agree with the whole and with one another bit for bit, and a constant stays what it is. The result is
    float32. It is what OpenCV's INTER_AREA and INTER_LINEAR give but for what these leave out: shares of under a
    thousandth of a pixel when it shrinks, and positions beyond single precision.

    Raises `ValueError` where `window` is empty or does not lie within `inner`.
    """
    if not (0 <= window.top < window.bottom <= inner[0] and 0 <= window.left < window.right <= inner[1]):
        raise ValueError(f"{window} is empty or does not lie within {inner[0]} x {inner[1]} px")
    if outer == inner:
        return np.ascontiguousarray(read(window), np.float32)
    rows = _taps(outer[0], inner[0], window.top, window.bottom)
    columns = _taps(outer[1], inner[1], window.left, window.right)
    part = np.ascontiguousarray(read(Window(rows.low, columns.low, rows.high, columns.high)), np.float32)
    pixels = part if part.ndim == 3 else part[..., None]
    from cellkit.grid._zoom import along_columns, along_rows

    if outer[0] != inner[0]:
        pixels = along_rows(pixels, rows.first - rows.low, rows.count, rows.weights)
    if outer[1] != inner[1]:
        pixels = along_columns(pixels, columns.first - columns.low, columns.count, columns.weights)
    return pixels if part.ndim == 3 else pixels[..., 0]


def reach_of(outer: tuple[int, int], inner: tuple[int, int], window: Window) -> Window:
    """Return the window of the outer image that `zoom_window` reads for `window` of the inner one."""
    rows = _taps(outer[0], inner[0], window.top, window.bottom)
    columns = _taps(outer[1], inner[1], window.left, window.right)
    return Window(rows.low, columns.low, rows.high, columns.high)


def held_by(outer: tuple[int, int], inner: tuple[int, int], window: Window) -> Window:
    """Return the pixels of the inner image that the pixels of `window` in the outer one are enough for.

    Where there are none, `bottom` <= `top` or `right` <= `left`.
    """
    spans = []
    for given, wanted, start, stop in zip(outer, inner, window[:2], window[2:], strict=True):
        low = max(0, start * wanted // given - 2)
        taps = _taps(given, wanted, low, min(wanted, -(-stop * wanted // given) + 2))
        held = np.flatnonzero((taps.first >= start) & (taps.first + taps.count <= stop))
        spans.append((low + int(held[0]), low + int(held[-1]) + 1) if len(held) else (0, 0))
    (top, bottom), (left, right) = spans
    return Window(top, left, bottom, right)


def _taps(given: int, wanted: int, start: int, stop: int) -> _Taps:
    """Return of what the pixels `start` to `stop` of a side of `wanted` pixels are made, out of `given`."""
    at = np.arange(start, stop, dtype=np.int64)
    if wanted == given:
        return _Taps(at, np.ones_like(at), np.ones((len(at), 1)))
    if wanted < given:
        # In units of 1 / wanted: a given pixel is `wanted` long, a wanted one `given`.
        begin, end = at * given, (at + 1) * given
        first = begin // wanted
        count = -(-end // wanted) - first
        pixel = first[:, None] + np.arange(int(count.max()))
        shared = np.minimum(end[:, None], (pixel + 1) * wanted) - np.maximum(begin[:, None], pixel * wanted)
        return _Taps(first, count, np.maximum(shared, 0) / given)
    centre = (2 * at + 1) * given - wanted  # in units of 1 / (2 * wanted), from the centre of pixel 0
    below, part = centre // (2 * wanted), (centre % (2 * wanted)) / (2 * wanted)
    if given == 1:
        return _Taps(np.zeros_like(at), np.ones_like(at), np.ones((len(at), 1)))
    part = np.where(below < 0, 0.0, np.where(below > given - 2, 1.0, part))
    first = np.clip(below, 0, given - 2)
    return _Taps(first, np.full_like(at, 2), np.stack([1 - part, part], axis=1))
