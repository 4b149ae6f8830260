"""Columns of numbers and label images as a page's script reads them: base64 of typed arrays, run-length codes."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np

from cellkit.core.errors import KindError
from cellkit.report.palette import BRIGHT, assigned, edges

__all__ = ["Objects", "label_part", "objects_of", "packed"]

_MOST_EXACT = 2**53
_INTEGERS = ("u1", "i1", "u2", "i2", "u4", "i4")


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of a label image, ascending by id, and the runs of equal pixels that they are made of.

    `ids` int64 (n,); `area` in pixels; `centroid` float64 (n, 2) and `box` int64 (n, 4), half-open, in (y, x);
    `starts`, `lengths` and `place` (m,): where in the raveled image each run begins, how long it is, and whose it is,
    0 for background, else 1 + the index into `ids`. No run goes on over the end of a row.
    """

    ids: np.ndarray
    area: np.ndarray
    centroid: np.ndarray
    box: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    place: np.ndarray

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Return the mean of `values` (y, x) over each object, float64 (n,)."""
        sums = np.add.reduceat(values.ravel(), self.starts, dtype=np.float64)
        return np.bincount(self.place, sums, len(self.ids) + 1)[1:] / np.maximum(self.area, 1)


def objects_of(labels: np.ndarray) -> Objects:
    """Return what objects there are in labels, any integers (y, x), 0 for background."""
    if labels.ndim != 2 or labels.dtype.kind not in "iu" or not labels.size:
        raise KindError(f"wanted labels, integers (y, x), got {labels.dtype} {labels.shape}")
    height, width = labels.shape
    first = np.ones(labels.shape, bool)
    np.not_equal(labels[:, 1:], labels[:, :-1], out=first[:, 1:])
    starts = np.flatnonzero(first)
    lengths = np.diff(starts, append=labels.size)
    values = labels.ravel()[starts].astype(np.int64)
    ids = np.unique(values[values > 0])
    place = np.where(values > 0, np.searchsorted(ids, values) + 1, 0)
    count = len(ids) + 1
    rows, left = np.divmod(starts, width)
    area = np.bincount(place, lengths, count)
    safe = np.maximum(area, 1)
    centroid = np.stack(
        [np.bincount(place, rows * lengths, count), np.bincount(place, lengths * (left + (lengths - 1) / 2), count)], 1
    )
    box = np.tile(np.array([height, width, 0, 0]), (count, 1))
    for column, find, ends in ((0, np.minimum, rows), (1, np.minimum, left), (2, np.maximum, rows + 1),
                               (3, np.maximum, left + lengths)):  # fmt: skip
        find.at(box[:, column], place, ends)
    return Objects(
        ids, area[1:].astype(np.int64), (centroid / safe[:, None])[1:], box[1:], starts, lengths, place
    )  # fmt: skip


def label_part(labels: np.ndarray, objects: Objects, *, alone: bool = True) -> dict[str, Any]:
    """Return labels as a page reads them: ids, a colour number for each object, and runs.

    `alone`: neighbours get different colours; of a part of a larger image colours follow the ids, so that parts agree.
    """
    colors = objects.ids % len(BRIGHT)
    if alone and len(objects.ids):
        ids, numbers = assigned(labels, edges(labels), len(BRIGHT))
        colors = np.zeros(len(objects.ids), np.int64)
        colors[np.searchsorted(objects.ids, ids)] = numbers
    height, width = labels.shape
    return {
        "w": width, "h": height, "ids": packed(objects.ids), "colors": packed(colors),
        "place": packed(objects.place), "lengths": packed(objects.lengths),
    }  # fmt: skip


def packed(values: np.ndarray) -> dict[str, Any]:
    """Return a column as {type, data}: base64 of little-endian numbers.

    Whole numbers keep every digit that JavaScript has (53 bits), others float32's, unless they lie beyond its range.
    """
    if values.dtype.kind == "b":
        values = values.astype(np.uint8)
    if values.dtype.kind in "iu":
        low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
        if max(-low, high) > _MOST_EXACT:
            raise KindError(f"numbers up to {max(-low, high)} have more digits than a browser keeps")
        fits = [t for t in _INTEGERS if np.iinfo(t).min <= low and high <= np.iinfo(t).max]
        kind = fits[0] if fits else "f8"
    else:
        finite = values[np.isfinite(values)]
        kind = "f4" if not finite.size or np.abs(finite).max() < np.finfo(np.float32).max else "f8"
    data = np.ascontiguousarray(values, f"<{kind}" if kind[1] != "1" else kind).tobytes()
    return {"type": kind, "data": base64.b64encode(data).decode("ascii")}
