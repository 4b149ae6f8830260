"""The median of an image that does not fit in memory, exactly that of all its values at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from cellkit.grid.cover import Window

__all__ = ["finite", "medians"]

_AT_ONCE = 2**22  # px
_HALF = 2**16


def finite(array: np.ndarray) -> np.ndarray:
    """Return floats as float32 in which whatever is not finite is NaN."""
    with np.errstate(over="ignore"):
        values = np.array(array, np.float32, order="C")
    values[~np.isfinite(values)] = np.nan
    return values


def medians(read: Callable[[Window], np.ndarray], area: Window, chunk: tuple[int, int], channels: int) -> np.ndarray:
    """Return the median of each channel's finite values within `area`, 0 where there are none, as float32.

    `read` gives floats (y, x) or (y, x, c) and is gone through twice: values are counted by their upper 16 bits, then
    those in the middle by their lower 16.
    """
    windows = list(_blocks(area, chunk))
    counts = np.zeros((channels, _HALF), np.int64)
    for keys in (_keys(read(window), channels) for window in windows):
        for channel, own in enumerate(keys):
            counts[channel] += np.bincount(own >> 16, minlength=_HALF)
    ranks, bins, below = _middle(counts)
    inner = np.zeros((channels, 2, _HALF), np.int64)
    for keys in (_keys(read(window), channels) for window in windows):
        for channel, own in enumerate(keys):
            for side in range(2):
                picked = own[own >> 16 == bins[channel, side]] & (_HALF - 1)
                inner[channel, side] += np.bincount(picked, minlength=_HALF)
    out = np.zeros(channels, np.float32)
    for channel in range(channels):
        if not counts[channel].any():
            continue
        middle = []
        for side in range(2):
            rank = ranks[channel, side] - below[channel, side]
            low = int(np.searchsorted(np.cumsum(inner[channel, side]), rank, side="right"))
            middle.append((int(bins[channel, side]) << 16) | low)
        values = _value(np.array(middle, np.uint32))
        out[channel] = values[0] if values[0] == values[1] else np.median(values)
    return out


def _middle(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each channel the ranks of its two middle values, the bins they lie in, and how many lie below."""
    totals = counts.sum(axis=1)
    ranks = np.stack([np.maximum(totals - 1, 0) // 2, totals // 2], axis=1)
    bins, below = np.zeros_like(ranks), np.zeros_like(ranks)
    for channel, sums in enumerate(np.cumsum(counts, axis=1)):
        if totals[channel]:
            bins[channel] = np.searchsorted(sums, ranks[channel], side="right")
            below[channel] = sums[bins[channel]] - counts[channel, bins[channel]]
    return ranks, bins, below


def _keys(array: np.ndarray, channels: int) -> Iterator[np.ndarray]:
    """Yield each channel's finite values as uint32 that sort as the values do."""
    values = finite(array).reshape(-1, channels)
    for channel in range(channels):
        own = np.ascontiguousarray(values[:, channel])
        bits = own[~np.isnan(own)].view(np.uint32)
        yield np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def _value(keys: np.ndarray) -> np.ndarray:
    bits = np.where(keys >> 31, keys & np.uint32((1 << 31) - 1), ~keys)
    return bits.astype(np.uint32).view(np.float32)


def _blocks(area: Window, chunk: tuple[int, int]) -> Iterator[Window]:
    """Yield windows that cover `area` row by row, whole chunks where they fit."""
    wide = max(chunk[1], min(area.shape[1], _AT_ONCE // max(chunk[0], 1)) // chunk[1] * chunk[1])
    tall = max(chunk[0], _AT_ONCE // wide // chunk[0] * chunk[0])
    for top in range(area.top - area.top % chunk[0], area.bottom, tall):
        for left in range(area.left - area.left % chunk[1], area.right, wide):
            yield Window(top, left, top + tall, left + wide).clipped(area)
