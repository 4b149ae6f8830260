"""Local maxima of a field: a compiled kernel."""

from __future__ import annotations

import numba as nb
import numpy as np

from cellkit.core.compile import kernel

FIELD = nb.types.Array(nb.float32, 2, "C", readonly=True)


@kernel(nb.int32[:, ::1](FIELD, FIELD, nb.int64, nb.float32))
def window_maxima(field, top, distance, threshold):
    """Return the pixels above `threshold` that equal `top`, numbered, unless another such lies shortly before.

    `top` is the largest value within `distance` rows and columns, so two candidates that near are equally high, and
    the later in raster order is left out.
    """
    height, width = field.shape
    out = np.zeros((height, width), np.int32)
    latest = np.full(width, -distance - 1, np.int64)
    count = 0
    for y in range(height):
        for x in range(width):
            if field[y, x] != top[y, x] or not field[y, x] > threshold:
                continue
            alone = True
            for near in range(max(x - distance, 0), min(x + distance + 1, width)):
                if latest[near] >= y - distance:
                    alone = False
                    break
            latest[x] = y
            if alone:
                count += 1
                out[y, x] = count
    return out
