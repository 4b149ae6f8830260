"""Hausdorff distances between objects, by distance transform, one pair of boxes at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cellkit.core.errors import KindError
from cellkit.metrics.contingency import renumbered

__all__ = ["Objects", "between", "distance", "nearest", "objects"]

# Distances squared are whole numbers. OpenCV's single precision tells them apart up to here, scipy is exact always.
_SINGLE_PRECISION = 1024


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of a label image (y, x): `ids` (n,), ascending, and `boxes` int64 (n, 4), half-open.

    A box is top, left, bottom, right.
    """

    labels: np.ndarray
    ids: np.ndarray
    boxes: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def mask(self, i: int) -> np.ndarray:
        """Return the pixels of the i-th object in its box, bool."""
        top, left, bottom, right = self.boxes[i]
        return self.labels[top:bottom, left:right] == self.ids[i]


def objects(labels: np.ndarray) -> Objects:
    """Find the objects of a label image, whole numbers (y, x), and their boxes; 0 is background."""
    if labels.ndim != 2 or labels.dtype.kind not in "bui":
        raise KindError(f"wanted labels (whole numbers) with axes (y, x), got {labels.dtype} {labels.shape}")
    labels = labels.view(np.uint8) if labels.dtype == bool else labels
    if not labels.size:
        return Objects(labels, np.zeros(0, labels.dtype), np.zeros((0, 4), np.int64))
    width = labels.shape[1]
    flat = np.ascontiguousarray(labels).ravel()
    change = np.empty(flat.shape, bool)
    np.not_equal(flat[1:], flat[:-1], out=change[1:])
    change[::width] = True
    starts = np.flatnonzero(change)
    ends = np.append(starts[1:], flat.size)
    kept = flat[starts] != 0
    starts, ends = starts[kept], ends[kept]
    ids, place = renumbered(flat[starts])
    rows, left = np.divmod(starts, width)
    low = np.full((2, len(ids)), flat.size, np.int64)
    high = np.zeros((2, len(ids)), np.int64)
    for at, (lower, upper) in enumerate(((rows, rows + 1), (left, left + ends - starts))):
        np.minimum.at(low[at], place, lower)
        np.maximum.at(high[at], place, upper)
    return Objects(labels, ids.astype(labels.dtype), np.stack([low[0], low[1], high[0], high[1]], axis=1))


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the Hausdorff distance, px, between all pixels of two masks of one shape.

    The larger of the two largest distances from a pixel of one to the nearest of the other. 0 where both are empty,
    infinite where one is. Raises `KindError` where the shapes differ.
    """
    if one.shape != other.shape:
        raise KindError(f"the masks have shapes {one.shape} and {other.shape}; both must have one size")
    first, second = objects(one != 0), objects(other != 0)
    if not len(first) or not len(second):
        return 0.0 if len(first) == len(second) else math.inf
    return between(first, 0, second, 0)


def between(truth: Objects, i: int, pred: Objects, j: int) -> float:
    """Return the Hausdorff distance, px, between the i-th object of one image and the j-th of the other."""
    a, b = truth.boxes[i], pred.boxes[j]
    one, other = truth.mask(i), pred.mask(j)
    # Objects that one straight line along an axis keeps apart need no image: seen from the other, only the nearest
    # pixel of each row or column can be nearest, and only the farthest one farthest.
    for axis in (0, 1):
        if a[axis + 2] <= b[axis] or b[axis + 2] <= a[axis]:
            return _apart(one, a, other, b, axis)
    top, left = min(a[0], b[0]), min(a[1], b[1])
    shape = (max(a[2], b[2]) - top, max(a[3], b[3]) - left)
    masks = []
    for mask, box in ((one, a), (other, b)):
        full = np.zeros(shape, bool)
        full[box[0] - top : box[2] - top, box[1] - left : box[3] - left] = mask
        masks.append(full)
    return math.sqrt(max(_farthest(masks[0], masks[1]), _farthest(masks[1], masks[0])))


def nearest(one: Objects, i: int, others: Objects) -> float:
    """Return the smallest Hausdorff distance from the i-th object of one image to any object of the other.

    Infinite where there is none. Boxes whose sides lie farther apart than the best so far are not looked at.
    """
    # No distance is smaller than that between the same sides of the two boxes.
    least = np.abs(others.boxes - one.boxes[i]).max(axis=1, initial=0)
    best = math.inf
    for j in np.argsort(least, kind="stable").tolist():
        if least[j] >= best:
            break
        best = min(best, between(one, i, others, j))
    return best


def _farthest(mask: np.ndarray, other: np.ndarray) -> int:
    """Return the largest squared distance from a pixel of `mask` to the nearest of `other`, one frame (y, x)."""
    outside = mask & ~other
    if not outside.any():
        return 0
    if max(mask.shape) <= _SINGLE_PRECISION:
        import cv2

        away = cv2.distanceTransform((~other).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    else:
        from scipy import ndimage

        away = ndimage.distance_transform_edt(~other)
    return round(float(away[outside].max()) ** 2)


def _apart(one: np.ndarray, a: np.ndarray, other: np.ndarray, b: np.ndarray, axis: int) -> float:
    """Return the distance of two masks in boxes that do not overlap along `axis`."""
    if axis == 0:
        one, a, other, b = one.T, a[[1, 0, 3, 2]], other.T, b[[1, 0, 3, 2]]
    # `one` on the left, so that its right side is the near one.
    if a[1] > b[1]:
        one, a, other, b = other, b, one, a
    rows_a, far_a, near_a = _profile(one, a)
    rows_b, near_b, far_b = _profile(other, b)
    there = _squared(rows_a, far_a, rows_b, near_b).min(axis=1).max()
    back = _squared(rows_b, far_b, rows_a, near_a).min(axis=1).max()
    return math.sqrt(max(int(there), int(back)))


def _profile(mask: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows in which a mask has pixels and their first and last column, in the frame of the image."""
    rows = np.flatnonzero(mask.any(axis=1))
    first = mask[rows].argmax(axis=1)
    last = mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1)
    return rows + box[0], first + box[1], last + box[1]


def _squared(rows: np.ndarray, columns: np.ndarray, to_rows: np.ndarray, to_columns: np.ndarray) -> np.ndarray:
    return (rows[:, None] - to_rows) ** 2 + (columns[:, None] - to_columns) ** 2
