"""The scores of the GlaS challenge: object F1, object Dice and object Hausdorff distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cellkit.metrics import hausdorff
from cellkit.metrics.assignment import spread
from cellkit.metrics.contingency import Contingency, contingency
from cellkit.metrics.instance import Overlaps, overlaps
from cellkit.metrics.pooling import Empty, Sums, filled, ratio

__all__ = [
    "Counts",
    "Variant",
    "count",
    "count_table",
    "finite_hausdorff",
    "object_dice",
    "object_f1",
    "object_hausdorff",
    "score",
]

Variant = Literal["v6", "older"]


@dataclass(frozen=True, eq=False)
class Counts(Sums):
    """What the three scores need; adds up over images.

    `hits`: predicted objects that cover more than half of their partner. `partners`: true objects that are some
    predicted one's partner. `truth_dice`, `pred_dice`: sums of area x Dice with the partner, `truth_area`,
    `pred_area`: the areas. `truth_distance`, `pred_distance`: sums of area x Hausdorff distance and
    `truth_reach_area`, `pred_reach_area`: the areas, over images with objects on both sides. `one_sided`: images with
    objects on one side only, where the distance is infinite.
    """

    hits: int = 0
    truths: int = 0
    preds: int = 0
    partners: int = 0
    truth_dice: float = 0.0
    pred_dice: float = 0.0
    truth_area: int = 0
    pred_area: int = 0
    truth_distance: float = 0.0
    pred_distance: float = 0.0
    truth_reach_area: int = 0
    pred_reach_area: int = 0
    one_sided: int = 0


def count(truth: np.ndarray, pred: np.ndarray) -> Counts:
    """Count one image pair for the scores of the GlaS challenge.

    An object's partner is the one of the other side it shares most pixels with, never the background; of equal
    shares the smaller one, and then so that as many as possible are somebody's partner: ids never matter. An object
    without overlap has Dice 0 and is paired with the object at the smallest Hausdorff distance.

    `truth`, `pred`: labels of one shape, whole numbers, 0 background. Raises `KindError` where they are none.
    Source: K. Sirinukunwattana et al., "Gland segmentation in colon histology images: the GlaS challenge contest",
    Medical Image Analysis 35 (2017), and its evaluation scripts.
    """
    table = contingency(truth, pred)
    found = overlaps(table)
    counted = _counted(found)
    if counted.one_sided or not counted.truths:
        return counted
    left, right = hausdorff.objects(truth), hausdorff.objects(pred)
    to_pred, to_truth = _distances(found, left, right)
    sums = float(found.truth_areas @ to_pred), float(found.pred_areas @ to_truth)
    return counted + Counts(
        truth_distance=sums[0],
        pred_distance=sums[1],
        truth_reach_area=counted.truth_area,
        pred_reach_area=counted.pred_area,
    )


def count_table(table: Contingency) -> Counts:
    """Count one image pair given as a table; object F1 and Dice only, since distances need the pixels themselves."""
    return _counted(overlaps(table))


def _counted(found: Overlaps) -> Counts:
    truths, preds = len(found.truth_areas), len(found.pred_areas)
    areas = found.truth_areas[found.truth], found.pred_areas[found.pred]
    dice = 2 * found.intersection / (areas[0] + areas[1])
    of_pred = _partners(found.pred, found.intersection, areas[0], preds)
    at = np.flatnonzero(of_pred)
    at = at[spread(found.pred[at], found.truth[at], np.ones(len(at)))]
    hits = 2 * found.intersection[at] > areas[0][at]
    of_truth = np.flatnonzero(_partners(found.truth, found.intersection, areas[1], truths))
    of_truth = of_truth[np.unique(found.truth[of_truth], return_index=True)[1]]
    return Counts(
        hits=int(np.count_nonzero(hits)),
        truths=truths,
        preds=preds,
        partners=len(np.unique(found.truth[at])),
        truth_dice=float(areas[0][of_truth] @ dice[of_truth]),
        pred_dice=float(areas[1][at] @ dice[at]),
        truth_area=int(found.truth_areas.sum()),
        pred_area=int(found.pred_areas.sum()),
        one_sided=int((truths > 0) != (preds > 0)),
    )


def _partners(who: np.ndarray, shared: np.ndarray, area: np.ndarray, count: int) -> np.ndarray:
    """Return the pairs, bool (k,), that share most pixels for their object `who`, and of those the smallest `area`."""
    most = np.zeros(count, np.int64)
    np.maximum.at(most, who, shared)
    best = shared == most[who]
    least = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(least, who[best], area[best])
    return best & (area == least[who])


def _distances(found: Overlaps, truth: hausdorff.Objects, pred: hausdorff.Objects) -> tuple[np.ndarray, np.ndarray]:
    """Return the Hausdorff distance of every object, true (n,) and predicted (m,), to its partner."""
    known: dict[tuple[int, int], float] = {}
    areas = found.truth_areas[found.truth], found.pred_areas[found.pred]
    both = []
    for side, who, area in ((0, found.truth, areas[1]), (1, found.pred, areas[0])):
        own, others = (pred, truth) if side else (truth, pred)
        away = np.full(len(own), np.inf)
        for k in np.flatnonzero(_partners(who, found.intersection, area, len(own))).tolist():
            pair = int(found.truth[k]), int(found.pred[k])
            if pair not in known:
                known[pair] = hausdorff.between(truth, pair[0], pred, pair[1])
            away[who[k]] = min(away[who[k]], known[pair])
        for i in np.flatnonzero(np.isinf(away)).tolist():
            away[i] = hausdorff.nearest(own, i, others)
        both.append(away)
    return both[0], both[1]


def object_f1(counts: Counts, variant: Variant = "v6", empty: Empty = "one") -> float:
    """Return 2 TP / (2 TP + FP + FN) of objects.

    TP: predicted objects that share strictly more than half of the area of their true partner. FP: the other predicted
    ones. FN: with ``v6`` the number of true objects less TP, with ``older`` the true objects that are nobody's partner.
    """
    missed = counts.truths - (counts.hits if variant == "v6" else counts.partners)
    value = ratio(2 * counts.hits, counts.hits + counts.preds + missed)
    return filled(value, counts.truths + counts.preds, empty)


def object_dice(counts: Counts, empty: Empty = "one") -> float:
    """Return half the sum of both sides' mean Dice with their partners, weighted by area."""
    value = (ratio(counts.truth_dice, counts.truth_area) + ratio(counts.pred_dice, counts.pred_area)) / 2
    return filled(value, counts.truths + counts.preds, empty)


def object_hausdorff(counts: Counts, empty: Empty = "one") -> Any:
    """Return half the sum of both sides' mean Hausdorff distance, px, to their partners, weighted by area.

    Over all pixels of the objects. Infinite as soon as one image has objects on one side only. Where nothing has any,
    0 for ``one``, else NaN: a distance has no worst value.
    """
    return np.where(np.asarray(counts.one_sided) > 0, np.inf, finite_hausdorff(counts, empty))[()]


def finite_hausdorff(counts: Counts, empty: Empty = "one") -> Any:
    """Return `object_hausdorff` over the images that have objects on both sides."""
    truth = ratio(counts.truth_distance, counts.truth_reach_area)
    pred = ratio(counts.pred_distance, counts.pred_reach_area)
    there = counts.truth_reach_area + counts.one_sided
    value = np.where(np.asarray(counts.truth_reach_area) > 0, (truth + pred) / 2, np.nan)
    return np.where(np.asarray(there) > 0, value, 0.0 if empty == "one" else np.nan)[()]


def score(counts: Counts, variant: Variant = "v6", empty: Empty = "one") -> float:
    """Return the object F1, of all counted images pooled."""
    return object_f1(counts, variant, empty)
