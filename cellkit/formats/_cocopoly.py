"""Rasterise polygons as pycocotools does: at five times the resolution, then down the columns.

Source: rleFrPoly in maskApi.c of pycocotools.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellkit.core.errors import FormatError
from cellkit.formats._runs import Runs, merged

__all__ = ["rasterise"]

_SCALE = 5.0
_AT_ONCE = 2**21
_MOST_POINTS = 2**22
_MOST_IN_ALL = 2**28


def rasterise(polygons: Sequence[np.ndarray], owner: np.ndarray, size: tuple[int, int], names: Sequence[str]) -> Runs:
    """Return the pixels of polygons, each float64 (k, 2) as x, y; those of one owner are joined.

    `names` say in messages whose polygon it is. Raises `FormatError` for outlines too long to be of an image.
    """
    if not polygons:
        return merged(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))
    # C casts towards zero, and so does astype.
    corners = [(_SCALE * polygon + 0.5).astype(np.int64) for polygon in polygons]
    steps = [np.abs(np.roll(c, -1, axis=0) - c).max(axis=1) + 1 for c in corners]
    points = np.array([int(s.sum()) for s in steps])
    if points.max() > _MOST_POINTS or points.sum() > _MOST_IN_ALL:
        raise FormatError(f"{names[int(owner[int(points.argmax())])]}: the polygon reaches far beyond any image")
    found, first, total = [], 0, 0
    for i in range(len(polygons) + 1):
        if i == len(polygons) or (total and total + points[i] > _AT_ONCE):
            found.append(_toggles(corners[first:i], np.arange(first, i), size))
            first, total = i, 0
        total += points[i] if i < len(polygons) else 0
    position, polygon = (np.concatenate([f[k] for f in found]) for k in (0, 1))
    order = np.lexsort((position, polygon))
    position, polygon = position[order], polygon[order]
    # Every point switches between outside and inside; the end of the image closes what is left open.
    odd = np.bincount(polygon, minlength=len(polygons)) % 2
    last = np.flatnonzero(odd)
    where = np.searchsorted(polygon, last, "right")
    position = np.insert(position, where, size[0] * size[1])
    polygon = np.insert(polygon, where, last)
    return merged(position[0::2], position[1::2], owner[polygon[0::2]])


def _toggles(corners: list[np.ndarray], number: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return where, down the columns, each polygon's outline is crossed, and the polygon's number."""
    height, width = size
    sizes = np.array([len(c) for c in corners])
    begin = np.concatenate(corners)
    end = np.concatenate([np.roll(c, -1, axis=0) for c in corners])
    across = np.abs(end - begin)
    flat = across[:, 0] >= across[:, 1]
    flip = np.where(flat, begin[:, 0] > end[:, 0], begin[:, 1] > end[:, 1])[:, None]
    low, high = np.where(flip, end, begin), np.where(flip, begin, end)
    length = across.max(axis=1)
    main = np.where(flat, 0, 1)
    rows = np.arange(len(begin))
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (high - low)[rows, 1 - main] / length
    slope[length == 0] = 0.0  # a point: C has 0 / 0 here, which no later line looks at
    edge = np.repeat(rows, length + 1)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(length + 1) - (length + 1), length + 1)
    step = np.where(flip[edge, 0], length[edge] - step, step)
    along = low[edge, main[edge]] + step
    beside = (low[edge, 1 - main[edge]] + slope[edge] * step + 0.5).astype(np.int64)
    u, v = np.where(flat[edge], along, beside), np.where(flat[edge], beside, along)
    polygon = np.repeat(np.arange(len(corners)), sizes)[edge]
    turned = np.flatnonzero((u[1:] != u[:-1]) & (polygon[1:] == polygon[:-1])) + 1
    x = (np.where(u[turned] < u[turned - 1], u[turned], u[turned] - 1) + 0.5) / _SCALE - 0.5
    y = (np.minimum(v[turned], v[turned - 1]) + 0.5) / _SCALE - 0.5
    kept = (np.floor(x) == x) & (x >= 0) & (x <= width - 1)
    x, y = x[kept].astype(np.int64), np.ceil(np.clip(y[kept], 0, height)).astype(np.int64)
    return x * height + y, number[polygon[turned][kept]]
