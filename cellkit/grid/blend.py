"""Weights that fade overlapping windows into one another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["axis_weights", "ramp"]


def ramp(length: int, halo: int) -> np.ndarray:
    """Return the unnormalised weight along one side of a window: a raised cosine over the overlap, 1 in between.

    Neighbouring windows overlap by twice the halo; where the core is no smaller than that, their ramps add up to 1.
    """
    position = np.arange(length) + 0.5
    distance = np.minimum(position, length - position)
    return np.sin(np.pi / 2 * np.minimum(1.0, distance / (2 * halo))) ** 2


def axis_weights(spans: Sequence[tuple[int, int]], length: int, halo: int) -> list[np.ndarray]:
    """Return one float32 weight vector per span, cut to [0, length), so that they add up to 1 at every position.

    `spans` are the sides (start, stop) of the windows along one axis, before any clipping at the edge of the image.
    Because tiles stand on a grid, the weight of a window is the outer product of its two vectors.
    """
    total = np.zeros(length)
    pieces = []
    for start, stop in spans:
        low, high = max(start, 0), min(stop, length)
        piece = ramp(stop - start, halo)[low - start : high - start]
        total[low:high] += piece
        pieces.append((low, high, piece))
    return [(piece / total[low:high]).astype(np.float32) for low, high, piece in pieces]
