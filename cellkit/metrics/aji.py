"""The aggregated Jaccard index, after Kumar and as Cellpose has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from cellkit.metrics.assignment import best_pairs, spread
from cellkit.metrics.contingency import Contingency, contingency
from cellkit.metrics.instance import Overlaps, overlaps
from cellkit.metrics.pooling import Empty, Sums, filled, ratio

__all__ = ["Counts", "Variant", "count", "count_overlaps", "count_table", "score"]

Variant = Literal["kumar", "cellpose"]


@dataclass(frozen=True, eq=False)
class Counts(Sums):
    """Pixels that matched objects share, and all that they are held against; adds up over images."""

    shared: int = 0
    whole: int = 0


def count(truth: np.ndarray, pred: np.ndarray, variant: Variant = "kumar") -> Counts:
    """Count one image pair.

    ``kumar``: every true object is paired with the predicted one of highest IoU, which may serve several; `shared` sums
    the intersections and `whole` the unions of the pairs, and the areas of true objects without overlap and of
    predicted ones that nobody is paired with. Of equal IoU the larger intersection counts, then whatever leaves the
    fewest pixels unpaired, so that ids never matter.

    ``cellpose``: objects are assigned one to one, as many as can be with an IoU of at least 0.5 and then by the sum of
    IoU; `shared` sums their intersections, and `whole` is the union of both foregrounds.

    Labels have one shape and are whole numbers, 0 background. Raises `KindError` where they are none.
    Source: N. Kumar et al., "A dataset and a technique for generalized nuclear segmentation", IEEE TMI 36 (2017),
    algorithm 1; Cellpose, ``metrics.aggregated_jaccard_index``.
    """
    return count_table(contingency(truth, pred), variant)


def count_table(table: Contingency, variant: Variant = "kumar") -> Counts:
    """Count one image pair given as a table, for instance added up over tiles."""
    return count_overlaps(overlaps(table), variant)


def count_overlaps(found: Overlaps, variant: Variant = "kumar") -> Counts:
    """Count one image pair given by its overlaps."""
    iou = found.intersection / found.union
    if variant == "cellpose":
        fewer = max(1, min(len(found.truth_areas), len(found.pred_areas)))
        gain = (2 * found.intersection >= found.union) + iou / (2 * fewer)
        # Of assignments that are equally good, the one that shares more pixels: ids must not matter.
        gain += 1e-9 * found.intersection / found.intersection.max(initial=1)
        chosen = best_pairs(found.truth, found.pred, gain)
        whole = found.truth_areas.sum() + found.pred_areas.sum() - found.intersection.sum()
        return Counts(int(found.intersection[chosen].sum()), int(whole))
    best = _highest(found, iou)
    at = np.flatnonzero(best)
    at = at[spread(found.truth[at], found.pred[at], found.pred_areas[found.pred[at]])]
    lonely_truth, lonely_pred = np.ones(len(found.truth_areas), bool), np.ones(len(found.pred_areas), bool)
    lonely_truth[found.truth[at]] = False
    lonely_pred[found.pred[at]] = False
    whole = found.union[at].sum() + found.truth_areas[lonely_truth].sum() + found.pred_areas[lonely_pred].sum()
    return Counts(int(found.intersection[at].sum()), int(whole))


def _highest(found: Overlaps, iou: np.ndarray) -> np.ndarray:
    """Return the pairs, bool (k,), that are best for their true object: highest IoU, then largest intersection."""
    top = np.zeros(len(found.truth_areas))
    np.maximum.at(top, found.truth, iou)
    best = iou == top[found.truth]
    shared = np.zeros(len(found.truth_areas), np.int64)
    np.maximum.at(shared, found.truth[best], found.intersection[best])
    return best & (found.intersection == shared[found.truth])


def score(counts: Counts, empty: Empty = "one") -> float:
    """Return shared / whole; what `empty` says where there is no object on either side."""
    return filled(ratio(counts.shared, counts.whole), counts.whole, empty)
