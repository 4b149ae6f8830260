"""Change the size of a layer, each kind in its own way."""

from __future__ import annotations

import math

import numpy as np

from cellkit.core import Boxes, Instances
from cellkit.grid.cover import Window

__all__ = ["nearest", "nearest_window", "scaled_boxes", "scaled_instances", "smooth"]

_MOST_CHANNELS = 4  # beyond these OpenCV falls back to slower paths or refuses


def smooth(array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return float32 `array`, (y, x) or (y, x, c), at `shape`: by area along an axis that shrinks, else linear."""
    if array.shape[:2] == shape:
        return array
    planes = array if array.ndim == 3 else array[..., None]
    channels = planes.shape[2]
    out = np.empty((*shape, channels), np.float32)
    for first in range(0, channels, _MOST_CHANNELS):
        block = slice(first, min(first + _MOST_CHANNELS, channels))
        out[..., block] = _smooth_block(planes[..., block], shape)
    return out if array.ndim == 3 else out[..., 0]


def _smooth_block(planes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    import cv2

    height, width = planes.shape[:2]
    small = (min(height, shape[0]), min(width, shape[1]))
    planes = np.ascontiguousarray(planes)
    low, high = planes.min(), planes.max()
    if small != (height, width):
        planes = cv2.resize(planes, small[::-1], interpolation=cv2.INTER_AREA)
    if small != shape:
        planes = cv2.resize(planes, shape[::-1], interpolation=cv2.INTER_LINEAR)
    # Averages lie between the values averaged; rounding must not take a probability past 1.
    return np.clip(planes, low, high).reshape(*shape, -1)


def nearest(array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return `array` at `shape`; each pixel takes the value under its centre, so no new value arises."""
    if array.shape[:2] == shape:
        return array
    rows, columns = (_under_centre(*sides) for sides in zip(shape, array.shape[:2], strict=True))
    return np.ascontiguousarray(np.take(np.take(array, rows, axis=0), columns, axis=1))


def nearest_window(
    array: np.ndarray, outer: tuple[int, int], inner: tuple[int, int], seen: Window, window: Window
) -> np.ndarray:
    """Return the pixels of `window` of `nearest` at `inner`, of an image of `outer` of which `array` is `seen`."""
    rows, columns = (_under_centre(inner[i], outer[i], window[i], window[i + 2]) - seen[i] for i in (0, 1))
    return np.ascontiguousarray(np.take(np.take(array, rows, axis=0), columns, axis=1))


def _under_centre(wanted: int, given: int, start: int = 0, stop: int | None = None) -> np.ndarray:
    return (2 * np.arange(start, wanted if stop is None else stop) + 1) * given // (2 * wanted)


def scaled_boxes(boxes: Boxes, scale: tuple[float, float]) -> Boxes:
    """Return `boxes` with coordinates multiplied by `scale`, (y, x)."""
    factors = np.array([scale[1], scale[0], scale[1], scale[0]])
    return Boxes((boxes.xyxy * factors).astype(np.float32), boxes.scores, boxes.classes)


def scaled_instances(instances: Instances, scale: tuple[float, float]) -> Instances:
    """Return `instances` with boxes scaled and masks and their probabilities resampled to them (nearest)."""
    boxes = scaled_boxes(instances.boxes, scale)
    pixels = []
    for old, new, mask in zip(instances.boxes.xyxy, boxes.xyxy, instances.masks, strict=True):
        rows = _within_mask(new[1], new[3], old[1], scale[0], mask.shape[0])
        columns = _within_mask(new[0], new[2], old[0], scale[1], mask.shape[1])
        pixels.append(np.ix_(rows, columns))
    masks = tuple(mask[at] for mask, at in zip(instances.masks, pixels, strict=True))
    probs = instances.probs
    if probs is not None:
        probs = tuple(prob[at] for prob, at in zip(probs, pixels, strict=True))
    return Instances(boxes, masks, probs)


def _within_mask(low: float, high: float, old_low: float, scale: float, length: int) -> np.ndarray:
    centres = np.arange(math.floor(low), math.ceil(high)) + 0.5
    at = np.floor(centres / scale).astype(np.intp) - math.floor(old_low)
    return np.clip(at, 0, max(length - 1, 0))
