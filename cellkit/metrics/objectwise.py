"""Reports on scores of objects: DSB2018, GlaS, and every instance score together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cellkit.metrics import aji, faults, gland, instance, matching
from cellkit.metrics.contingency import Contingency, contingency
from cellkit.metrics.instance import overlaps
from cellkit.metrics.pooling import Sums, filled, ratio, total
from cellkit.metrics.report import EMPTY_TEXT, POOLING_TEXT, Report, Settings, summary

__all__ = ["Counts", "count", "count_table", "dsb2018", "glas", "instances"]

_SHOWN = {"0.50": 0, "0.75": 5}
"""Thresholds of which every number is reported, and their place in `matching.THRESHOLDS`."""


@dataclass(frozen=True, eq=False)
class _Hits(Sums):
    """What the score of the Data Science Bowl needs, as sums."""

    value: float = 0.0
    counted: int = 0
    hits: np.ndarray = field(default_factory=lambda: np.zeros(len(instance.THRESHOLDS), np.int64))
    truths: int = 0
    preds: int = 0


def dsb2018(counts: Mapping[str, instance.Counts], settings: Settings) -> Report:
    """Report on the score of the Data Science Bowl 2018, the plain mean over images."""
    empty = settings.empty
    every = total(counts.values(), instance.Counts())
    values = np.array([instance.score(one, empty) for one in counts.values()], np.float64)
    there, known = ~np.isnan(values), np.nan_to_num(values)
    parts = {
        name: _Hits(float(known[i]), int(there[i]), np.array(one.hits), one.truths, one.preds)
        for i, (name, one) in enumerate(counts.items())
    }
    found = summary(parts, _Hits(), _dsb2018_numbers, settings)
    rows = []
    for i, (name, one) in enumerate(counts.items()):
        hits = one.hits[0]
        rows.append(
            {
                "image": name,
                "value": float(values[i]),
                "truth_objects": one.truths,
                "predicted_objects": one.preds,
                "hits_at_0.50": hits,
                "false_positives_at_0.50": one.preds - hits,
                "false_negatives_at_0.50": one.truths - hits,
            }
        )
    pooled = found.pooled
    scores = {
        "truth_objects": every.truths,
        "predicted_objects": every.preds,
        "images_with_objects_on_one_side_only": every.one_empty,
        **{name: pooled[name] for name in pooled if name not in ("value", *_BY_THRESHOLD)},
        "pooled_by_threshold": {name[-4:]: pooled[name] for name in _BY_THRESHOLD},
    }
    intervals = {name: span for name, span in found.pooled_intervals.items() if name != "value"}
    rule = (
        "TP / (TP + FP + FN), averaged over the IoU thresholds 0.50, 0.55 ... 0.95; an object is hit where its IoU is "
        "strictly greater than the threshold, compared in whole numbers; an image without objects on both sides "
        f"{EMPTY_TEXT[empty]}, on one side only as 0"
    )
    low, high = found.pooled_intervals["value"]
    value = instance.score(every, empty)
    draws = found.drawn(None, "value")
    return Report(
        value, low, high, rule, POOLING_TEXT["images"], every.both_empty, scores, tuple(rows), intervals, draws=draws
    )


_BY_THRESHOLD = tuple(f"pooled_by_threshold.{t / 100:.2f}" for t in instance.THRESHOLDS)


def _dsb2018_numbers(sums: _Hits) -> dict[str, np.ndarray]:
    objects = np.asarray(sums.truths + sums.preds)
    each = ratio(sums.hits, objects[..., None] - sums.hits, math.nan)
    tp = sums.hits[..., 0]
    return {
        "value": ratio(sums.value, sums.counted, math.nan),
        "pooled": np.asarray(each).mean(axis=-1),
        "pooled_precision_at_0.50": ratio(tp, sums.preds, math.nan),
        "pooled_recall_at_0.50": ratio(tp, sums.truths, math.nan),
        "pooled_f1_at_0.50": ratio(2 * tp, objects, math.nan),
        **{name: each[..., i] for i, name in enumerate(_BY_THRESHOLD)},
    }


def glas(counts: Mapping[str, gland.Counts], settings: Settings) -> Report:
    """Report on the three scores of the GlaS challenge; the headline is the object F1."""
    empty, variant = settings.empty, settings.variant
    other = "older" if variant == "v6" else "v6"

    def numbers(sums: gland.Counts) -> dict[str, Any]:
        return {
            "object_f1": gland.object_f1(sums, variant, empty),  # type: ignore[arg-type]
            "object_dice": gland.object_dice(sums, empty),
            "object_hausdorff": gland.object_hausdorff(sums, empty),
            "object_hausdorff_where_finite": gland.finite_hausdorff(sums, empty),
            f"object_f1_{other}": gland.object_f1(sums, other, empty),  # type: ignore[arg-type]
            "object_precision": filled(ratio(sums.hits, sums.preds), sums.truths + sums.preds, empty),
            "object_recall": filled(ratio(sums.hits, sums.truths), sums.truths + sums.preds, empty),
        }

    found = summary(counts, gland.Counts(), numbers, settings)
    rows = [
        {
            "image": name,
            "value": float(found.images["object_f1"][i]),
            **{score: float(values[i]) for score, values in found.images.items()},
            "truth_objects": one.truths,
            "predicted_objects": one.preds,
            "hits": one.hits,
        }
        for i, (name, one) in enumerate(counts.items())
    ]
    top = {name: found.chosen(settings.pooling, name)[0] for name in _GLAS}
    top["object_hausdorff_infinite_images"] = found.total.one_sided
    scores, intervals = found.scores()
    every = found.total
    intervals |= {name: found.chosen(settings.pooling, name)[1:] for name in _GLAS}
    scores |= {
        "truth_objects": every.truths,
        "predicted_objects": every.preds,
        "hits": every.hits,
    }
    rule = (
        f"object F1 ({variant}), 2 TP / (2 TP + FP + FN): a predicted object is a hit where it shares strictly more "
        "than 50 % of the area of its partner, the true object it shares most pixels with (never the background); "
        f"FN = {_MISSED[str(variant)]}; an image without objects on both sides {EMPTY_TEXT[empty]}"
    )
    empties = sum(not one.truths + one.preds for one in counts.values())
    value, low, high = found.chosen(settings.pooling, "object_f1")
    pooling = POOLING_TEXT[settings.pooling or "set"]
    draws = found.drawn(settings.pooling, "object_f1")
    return Report(value, low, high, rule, pooling, empties, scores, tuple(rows), intervals, _GLAS, top, draws)


_MISSED = {"v6": "true objects - TP", "older": "true objects that are no predicted object's partner"}
_GLAS = {
    "object_f1": "see the rule",
    "object_dice": "half the sum, over both sides, of the mean Dice of each object with its partner, the object of the "
    "other side it shares most pixels with (0 without any), weighted by area",
    "object_hausdorff": "half the sum, over both sides, of the mean Hausdorff distance in px, over all pixels, of each "
    "object to its partner, or without overlap to the object at the smallest distance, weighted by area; infinite as "
    "soon as one image has objects on one side only (object_hausdorff_infinite_images of them)",
}


def _nothing_panoptic() -> matching.Counts:
    return matching.Counts((0.5,), True, np.zeros(1, np.int64), np.zeros(1))


@dataclass(frozen=True, eq=False)
class Counts(Sums):
    """What every instance score needs of any number of images; `dsb2018` is the sum of scores of `images` that count.

    `both_empty`: images without any object.
    """

    matched: matching.Counts = field(default_factory=matching.Counts)
    panoptic: matching.Counts = field(default_factory=_nothing_panoptic)
    kumar: aji.Counts = field(default_factory=aji.Counts)
    cellpose: aji.Counts = field(default_factory=aji.Counts)
    majority: faults.Counts = field(default_factory=faults.Counts)
    caicedo: faults.Counts = field(default_factory=faults.Counts)
    dsb2018: float = 0.0
    images: int = 0
    both_empty: int = 0


def count(truth: np.ndarray, pred: np.ndarray) -> Counts:
    """Count one image pair for every instance score, from one table of overlaps.

    `truth`, `pred`: labels of one shape, whole numbers, 0 background. Raises `KindError` where they are none.
    """
    return count_table(contingency(truth, pred))


def count_table(table: Contingency) -> Counts:
    """Count one image pair given as a table, for instance added up over the tiles of a large image."""
    found = overlaps(table)
    whole = instance.count_table(table)
    return Counts(
        matching.count_overlaps(found),
        matching.count_overlaps(found, thresholds=(0.5,), strict=True),
        aji.count_overlaps(found),
        aji.count_overlaps(found, "cellpose"),
        faults.count_overlaps(found),
        faults.count_overlaps(found, "caicedo"),
        math.fsum(whole.values),
        len(whole.values),
        whole.both_empty,
    )


def instances(counts: Mapping[str, Counts], settings: Settings) -> Report:
    """Report on every instance score; the headline is the accuracy averaged over ten thresholds (mean AP)."""
    rule_of_faults: faults.Rule = "caicedo" if settings.variant == "caicedo" else "majority"
    found = summary(counts, Counts(), lambda c: _instance_numbers(c, settings), settings)
    wrong = {name: getattr(one, rule_of_faults) for name, one in counts.items()}
    rows = [
        {
            "image": name,
            "value": float(found.images["mean_ap"][i]),
            **{score: float(values[i]) for score, values in found.images.items()},
            "truth_objects": one.matched.truths,
            "predicted_objects": one.matched.preds,
            **{fault: getattr(wrong[name], fault) for fault in _FAULTS},
        }
        for i, (name, one) in enumerate(counts.items())
    ]
    every = found.total
    pooling = settings.pooling or "set"
    chosen = {n: found.chosen("images" if n in _IMAGE_MEANS else pooling, n) for n in found.pooled}
    scores: dict[str, Any] = {name: value[0] for name, value in chosen.items()}
    intervals = {name: value[1:] for name, value in chosen.items()}
    scores |= {"truth_objects": every.matched.truths, "predicted_objects": every.matched.preds}
    scores |= {fault: getattr(getattr(every, rule_of_faults), fault) for fault in _FAULTS}
    scores["other_pooling"] = {
        f"pooled_{name}" if pooling == "images" or name in _IMAGE_MEANS else f"image_mean_{name}": value
        for name, value in (found.pooled if pooling == "images" else found.means | _only_pooled(found.pooled)).items()
        if name != "dsb2018"
    }
    rule = (
        "accuracy TP / (TP + FP + FN), averaged over the IoU thresholds 0.50, 0.55 ... 0.95; objects are matched one "
        "to one, IoU at least the threshold, as by StarDist (matching) and Cellpose (average_precision); an image "
        f"without objects on both sides {EMPTY_TEXT[settings.empty]} where images are averaged"
    )
    rules = _INSTANCE_RULES | {"split, merged, missed, extra": faults.RULES[rule_of_faults]}
    value = chosen["mean_ap"]
    draws = found.drawn(pooling, "mean_ap", tuple(_IMAGE_MEANS))
    return Report(
        *value, rule, POOLING_TEXT[pooling], every.both_empty, scores, tuple(rows), intervals, rules, draws=draws
    )


def _only_pooled(pooled: Mapping[str, float]) -> dict[str, float]:
    return {name: pooled[name] for name in _IMAGE_MEANS}


_IMAGE_MEANS = ("aji", "aji_cellpose", "dsb2018")
"""Scores whose references average images: they do so under either pooling."""
_FAULTS = ("split", "merged", "missed", "extra")
_INSTANCE_RULES = {
    "mean_ap": "see the rule; Cellpose's name for StarDist's accuracy",
    "precision, recall, f1, accuracy, matching_pq, mean_matched_iou": "StarDist matching: one to one, IoU at least the "
    "threshold; matching_pq is the IoU of matched pairs, summed, over TP + FP / 2 + FN / 2",
    "pq, sq, rq": "Kirillov et al. 2019, one class: IoU strictly above 0.5; pq = sq x rq",
    "aji": "Kumar et al. 2017: sum of intersections over sum of unions, each true object with the predicted one of "
    "highest IoU, plus the areas of what is left on either side; always the mean of images, pooled in the JSON",
    "aji_cellpose": "Cellpose: objects assigned one to one; sum of intersections over the union of both foregrounds; "
    "always the mean of images",
    "dsb2018": "Data Science Bowl 2018: IoU strictly above ten thresholds; always the mean of images",
}


def _instance_numbers(counts: Counts, settings: Settings) -> dict[str, Any]:
    empty, matched, panoptic = settings.empty, counts.matched, counts.panoptic
    numbers: dict[str, Any] = {"mean_ap": matching.score(matched, empty)}
    functions = {
        "accuracy": matching.accuracy,
        "precision": matching.precision,
        "recall": matching.recall,
        "f1": matching.f1,
        "matching_pq": matching.panoptic_quality,
        "mean_matched_iou": matching.mean_matched_iou,
    }
    for name, function in functions.items():
        values = function(matched, empty)
        numbers |= {f"{name}_at_{threshold}": values[..., place] for threshold, place in _SHOWN.items()}
        if name in ("precision", "recall", "f1"):
            numbers[f"mean_{name}"] = values.mean(axis=-1)
    return numbers | {
        "pq": matching.panoptic_quality(panoptic, empty)[..., 0],
        "sq": matching.mean_matched_iou(panoptic, empty)[..., 0],
        "rq": matching.f1(panoptic, empty)[..., 0],
        "aji": aji.score(counts.kumar, empty),
        "aji_cellpose": aji.score(counts.cellpose, empty),
        "dsb2018": _dsb2018_value(counts, settings),
    }


def _dsb2018_value(counts: Counts, settings: Settings) -> np.ndarray:
    """Return the mean score of images, with those without objects as `empty` says."""
    more = counts.both_empty if settings.empty == "one" else 0
    left = 0 if settings.empty == "skip" else counts.both_empty
    return ratio(counts.dsb2018 + np.asarray(more), counts.images + np.asarray(left), math.nan)
