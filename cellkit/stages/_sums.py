"""Sums over objects, whichever kind they come in: what `measure` turns into numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cellkit.core.errors import KindError
from cellkit.core.kinds import Boxes, Instances
from cellkit.stages._moments import (
    AREA,
    COLUMNS,
    LEAST,
    MOST,
    RUNS,
    SPREAD,
    X0,
    X1,
    Y0,
    Y1,
    accumulate,
    accumulate_boxes,
    renumber,
)
from cellkit.stages._outline import border_counts, find_runs, hull_areas

__all__ = ["DENSE", "SPREAD", "Sums", "Wanted", "compact", "label_ids", "sum_boxes", "sum_instances", "sum_labels"]

# Up to here a table has a row for every id, those that do not occur among them.
DENSE = 1 << 20


@dataclass(frozen=True)
class Wanted:
    """What to sum up; `values` is how many values per object and channel: 0, 1 (the sum) or SPREAD."""

    moments: bool
    border: bool
    hull: bool
    values: int


@dataclass(frozen=True)
class Sums:
    """One row per object: see `_moments` and `_outline`. What was not wanted is zero or has no channels."""

    table: np.ndarray
    values: np.ndarray
    border: np.ndarray
    hull: np.ndarray


def label_ids(labels: np.ndarray) -> np.ndarray:
    """Return the ids that occur, ascending, int32; from the starts of runs, of which there are few."""
    starts = np.unique(np.concatenate([labels[:, 0], labels[:, 1:][labels[:, 1:] != labels[:, :-1]]]))
    return starts[starts > 0]


def compact(labels: np.ndarray, dense: int = DENSE) -> tuple[np.ndarray, np.ndarray | None]:
    """Return labels that do not exceed `dense` where possible, and the ids that they stand for, from 1 on.

    The ids are None where the labels are returned as they are.
    """
    if labels.max(initial=0) <= dense:
        return labels, None
    ids = label_ids(labels)
    out = np.empty(labels.shape, np.int32)
    renumber(labels, ids, out)
    return out, ids


def sum_labels(labels: np.ndarray, raw: np.ndarray, wanted: Wanted) -> tuple[np.ndarray, Sums]:
    """Sum up every object of a label image; returns the ids, ascending int64, too."""
    labels, ids = compact(labels)
    rows = int(labels.max(initial=0)) + 1
    table, values = np.zeros((rows, COLUMNS)), _values(rows, raw, wanted)
    accumulate(labels, raw, 0, 0, wanted.moments, table, values)
    border, hull = np.zeros((rows, 4), np.int64), np.zeros(rows)
    if wanted.border:
        border_counts(labels, border)
    if wanted.hull:
        hull = _hulls(labels, table[:, RUNS])
    there = np.flatnonzero(table[:, RUNS])
    sums = Sums(table[there], values[there], border[there], hull[there])
    return (there if ids is None else ids[there - 1]).astype(np.int64), sums


def sum_instances(instances: Instances, raw: np.ndarray, wanted: Wanted) -> Sums:
    """Sum up the pixels of every mask, those beyond the image left out.

    Raises `KindError` where a mask does not have the shape of its box, or a box is not finite.
    """
    count, (height, width) = len(instances), raw.shape[:2]
    corners = _rounded(instances.boxes)
    # Masks may overlap, so each is a label image of its own: label 1 and the two rows that end with the object's.
    table, values = np.zeros((count + 1, COLUMNS)), _values(count + 1, raw, wanted)
    border, hull = np.zeros((count + 1, 4), np.int64), np.zeros(count + 1)
    for i, ((y0, x0, y1, x1), mask) in enumerate(zip(corners.tolist(), instances.masks, strict=True)):
        if mask.shape != (y1 - y0, x1 - x0):
            raise KindError(
                f"instance {i + 1}: wanted a mask of shape {(y1 - y0, x1 - x0)}, its box rounded outwards, "
                f"got {mask.shape}"
            )
        inside = mask[max(0, -y0) : max(0, height - y0), max(0, -x0) : max(0, width - x0)]
        label = inside.astype(np.int32, order="C")
        top, left, rows = min(max(0, y0), height), min(max(0, x0), width), slice(i, i + 2)
        accumulate(label, raw, top, left, wanted.moments, table[rows], values[rows])
        if not table[i + 1, AREA]:
            table[i + 1, [Y0, Y1]], table[i + 1, [X0, X1]] = top, left
        elif wanted.border:
            border_counts(label, border[rows])
        if wanted.hull:
            hull[i + 1] = _hulls(label, table[rows, RUNS])[1]
    return Sums(table[1:], values[1:], border[1:], hull[1:])


def sum_boxes(boxes: Boxes, raw: np.ndarray, wanted: Wanted) -> tuple[np.ndarray, np.ndarray]:
    """Sum up the pixels of the image that each box, rounded outwards, covers: how many, and their values.

    Raises `KindError` where a box is not finite.
    """
    limits = np.array([raw.shape[0], raw.shape[1]] * 2)
    inside = np.clip(_rounded(boxes), 0, limits)
    counts = np.prod(np.maximum(inside[:, 2:] - inside[:, :2], 0), axis=1)
    values = _values(len(boxes), raw, wanted)
    accumulate_boxes(inside, raw, values)
    return counts, values


def _rounded(boxes: Boxes) -> np.ndarray:
    """Return (y0, x0, y1, x1) of every box, rounded outwards; int64 (n, 4)."""
    bad = np.flatnonzero(~np.isfinite(boxes.xyxy).all(axis=1))
    if len(bad):
        raise KindError(f"box {bad[0] + 1}: wanted finite coordinates, got {boxes.xyxy[bad[0]].tolist()}")
    xyxy = np.clip(boxes.xyxy.astype(np.float64), -(2**31), 2**31)
    lows, highs = np.floor(xyxy[:, :2]), np.ceil(xyxy[:, 2:])
    return np.ascontiguousarray(np.concatenate([lows[:, ::-1], highs[:, ::-1]], axis=1), np.int64)


def _hulls(labels: np.ndarray, run_counts: np.ndarray) -> np.ndarray:
    """Return the area of every label's convex hull, given how many runs it has at most."""
    room = run_counts.astype(np.int64)
    end = np.cumsum(room)
    begin = end - room
    runs, cursor, areas = np.empty((int(room.sum()), 3), np.int32), begin.copy(), np.empty(len(room))
    find_runs(labels, cursor, runs)
    hull_areas(runs, begin, cursor, areas)
    return areas


def _values(rows: int, raw: np.ndarray, wanted: Wanted) -> np.ndarray:
    """Return the table of intensities to add to."""
    values = np.zeros((rows, raw.shape[2] if wanted.values else 0, max(1, wanted.values)))
    if wanted.values == SPREAD:
        values[..., LEAST], values[..., MOST] = np.inf, -np.inf
    return values
