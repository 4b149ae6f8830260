"""The additive measurement of a whole image: counts of every value, by channel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

__all__ = ["BINS", "Histogram"]

BINS = 65536
_SIGN = 0x8000
_CHUNK = 1 << 18  # the pieces that counting works through stay in cache


@lru_cache(maxsize=1)
def _values() -> np.ndarray:
    """Value of every bin, float64 (65536,), ascending; bins that stand for no finite value hold 0."""
    keys = np.arange(BINS, dtype=np.uint16)
    bits = np.where(keys >= _SIGN, keys ^ _SIGN, ~keys).astype(np.uint16)
    values = bits.view(np.float16).astype(np.float64)
    values[~np.isfinite(values)] = 0.0
    values.setflags(write=False)
    return values


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of the values of an image, int64 (channels, 65536).

    A value is counted under the order-preserving bits of its float16, so the bins are fixed beforehand, histograms of
    parts add up to the histogram of the whole, and 12-bit images in 16-bit files or values outside [0, 1] keep their
    resolution (11 significant bits). NaN is missing and is not counted; values beyond the float16 range count as its
    largest finite value.
    """

    counts: np.ndarray

    @classmethod
    def of(cls, image: np.ndarray) -> Histogram:
        """Count the values of `image`, float (y, x) or (y, x, c)."""
        stack = image[..., None] if image.ndim == 2 else image
        counts = np.empty((stack.shape[2], BINS), np.int64)
        for channel in range(stack.shape[2]):
            values = stack[..., channel].ravel()
            tally = np.zeros(BINS, np.int64)
            for start in range(0, len(values), _CHUNK):
                part = np.clip(values[start : start + _CHUNK], -65504.0, 65504.0)
                tally += np.bincount(part.astype(np.float16).view(np.uint16), minlength=BINS)
            # Negative values order backwards by their bits: the sign flips, and the magnitude counts down.
            counts[channel, _SIGN:] = tally[:_SIGN]
            counts[channel, :_SIGN] = tally[_SIGN:][::-1]
            counts[channel, _SIGN + 0x7C01 :] = 0  # NaN
            counts[channel, : _SIGN - 0x7C01] = 0
        return cls(counts)

    @classmethod
    def zero(cls, channels: int) -> Histogram:
        """Return the histogram of nothing, to add to."""
        return cls(np.zeros((channels, BINS), np.int64))

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(self.counts + other.counts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and np.array_equal(self.counts, other.counts)

    @property
    def channels(self) -> int:
        """Number of channels counted."""
        return int(self.counts.shape[0])

    def filled(self, channel: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the values that occur, ascending float64 (n,), and their counts, int64 (n,).

        `channel` picks one channel; None adds all channels up.
        """
        counts = self.counts.sum(axis=0) if channel is None else self.counts[channel]
        keys = np.flatnonzero(counts)
        values, counts = _values()[keys], counts[keys]
        if len(keys) > 1 and _SIGN in keys and _SIGN - 1 in keys:  # -0.0 and 0.0 are one value
            at = int(np.searchsorted(keys, _SIGN))
            counts[at] += counts[at - 1]
            values, counts = np.delete(values, at - 1), np.delete(counts, at - 1)
        return values, counts

    def quantile(self, q: float | np.ndarray, channel: int | None = None) -> np.ndarray:
        """Return the smallest value that at least the share `q` of the pixels does not exceed; 0 for no pixels."""
        values, counts = self.filled(channel)
        if not len(values):
            return np.zeros(np.shape(q))
        reached = np.cumsum(counts)
        wanted = np.ceil(np.asarray(q, np.float64) * reached[-1])
        at = np.searchsorted(reached, np.maximum(wanted, 1))
        return values[np.minimum(at, len(values) - 1)]
