"""Objects matched one to one: precision, recall, F1, accuracy, PQ and mean matched IoU at any threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from cellkit.core.errors import UsageError
from cellkit.metrics.assignment import best_pairs
from cellkit.metrics.contingency import Contingency, contingency
from cellkit.metrics.instance import Overlaps, overlaps
from cellkit.metrics.pooling import Empty, Sums, filled, ratio

__all__ = [
    "THRESHOLDS",
    "Counts",
    "accuracy",
    "count",
    "count_overlaps",
    "count_table",
    "f1",
    "match",
    "mean_matched_iou",
    "mean_true_iou",
    "panoptic_quality",
    "precision",
    "recall",
    "score",
    "segmentation_quality",
]

THRESHOLDS: tuple[float, ...] = tuple(t / 100 for t in range(50, 100, 5))
"""IoU thresholds 0.50, 0.55 ... 0.95."""


@dataclass(frozen=True, eq=False)
class Counts(Sums):
    """What the scores of matched objects need; adds up over images (over tiles, add tables instead).

    `thresholds`: IoU thresholds, and `strict` whether it must be exceeded. For each, `hits`: matched pairs (true
    positives), int64 (t,), `matched_iou`: the sum of their IoU, float64 (t,). `truths`, `preds`: objects.
    """

    thresholds: tuple[float, ...] = field(default=THRESHOLDS, metadata={"fixed": True})
    strict: bool = field(default=False, metadata={"fixed": True})
    hits: np.ndarray = field(default_factory=lambda: np.zeros(len(THRESHOLDS), np.int64))
    matched_iou: np.ndarray = field(default_factory=lambda: np.zeros(len(THRESHOLDS)))
    truths: int = 0
    preds: int = 0

    @property
    def objects(self) -> np.ndarray:
        """Objects on both sides, int64 (1,), or (n, 1) for counts of n images."""
        return np.asarray(self.truths + self.preds)[..., None]


def match(found: Overlaps, threshold: float, *, strict: bool = False) -> np.ndarray:
    """Return which overlapping pairs are matched, bool (k,): one to one, IoU at least (`strict`: above) `threshold`.

    As many pairs as can be, and of those choices the one with the largest sum of the IoU of all pairs, counting with
    a smaller weight pairs below the threshold too: the assignment of StarDist and Cellpose. Thresholds are taken as
    the decimal number they are written as and compared in whole numbers. Raises `UsageError` for one outside (0, 1].
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"an IoU threshold lies above 0 and is at most 1, got {threshold!r}")
    exact = Fraction(str(float(threshold))).limit_denominator(1_000_000)
    part, whole = exact.denominator * found.intersection, exact.numerator * found.union
    reached = part > whole if strict else part >= whole
    if exact < Fraction(1, 2):
        iou = found.intersection / found.union
        fewer = max(1, min(len(found.truth_areas), len(found.pred_areas)))
        return reached & best_pairs(found.truth, found.pred, reached + iou / (2 * fewer))
    if exact == Fraction(1, 2) and not strict:
        # More than one partner is possible only for an object that two others halve exactly: either one will do.
        for side in (found.truth, found.pred):
            at = np.flatnonzero(reached)
            reached = np.zeros_like(reached)
            reached[at[np.unique(side[at], return_index=True)[1]]] = True
    return reached


def count(
    truth: np.ndarray, pred: np.ndarray, *, thresholds: Sequence[float] = THRESHOLDS, strict: bool = False
) -> Counts:
    """Match the objects of one image pair at every threshold.

    `truth`, `pred`: labels of one shape, whole numbers, 0 background. Raises `KindError` where they are none.
    """
    return count_table(contingency(truth, pred), thresholds=thresholds, strict=strict)


def count_table(table: Contingency, *, thresholds: Sequence[float] = THRESHOLDS, strict: bool = False) -> Counts:
    """Match the objects of one image pair given as a table, for instance added up over tiles."""
    return count_overlaps(overlaps(table), thresholds=thresholds, strict=strict)


def count_overlaps(found: Overlaps, *, thresholds: Sequence[float] = THRESHOLDS, strict: bool = False) -> Counts:
    """Match the objects of one image pair given by their overlaps."""
    iou = found.intersection / found.union
    matched = [match(found, t, strict=strict) for t in thresholds]
    hits = np.array([np.count_nonzero(m) for m in matched], np.int64)
    sums = np.array([iou[m].sum() for m in matched], np.float64)
    return Counts(tuple(thresholds), strict, hits, sums, len(found.truth_areas), len(found.pred_areas))


def precision(counts: Counts, empty: Empty = "one") -> np.ndarray:
    """Return TP / (TP + FP) at each threshold; 0 where there are true objects only."""
    return filled(ratio(counts.hits, np.asarray(counts.preds)[..., None]), counts.objects, empty)


def recall(counts: Counts, empty: Empty = "one") -> np.ndarray:
    """Return TP / (TP + FN) at each threshold; 0 where there are predicted objects only."""
    return filled(ratio(counts.hits, np.asarray(counts.truths)[..., None]), counts.objects, empty)


def f1(counts: Counts, empty: Empty = "one") -> np.ndarray:
    """Return 2 TP / (2 TP + FP + FN) at each threshold."""
    return filled(ratio(2 * counts.hits, counts.objects), counts.objects, empty)


def accuracy(counts: Counts, empty: Empty = "one") -> np.ndarray:
    """Return TP / (TP + FP + FN) at each threshold: StarDist's accuracy, which Cellpose calls average precision."""
    return filled(ratio(counts.hits, counts.objects - counts.hits), counts.objects, empty)


def mean_matched_iou(counts: Counts, empty: Empty = "one") -> np.ndarray:
    """Return the mean IoU of matched pairs at each threshold; 0 where none is matched."""
    return filled(ratio(counts.matched_iou, counts.hits), counts.objects, empty)


def mean_true_iou(counts: Counts, empty: Empty = "one") -> np.ndarray:
    """Return the IoU of matched pairs, summed, over the number of true objects, at each threshold."""
    return filled(ratio(counts.matched_iou, np.asarray(counts.truths)[..., None]), counts.objects, empty)


def panoptic_quality(counts: Counts, empty: Empty = "one") -> np.ndarray:
    """Return the IoU of matched pairs, summed, over TP + FP / 2 + FN / 2, at each threshold.

    With ``strict=True`` and the threshold 0.5 this is PQ, of one class: A. Kirillov et al., "Panoptic segmentation",
    CVPR 2019.
    """
    return filled(ratio(2 * counts.matched_iou, counts.objects), counts.objects, empty)


segmentation_quality = mean_matched_iou
"""SQ of Kirillov et al.; their recognition quality RQ is `f1`."""


def score(counts: Counts, empty: Empty = "one") -> float:
    """Return the accuracy, averaged over the thresholds: mean AP in Cellpose's words.

    Source: StarDist, ``matching(criterion="iou")``; Cellpose, ``average_precision``.
    """
    return accuracy(counts, empty).mean(axis=-1)[()]
