"""Change the size of a layer, each kind in its own way."""

from __future__ import annotations

import math

import numpy as np

from cellkit.core import Boxes, Instances
from cellkit.grid.cover import Window

__all__ = ["nearest", "scaled_boxes", "scaled_instances"]


def nearest(
    array: np.ndarray, outer: tuple[int, int], inner: tuple[int, int], seen: Window, window: Window
) -> np.ndarray:
    """Return the pixels of `window` of an image that is `outer` large and is wanted `inner` large.

    `array` is the part `seen` of it. Each pixel takes the value under its centre, so no new value arises.
    """
    rows, columns = (_under_centre(inner[i], outer[i], window[i], window[i + 2]) - seen[i] for i in (0, 1))
    return np.ascontiguousarray(np.take(np.take(array, rows, axis=0), columns, axis=1))


def _under_centre(wanted: int, given: int, start: int, stop: int) -> np.ndarray:
    return (2 * np.arange(start, stop) + 1) * given // (2 * wanted)


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
