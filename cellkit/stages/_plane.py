"""Images as OpenCV and one-channel stages want them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cellkit.core.errors import KindError

__all__ = ["by_channel", "plane"]


def plane(image: np.ndarray, stage: str) -> np.ndarray:
    """Return the one channel of `image` as (y, x); raise `KindError` where it has another number of them."""
    if image.ndim == 2:
        return image
    if image.shape[2] != 1:
        raise KindError(
            f"{stage} wants one channel, got {image.shape[2]}: put `grayscale` or `channel: {{name: 0}}` before it"
        )
    return image[..., 0]


def by_channel(
    image: np.ndarray, function: Callable[[np.ndarray], np.ndarray], together: tuple[int, ...] = (1, 2, 3, 4)
) -> np.ndarray:
    """Apply an OpenCV function to (y, x) or (y, x, c), in the same shape and float32.

    OpenCV takes only so many channels at once (`together`) and drops the axis of a single one.
    """
    if image.ndim == 2 or image.shape[2] in together:
        return function(np.ascontiguousarray(image)).reshape(image.shape)
    result = np.empty(image.shape, np.float32)
    for channel in range(image.shape[2]):
        result[..., channel] = function(np.ascontiguousarray(image[..., channel])).reshape(image.shape[:2])
    return result
