"""What went wrong with which object: split, merged, missed, extra."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from cellkit.metrics.contingency import Contingency, contingency
from cellkit.metrics.instance import Overlaps, overlaps
from cellkit.metrics.pooling import Sums

__all__ = ["RULES", "Counts", "Faults", "Rule", "count", "count_overlaps", "count_table", "find"]

Rule = Literal["majority", "caicedo"]
RULES: dict[Rule, str] = {
    "majority": "an object lies in another that holds more than half of its pixels; a true object in which two or more "
    "predicted ones lie is split, a predicted one in which two or more true ones lie is merged, and an object that "
    "lies in none and in which none lies is missed (true) or extra (predicted)",
    "caicedo": "objects meet where their IoU is above 0.1; a true object that meets two or more predicted ones is "
    "split, a predicted one that meets two or more true ones is merged, and one that meets none is missed or extra",
}


@dataclass(frozen=True, eq=False)
class Counts(Sums):
    """Objects by what went wrong; adds up over images. `split` and `missed` are true objects, the others predicted."""

    split: int = 0
    merged: int = 0
    missed: int = 0
    extra: int = 0
    truths: int = 0
    preds: int = 0


class Faults(NamedTuple):
    """Which objects: `split`, `missed` bool (n,) over true ones; `merged`, `extra` bool (m,) over predicted ones."""

    split: np.ndarray
    merged: np.ndarray
    missed: np.ndarray
    extra: np.ndarray


def find(found: Overlaps, rule: Rule = "majority") -> Faults:
    """Return which objects are split, merged, missed or extra, as `RULES` says.

    Swapping truth and prediction swaps split with merged and missed with extra.
    Source: ``majority`` after L. P. Coelho et al., "Nuclear segmentation in microscope cell images: a hand-segmented
    dataset and comparison of algorithms", ISBI 2009, with more than half in place of the largest share; ``caicedo``:
    J. C. Caicedo et al., "Evaluation of deep learning strategies for nucleus segmentation in fluorescence images",
    Cytometry A 95 (2019).
    """
    truths, preds = len(found.truth_areas), len(found.pred_areas)
    if rule == "caicedo":
        pred_in_truth = truth_in_pred = 10 * found.intersection > found.union
    else:
        pred_in_truth = 2 * found.intersection > found.pred_areas[found.pred]
        truth_in_pred = 2 * found.intersection > found.truth_areas[found.truth]
    meet = pred_in_truth | truth_in_pred
    return Faults(
        np.bincount(found.truth[pred_in_truth], minlength=truths) > 1,
        np.bincount(found.pred[truth_in_pred], minlength=preds) > 1,
        np.bincount(found.truth[meet], minlength=truths) == 0,
        np.bincount(found.pred[meet], minlength=preds) == 0,
    )


def count(truth: np.ndarray, pred: np.ndarray, rule: Rule = "majority") -> Counts:
    """Count the split, merged, missed and extra objects of one image pair, by `rule`.

    Labels have one shape and are whole numbers, 0 background. Raises `KindError` where they are none.
    """
    return count_table(contingency(truth, pred), rule)


def count_table(table: Contingency, rule: Rule = "majority") -> Counts:
    """Count one image pair given as a table, for instance added up over tiles."""
    return count_overlaps(overlaps(table), rule)


def count_overlaps(found: Overlaps, rule: Rule = "majority") -> Counts:
    """Count one image pair given by its overlaps."""
    split, merged, missed, extra = (int(np.count_nonzero(part)) for part in find(found, rule))
    return Counts(split, merged, missed, extra, len(found.truth_areas), len(found.pred_areas))
