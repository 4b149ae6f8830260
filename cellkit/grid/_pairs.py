"""Which boxes of two lists overlap: a compiled kernel."""

from __future__ import annotations

import numba as nb
import numpy as np

from cellkit.core.compile import kernel

_BOXES = nb.types.Array(nb.float32, 2, "C", readonly=True)
_CLASSES = nb.types.Array(nb.int64, 1, "C", readonly=True)


@kernel(nb.types.UniTuple(nb.int64[::1], 2)(_BOXES, _CLASSES, _BOXES, _CLASSES))
def overlapping(one, class_one, two, class_two):
    """Return the places (i in `one`, j in `two`) of all boxes of one class that share some area, by rising i."""
    # Sweep along the axis on which the boxes lie farther apart: sorted by where they begin, those that can meet a box
    # begin before it ends and no earlier than the longest one could and still reach it.
    axis, spread = 0, np.float32(-1)
    for a in range(2):
        if len(two) and two[:, a].max() - two[:, a].min() > spread:
            axis, spread = a, two[:, a].max() - two[:, a].min()
    order = np.argsort(two[:, axis])
    begins = two[:, axis][order]
    longest = np.float32(0)
    for j in range(len(two)):
        longest = max(longest, two[j, axis + 2] - two[j, axis])
    found_i, found_j = np.empty(64, np.int64), np.empty(64, np.int64)
    count = 0
    for i in range(len(one)):
        at = np.searchsorted(begins, one[i, axis] - longest - 1)  # 1: room for rounding
        while at < len(two) and begins[at] < one[i, axis + 2]:
            j = order[at]
            at += 1
            width = min(one[i, 2], two[j, 2]) - max(one[i, 0], two[j, 0])
            height = min(one[i, 3], two[j, 3]) - max(one[i, 1], two[j, 1])
            if width <= 0 or height <= 0 or class_one[i] != class_two[j]:
                continue
            if count == len(found_i):
                found_i = np.concatenate((found_i, np.empty(count, np.int64)))
                found_j = np.concatenate((found_j, np.empty(count, np.int64)))
            found_i[count], found_j[count] = i, j
            count += 1
    return found_i[:count].copy(), found_j[:count].copy()
