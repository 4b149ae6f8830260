"""Scores of foreground against foreground, pixel by pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from cellkit.core.errors import KindError
from cellkit.metrics.pooling import Empty, Sums, filled, ratio

__all__ = ["SCORES", "Counts", "accuracy", "count", "dice", "iou", "precision", "recall", "score", "scores"]


@dataclass(frozen=True, eq=False)
class Counts(Sums):
    """Pixels of a binary comparison; adds up over tiles and images."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    @property
    def pixels(self) -> int:
        """Number of pixels counted."""
        return self.tp + self.fp + self.fn + self.tn

    @property
    def empty(self) -> bool:
        """True where neither side holds a foreground pixel."""
        return not self.tp + self.fp + self.fn


def count(truth: np.ndarray, pred: np.ndarray) -> Counts:
    """Count the pixels of two masks or label images of one shape; a value above 0 is foreground.

    Raises `KindError` where the shapes differ.
    """
    if truth.shape != pred.shape:
        raise KindError(f"the truth has shape {truth.shape} but the prediction {pred.shape}; both must have one size")
    truth, pred = truth > 0, pred > 0
    true, found, both = (int(np.count_nonzero(a)) for a in (truth, pred, truth & pred))
    return Counts(both, found - both, true - both, truth.size - true - found + both)


def accuracy(counts: Counts, empty: Empty = "one") -> float:  # noqa: ARG001 (one signature for all)
    """Return the share of all pixels on which the two sides agree, background included; NaN for no pixel."""
    return ratio(counts.tp + counts.tn, counts.pixels, math.nan)


def precision(counts: Counts, empty: Empty = "one") -> float:
    """Return TP / (TP + FP); 0 where only the truth has foreground."""
    return _share(counts.tp, counts.tp + counts.fp, counts, empty)


def recall(counts: Counts, empty: Empty = "one") -> float:
    """Return TP / (TP + FN); 0 where only the prediction has foreground."""
    return _share(counts.tp, counts.tp + counts.fn, counts, empty)


def dice(counts: Counts, empty: Empty = "one") -> float:
    """Return 2 TP / (2 TP + FP + FN), which is F1."""
    return _share(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn, counts, empty)


def iou(counts: Counts, empty: Empty = "one") -> float:
    """Return TP / (TP + FP + FN)."""
    return _share(counts.tp, counts.tp + counts.fp + counts.fn, counts, empty)


def _share(part: Any, whole: Any, counts: Counts, empty: Empty) -> Any:
    """Return `part` / `whole`, 0 for 0 / 0; without foreground what `empty` says, and NaN without any pixel."""
    value = filled(ratio(part, whole), counts.tp + counts.fp + counts.fn, empty)
    return filled(value, counts.pixels, "skip")


SCORES = {"dice": dice, "iou": iou, "precision": precision, "recall": recall, "accuracy": accuracy}


def scores(counts: Counts, empty: Empty = "one") -> dict[str, float]:
    """Return every score of these counts by name."""
    return {name: function(counts, empty) for name, function in SCORES.items()}


def score(counts: Counts, empty: Empty = "one") -> float:
    """Return the Dice coefficient (F1) of the foreground, of all counted pixels together.

    Without foreground on either side it is what `empty` says: 1 (``one``), NaN (``skip``) or 0 (``zero``). NaN where
    no pixel was counted.
    """
    return dice(counts, empty)
