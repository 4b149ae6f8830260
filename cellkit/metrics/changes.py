"""What became of the objects of one label image in another: kept, changed, lost, gained, split, merged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cellkit.metrics import faults
from cellkit.metrics.assignment import best_pairs
from cellkit.metrics.instance import Overlaps

__all__ = ["OUTCOMES", "RULE", "Changes", "find"]

OUTCOMES: tuple[str, ...] = ("same", "kept", "changed", "lost", "gained", "split", "merged")
"""What can become of an object, in the order of its code; `same` to the pixel, `kept` but for its edge."""
RULE = (
    "an object lies in another that holds more than half of its pixels; one in which two or more later ones lie is "
    "split, a later one in which two or more earlier ones lie is merged; of the others, those that lie in each other "
    "are paired one to one, and what has no partner is lost (earlier) or gained (later); a pair is the same where no "
    "pixel differs, changed where its IoU is below the limit, else kept"
)


@dataclass(frozen=True, eq=False)
class Changes:
    """`before` uint8 (n,), `after` (m,): the place in `OUTCOMES` of every earlier and later object.

    Parts of a split object are `split` too, those that merged are `merged`. `pairs`: bool (k,), which of the overlaps
    pair an object with what it became; `iou` float64 (k,) of all of them. `split`, `merged`: how many objects were
    split, and how many hold what was several.
    """

    before: np.ndarray
    after: np.ndarray
    pairs: np.ndarray
    iou: np.ndarray
    split: int
    merged: int

    def counts(self) -> dict[str, int]:
        """Return how many objects came to what: pairs for same, kept and changed; see `split` and `merged`."""
        before, after = (np.bincount(codes, minlength=len(OUTCOMES)) for codes in (self.before, self.after))
        found = {name: int(before[i]) for i, name in enumerate(OUTCOMES[:4])}
        return {**found, "gained": int(after[4]), "split": self.split, "merged": self.merged}


def find(found: Overlaps, limit: float = 0.9) -> Changes:
    """Return what became of every object, as `RULE` says; `limit` is the IoU below which a pair counts as changed.

    Swapping the two sides swaps lost with gained and split with merged. Areas may be fractions, as those of boxes are.
    """
    wrong = faults.find(found)
    lies_before = 2 * found.intersection > found.pred_areas[found.pred]
    lies_after = 2 * found.intersection > found.truth_areas[found.truth]
    iou = np.asarray(found.intersection / found.union, np.float64)
    before = np.full(len(found.truth_areas), OUTCOMES.index("lost"), np.uint8)
    after = np.full(len(found.pred_areas), OUTCOMES.index("gained"), np.uint8)
    # Of an object that is both, the split is told.
    before[found.truth[lies_after & wrong.merged[found.pred]]] = OUTCOMES.index("merged")
    after[wrong.merged] = OUTCOMES.index("merged")
    before[wrong.split] = OUTCOMES.index("split")
    after[found.pred[lies_before & wrong.split[found.truth]]] = OUTCOMES.index("split")
    single = (before[found.truth] == OUTCOMES.index("lost")) & (after[found.pred] == OUTCOMES.index("gained"))
    pairs = np.zeros(len(iou), bool)
    at = np.flatnonzero((lies_before | lies_after) & single)
    # As many pairs as can be, and of those choices the one with the largest sum of IoU.
    pairs[at] = best_pairs(found.truth[at], found.pred[at], 1 + iou[at] / (2 * max(1, len(at))))
    kind = np.where(iou < limit, OUTCOMES.index("changed"), OUTCOMES.index("kept"))
    kind[found.intersection == found.union] = OUTCOMES.index("same")
    before[found.truth[pairs]] = after[found.pred[pairs]] = kind[pairs]
    return Changes(before, after, pairs, iou, int(np.count_nonzero(wrong.split)), int(np.count_nonzero(wrong.merged)))
