"""The objects of one image in two lists of boxes, paired by how they overlap."""

from __future__ import annotations

import numpy as np

from cellkit.metrics import changes
from cellkit.metrics.changes import Changes
from cellkit.metrics.instance import Overlaps

__all__ = ["compare_boxes"]


def compare_boxes(before: np.ndarray, after: np.ndarray, limit: float) -> tuple[Changes, np.ndarray, np.ndarray]:
    """Return what became of every box, and the places of each pair of boxes that overlap, intp (k,) each.

    `before`, `after`: xyxy half-open, (n, 4) and (m, 4), of any class; `limit`: see `changes.find`.
    """
    from cellkit.grid._pairs import overlapping

    one, two = (np.ascontiguousarray(side, np.float32).reshape(-1, 4) for side in (before, after))
    classes = (np.zeros(len(one), np.int64), np.zeros(len(two), np.int64))
    i, j = overlapping(one, classes[0], two, classes[1])
    a, b = (np.asarray(side, np.float64).reshape(-1, 4) for side in (before, after))
    areas = [((side[:, 2] - side[:, 0]) * (side[:, 3] - side[:, 1])) for side in (a, b)]
    low, high = np.maximum(a[i, :2], b[j, :2]), np.minimum(a[i, 2:], b[j, 2:])
    inner = np.clip(high - low, 0, None).prod(axis=1)
    there = inner > 0
    i, j, inner = i[there], j[there], inner[there]
    union = areas[0][i] + areas[1][j] - inner
    # Equal boxes are the same whatever rounding makes of their areas.
    inner = np.where((a[i] == b[j]).all(axis=1), union, np.minimum(inner, union * (1 - 1e-12)))
    found = Overlaps(areas[0], areas[1], i, j, inner, union)
    return changes.find(found, limit), i, j
