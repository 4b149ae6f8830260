"""Look the ids of labels up: compiled kernels."""

from __future__ import annotations

import numba as nb
import numpy as np

from cellkit.core.compile import kernel

_CHOICE = nb.types.Array(nb.boolean, 1, "C", readonly=True)
_LABELS = nb.types.Array(nb.int32, 2, "C", readonly=True)


@kernel(nb.int64[::1](_LABELS, nb.int64))
def areas(labels, most):
    """Return the number of pixels of every id from 0 to `most`; ids below 1 are background and count nothing."""
    count = np.zeros(most + 1, np.int64)
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            if labels[y, x] > 0:
                count[labels[y, x]] += 1
    return count


@kernel(nb.int32[:, ::1](_LABELS, _CHOICE))
def keep(labels, chosen):
    """Return the labels with every id that is not chosen set to 0."""
    height, width = labels.shape
    result = np.zeros((height, width), np.int32)
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label > 0 and chosen[label]:
                result[y, x] = label
    return result
