"""Erosion by a flat disc and by a ball: compiled kernels. Dilation is the same of the negative.

Outside the image nothing counts: at its edge the least is taken over the pixels that are there.
"""

from __future__ import annotations

from math import isqrt

import numba as nb
import numpy as np

from cellkit.core.compile import kernel

__all__ = ["ball", "chords", "erode", "erode_ball"]


def chords(radius: float) -> np.ndarray:
    """Return how far a disc reaches sideways in each of its rows from the middle one down: int32."""
    return np.array([isqrt(int(radius * radius) - y * y) for y in range(int(radius) + 1)], np.int32)


def ball(radius: float, unit: float, step: int = 1) -> np.ndarray:
    """Return the height of the upper half of a ball, `unit` to the pixel, at every `step`-th pixel; -inf beside it."""
    reach = int(radius / step)
    side = np.arange(-reach, reach + 1) * step
    square = radius * radius - side[:, None] ** 2 - side[None] ** 2
    return np.where(square >= 0, np.sqrt(np.maximum(square, 0)) * unit, -np.inf).astype(np.float32)


def erode(image: np.ndarray, half: np.ndarray, outside: float) -> np.ndarray:
    """Return the least value within a disc of `half` (see `chords`); `outside` is the type's greatest value."""
    height, width = image.shape
    levels = int(2 * half[0] + 1).bit_length()
    spans = np.full((levels, width + 2 * (len(half) - 1)), outside, image.dtype)
    result = np.full((height, width), outside, image.dtype)
    _erode(image, half, spans, np.empty(width, image.dtype), result)
    return result


@nb.njit
def _lower(target, a):
    # With two arrays only: a third would stop the compiler from doing many pixels at once where it is the first again.
    for x in range(len(target)):
        target[x] = a[x] if a[x] < target[x] else target[x]


@nb.njit
def _lower_less(target, a, lift):
    for x in range(len(target)):
        low = a[x] - lift
        target[x] = low if low < target[x] else target[x]


def _least_in_disc(image, half, spans, least, result):
    """Write into every pixel of `result` the least value in the disc round it.

    The least of any stretch of a row is that of two overlapping stretches of a power of two (`spans`), so a row of the
    disc costs one step whatever its length.
    """
    height, width = image.shape
    radius = len(half) - 1
    for y in range(height):
        for x in range(width):
            spans[0, radius + x] = image[y, x]
        for k in range(1, len(spans)):
            step = 1 << (k - 1)
            a, b, target = spans[k - 1], spans[k - 1, step:], spans[k]
            for x in range(width + 2 * radius - 2 * step + 1):
                target[x] = a[x] if a[x] < b[x] else b[x]
        last = -1
        for dy in range(radius + 1):
            reach = half[dy]
            if reach != last:
                k = 0
                while (2 << k) <= 2 * reach + 1:
                    k += 1
                a, b = spans[k, radius - reach :], spans[k, radius + reach + 1 - (1 << k) :]
                for x in range(width):
                    least[x] = a[x] if a[x] < b[x] else b[x]
                last = reach
            if y - dy >= 0:
                _lower(result[y - dy], least)
            if dy > 0 and y + dy < height:
                _lower(result[y + dy], least)


_HALF = nb.types.Array(nb.int32, 1, "C", readonly=True)


def _signature(of):
    return nb.void(nb.types.Array(of, 2, "C", readonly=True), _HALF, of[:, ::1], of[::1], of[:, ::1])


_erode = kernel(_signature(nb.uint8), _signature(nb.float32))(_least_in_disc)


@kernel(
    nb.float32[:, ::1](
        nb.types.Array(nb.float32, 2, "C", readonly=True), nb.types.Array(nb.float32, 2, "C", readonly=True)
    ),
)
def erode_ball(image, heights):
    """Return how high a ball can rise under each pixel: the least difference of image and ball."""
    height, width = image.shape
    radius = len(heights) // 2
    result = np.full((height, width), np.float32(np.inf), np.float32)
    for y in range(height):
        row = result[y]
        for dy in range(max(-radius, -y), min(radius, height - 1 - y) + 1):
            source = image[y + dy]
            for dx in range(max(-radius, 1 - width), min(radius, width - 1) + 1):
                lift = heights[dy + radius, dx + radius]
                if lift == -np.inf:
                    continue
                start, stop = max(0, -dx), min(width, width - dx)
                _lower_less(row[start:stop], source[start + dx : stop + dx], lift)
    return result
