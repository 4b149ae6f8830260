"""Scores of objects against objects: the score of the Data Science Bowl 2018."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cellkit.metrics.contingency import Contingency, contingency
from cellkit.metrics.pooling import Empty, mean_of_images

__all__ = ["THRESHOLDS", "Counts", "Overlaps", "count", "count_table", "image_score", "overlaps", "score"]

THRESHOLDS: tuple[int, ...] = tuple(range(50, 100, 5))
"""IoU thresholds of the Data Science Bowl 2018, in percent: whole numbers, so that exact cases stay exact."""


class Overlaps(NamedTuple):
    """The objects of one image pair, background left out, and every pair of them that shares a pixel.

    `truth_areas` (n,) and `pred_areas` (m,): pixels of each object. `truth`, `pred`: the k pairs, as places in those
    two. `intersection`, `union` (k,): pixels. All int64 or intp.
    """

    truth_areas: np.ndarray
    pred_areas: np.ndarray
    truth: np.ndarray
    pred: np.ndarray
    intersection: np.ndarray
    union: np.ndarray


@dataclass(frozen=True)
class Counts:
    """What the score needs of any number of images; adds up over them.

    `values`: the score of each image that holds an object, in the truth or in the prediction. `both_empty`: images
    without any object. `one_empty`: images with objects on one side only (they score 0). `hits`: true positives at
    each of `THRESHOLDS`, of all images together. `truths`, `preds`: objects.
    """

    values: tuple[float, ...] = ()
    both_empty: int = 0
    one_empty: int = 0
    hits: tuple[int, ...] = (0,) * len(THRESHOLDS)
    truths: int = 0
    preds: int = 0

    @property
    def images(self) -> int:
        """Number of images counted."""
        return len(self.values) + self.both_empty

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.values + other.values,
            self.both_empty + other.both_empty,
            self.one_empty + other.one_empty,
            tuple(a + b for a, b in zip(self.hits, other.hits, strict=True)),
            self.truths + other.truths,
            self.preds + other.preds,
        )


def overlaps(table: Contingency) -> Overlaps:
    """Return the objects of a table and the pairs of them that overlap."""
    truth_areas, pred_areas = table.truth_areas, table.pred_areas
    first_truth, first_pred = int(0 in table.truth_ids[:1]), int(0 in table.pred_ids[:1])
    inside = (table.truth >= first_truth) & (table.pred >= first_pred)
    truth, pred, shared = table.truth[inside], table.pred[inside], table.pixels[inside]
    union = truth_areas[truth] + pred_areas[pred] - shared
    return Overlaps(
        truth_areas[first_truth:], pred_areas[first_pred:], truth - first_truth, pred - first_pred, shared, union
    )


def count(truth: np.ndarray, pred: np.ndarray) -> Counts:
    """Count one image pair for the score of the Data Science Bowl 2018.

    `truth`, `pred`: labels of one shape, whole numbers, 0 background; ids need not be consecutive, and objects need
    not be connected. Raises `KindError` where shapes differ, a dtype is not whole numbers or an id is negative.
    """
    return count_table(contingency(truth, pred))


def count_table(table: Contingency) -> Counts:
    """Count one image pair given as a table, for instance added up over the tiles of a large image."""
    found = overlaps(table)
    truths, preds = len(found.truth_areas), len(found.pred_areas)
    if not truths and not preds:
        return Counts(both_empty=1)
    hits = tuple(int(np.count_nonzero(100 * found.intersection > t * found.union)) for t in THRESHOLDS)
    value = image_score(hits, truths, preds)
    return Counts((value,), 0, int(not truths or not preds), hits, truths, preds)


def image_score(hits: tuple[int, ...], truths: int, preds: int) -> float:
    """Return the mean of TP / (TP + FP + FN) over the thresholds, for at least one object.

    An IoU above one half is met by at most one partner on either side, so no assignment is needed: FP = `preds` - TP,
    FN = `truths` - TP.
    """
    return math.fsum(tp / (truths + preds - tp) for tp in hits) / len(hits)


def score(counts: Counts, empty: Empty = "one") -> float:
    """Return the score of the Data Science Bowl 2018: the plain mean over images.

    An object is hit where its IoU with a predicted one is strictly greater than t; per image the mean of
    TP / (TP + FP + FN) over t = 0.50, 0.55 ... 0.95. An image with objects on one side only scores 0. One without any
    counts as `empty` says: 1 (``one``), not at all (``skip``) or 0 (``zero``). NaN where no image counts.

    Source: evaluation of the Data Science Bowl 2018 (kaggle.com/c/data-science-bowl-2018).
    """
    return mean_of_images(counts.values, counts.both_empty, empty)
