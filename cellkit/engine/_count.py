"""Count the values of an image for a `Histogram`: the compiled twin of `Histogram.of`, at more than twice its speed."""

from __future__ import annotations

import numba as nb
import numpy as np

from cellkit.core.compile import kernel
from cellkit.core.histogram import BINS, Histogram

__all__ = ["histogram"]

_BITS = nb.types.Array(nb.uint32, 2, "C", readonly=True)

SIGN, MAGNITUDE = np.uint32(0x8000), np.uint32(0x7FFFFFFF)
INFINITE, LARGEST = np.uint32(0x7F800000), np.uint32(0x477FE000)  # as float32 bits: infinity, 65504
SMALLEST_NORMAL = np.uint32(0x38800000)  # 2**-14: below it float16 has fixed steps of 2**-24


@nb.njit
def _small(magnitude):
    """Return the float16 bits of a value below 2**-14, rounded half to even."""
    exponent = np.int64(magnitude >> np.uint32(23))
    mantissa = np.int64(magnitude & np.uint32(0x7FFFFF)) | (0x800000 if exponent > 0 else 0)
    shift = 126 - max(exponent, 1)
    if shift > 31:
        return np.uint32(0)
    half = np.int64(1) << (shift - 1)
    whole, rest = mantissa >> shift, mantissa & ((np.int64(1) << shift) - 1)
    if rest > half or (rest == half and whole & 1):
        whole += 1
    return np.uint32(whole)


@kernel(nb.void(_BITS, nb.int64[:, ::1]))
def _count(bits, counts):
    """Add to `counts`, (channels, 65536), the float16 bits of values given as float32 bits, (pixels, channels)."""
    for i in range(bits.shape[0]):
        for channel in range(bits.shape[1]):
            value = bits[i, channel]
            magnitude = value & MAGNITUDE
            if magnitude > INFINITE:
                continue  # NaN is missing
            if magnitude >= LARGEST:
                half = np.uint32(0x7BFF)
            elif magnitude < SMALLEST_NORMAL:
                half = _small(magnitude)
            else:
                odd = (magnitude >> np.uint32(13)) & np.uint32(1)
                half = ((magnitude + np.uint32(0xFFF) + odd) >> np.uint32(13)) - np.uint32(0x1C000)
            counts[channel, (value >> np.uint32(16)) & SIGN | half] += 1


def histogram(values: np.ndarray) -> Histogram:
    """Return ``Histogram.of(values)`` for float32 (y, x) or (y, x, c)."""
    channels = values.shape[2] if values.ndim == 3 else 1
    flat = np.ascontiguousarray(values, np.float32).reshape(-1, channels)
    tally = np.zeros((channels, BINS), np.int64)
    _count(flat.view(np.uint32), tally)
    counts = np.empty_like(tally)
    counts[:, SIGN:] = tally[:, :SIGN]
    counts[:, :SIGN] = tally[:, SIGN:][:, ::-1]
    return Histogram(counts)
