"""Scores of classes against classes, pixel by pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cellkit.core.errors import KindError
from cellkit.metrics.contingency import contingency
from cellkit.metrics.pooling import Empty, ratio

__all__ = [
    "MOST_CLASSES",
    "Confusion",
    "accuracy",
    "areas",
    "class_dice",
    "class_iou",
    "class_precision",
    "class_recall",
    "count",
    "iou",
    "mean_iou",
    "score",
]

MOST_CLASSES = 256
"""Classes are uint8: a larger value means that the image holds something else."""


@dataclass(frozen=True, eq=False)
class Confusion:
    """Pixels by true class (rows) and predicted class (columns); adds up over tiles and images.

    `classes`: the values that occur in the truth or in the prediction, ascending. `matrix`: int64 (n, n).
    """

    classes: tuple[int, ...] = ()
    matrix: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int64))

    @property
    def pixels(self) -> int:
        """Number of pixels counted."""
        return int(self.matrix.sum())

    def __add__(self, other: Confusion) -> Confusion:
        classes = sorted({*self.classes, *other.classes})
        matrix = np.zeros((len(classes), len(classes)), np.int64)
        for part in (self, other):
            at = np.searchsorted(classes, part.classes)
            matrix[np.ix_(at, at)] += part.matrix
        return Confusion(tuple(classes), matrix)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Confusion):
            return NotImplemented
        return self.classes == other.classes and np.array_equal(self.matrix, other.matrix)


def count(truth: np.ndarray, pred: np.ndarray) -> Confusion:
    """Count one pair of class images of one shape; every value, 0 too, is a class.

    Raises `KindError` where shapes differ, a dtype is not whole numbers, or a value lies outside 0 to 255.
    """
    table = contingency(truth, pred)
    for ids, side in ((table.truth_ids, "truth"), (table.pred_ids, "prediction")):
        if len(ids) and ids[-1] >= MOST_CLASSES:
            raise KindError(
                f"{side}: classes lie in 0 to {MOST_CLASSES - 1}, found {ids[-1]}; object ids are scored as dsb2018"
            )
    classes = np.union1d(table.truth_ids, table.pred_ids).astype(np.int64)
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    rows, columns = np.searchsorted(classes, table.truth_ids), np.searchsorted(classes, table.pred_ids)
    matrix[np.ix_(rows, columns)] = table.dense()
    return Confusion(tuple(classes.tolist()), matrix)


def iou(hits: np.ndarray, true: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return hits / (true + found - hits) of each class, float64 (n,); NaN where both areas are 0."""
    union = np.asarray(true, np.float64) + found - hits
    return np.divide(hits, union, out=np.full(len(union), np.nan), where=union > 0)


def areas(counts: Confusion, classes: Sequence[int] = ()) -> np.ndarray:
    """Return int64 (3, n): pixels of each class that are right, true and predicted.

    `classes`: which, in order; by default those that occur. A class that does not occur has three zeros.
    """
    matrix = counts.matrix
    here = np.stack([np.diagonal(matrix), matrix.sum(axis=1), matrix.sum(axis=0)])
    place = {value: at for at, value in enumerate(counts.classes)}
    wanted = np.zeros((3, len(classes or counts.classes)), np.int64)
    for column, value in enumerate(classes or counts.classes):
        if value in place:
            wanted[:, column] = here[:, place[value]]
    return wanted


def class_iou(counts: Confusion, classes: Sequence[int] = ()) -> np.ndarray:
    """Return the IoU of each class, float64 (n,), as in `areas`; NaN where a class occurs on neither side."""
    return iou(*areas(counts, classes))


def class_dice(counts: Confusion, classes: Sequence[int] = ()) -> np.ndarray:
    """Return 2 TP / (2 TP + FP + FN), which is F1, of each class, as `class_iou` does."""
    hits, true, found = areas(counts, classes)
    return ratio(2 * hits, true + found, math.nan)


def class_precision(counts: Confusion, classes: Sequence[int] = ()) -> np.ndarray:
    """Return TP / (TP + FP) of each class; 0 for one never predicted, NaN for one that occurs on neither side."""
    hits, true, found = areas(counts, classes)
    return np.where(true + found > 0, ratio(hits, found), math.nan)


def class_recall(counts: Confusion, classes: Sequence[int] = ()) -> np.ndarray:
    """Return TP / (TP + FN) of each class; 0 for one never true, NaN for one that occurs on neither side."""
    hits, true, found = areas(counts, classes)
    return np.where(true + found > 0, ratio(hits, true), math.nan)


def accuracy(counts: Confusion) -> float:
    """Return the share of pixels whose class is right; NaN for no pixel."""
    return float(np.trace(counts.matrix) / counts.pixels) if counts.pixels else math.nan


def score(counts: Confusion, classes: Sequence[int] = (), absent: Empty = "skip") -> float:
    """Return the mean IoU over classes, each with the same weight; NaN where none counts.

    `classes`: those to average over; by default every value that occurs in the truth or in the prediction of what was
    counted (add all images up first: then these are the classes of the data set). A class that is predicted but never
    true has IoU 0. A class that occurs on neither side counts as `absent` says: 1 (``one``), not at all (``skip``) or
    0 (``zero``).
    """
    return mean_iou(class_iou(counts, classes), absent)


def mean_iou(ious: np.ndarray, absent: Empty) -> float:
    """Return the mean of the IoUs of classes, in which NaN stands for a class that occurs on neither side."""
    there = ious[~np.isnan(ious)]
    counted = len(there) if absent == "skip" else len(ious)
    agreed = len(ious) - len(there) if absent == "one" else 0
    return (math.fsum(there) + agreed) / counted if counted else math.nan
