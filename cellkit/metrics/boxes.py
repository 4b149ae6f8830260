"""COCO's AP and AR for boxes and masks with scores, and what follows at one score threshold.

The twelve numbers come from a kept evaluator (faster-coco-eval), the rest from the same IoUs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from cellkit.core.errors import UsageError
from cellkit.metrics import boxmatch
from cellkit.metrics.boxinput import Input, checked
from cellkit.metrics.pooling import ratio

__all__ = ["NUMBERS", "evaluate", "resampled"]

NUMBERS = (
    "AP", "AP_50", "AP_75", "AP_small", "AP_medium", "AP_large",
    "AR_1", "AR_10", "AR_max", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
"""The twelve standard numbers; `AR_max` at the largest number of detections, which `max_dets` tells."""

_LEAST = 100
"""COCO's own limit of detections of an image and class; data that hold more raise it."""


def evaluate(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    iou_type: Literal["bbox", "segm"] = "bbox",
    score_threshold: float = 0.5,
    iou_threshold: float = 0.5,
    resamples: int = 1000,
    groups: Mapping[Any, str] | None = None,
) -> dict[str, Any]:
    """Score results against truth by COCO's rules. Both as parsed COCO JSON; neither is changed.

    `truth`: a data set (`images`, `annotations`, `categories`); `results`: a list of `image_id`, `category_id`,
    `score` and `bbox` (x, y, width, height) or `segmentation` (RLE of either form, polygons). Ids may be text. A true
    object is as large as its `area` says, else as its box or mask (by `iou_type`), and so is a result.

    Returns `value` (AP), `rule`, `iou_type`, `max_dets`, `scores` (see `NUMBERS`), `per_class` (AP, AR, and counts,
    precision, recall and F1 at `score_threshold` and `iou_threshold`), `at_threshold` (the same over all classes),
    `confusion` (`classes` and `matrix`: see `boxmatch.confusion`), `per_image` and `intervals` (95 % percentile
    bootstrap over images, or over the `groups` that image ids belong to; `resamples` 0 for none) and `draws`, what they
    are the ends of. NaN stands for a number that nothing counts towards, such as the AP of large objects where none is.

    Raises `UsageError` where results have no score or do not belong to the truth, `FormatError` where an entry is
    damaged. Source: cocodataset.org/#detection-eval; the evaluator is faster-coco-eval.
    """
    for name, value in (("score_threshold", score_threshold), ("iou_threshold", iou_threshold)):
        if not math.isfinite(value) or (name == "iou_threshold" and not 0 < value <= 1):
            raise UsageError(f"{name}: wanted a number{' in (0, 1]' if name[0] == 'i' else ''}, got {value}")
    given = checked(truth, results, iou_type)
    most = _most(given)
    evaluated = _evaluator(given, iou_type, most)
    at = boxmatch.match(given, most, np.array([iou_threshold]))
    tally = {(m.image, c): boxmatch.counts(m, score_threshold) for c, ms in at.items() for m in ms}
    scores = _numbers(*evaluated)
    intervals, draws = _intervals(given, most, tally, resamples, groups)
    return {
        "value": scores["AP"],
        "rule": _rule(iou_type, score_threshold, iou_threshold, most),
        "iou_type": iou_type,
        "max_dets": [1, 10, most],
        "images": len(given.images),
        "truth_objects": sum(not t["iscrowd"] for t in given.truth),
        "results": len(given.results),
        "scores": scores,
        "at_threshold": {
            "score": score_threshold, "iou": iou_threshold, **_summed(list(tally.values())),
        },
        "per_class": _per_class(given, evaluated, tally),
        "confusion": {
            "classes": [*given.classes, "none"],
            "matrix": boxmatch.confusion(given, score_threshold, iou_threshold).tolist(),
        },
        "per_image": _per_image(given, tally),
        "intervals": intervals,
        "draws": draws,
    }  # fmt: skip


def _most(given: Input) -> int:
    """Return how many detections count: all that one image has of one class, at least COCO's 100."""
    tally: dict[tuple[int, int], int] = {}
    for r in given.results:
        key = (r["image_id"], r["category_id"])
        tally[key] = tally.get(key, 0) + 1
    return max(_LEAST, *tally.values()) if tally else _LEAST


def _rule(iou_type: str, score: float, iou: float, most: int) -> str:
    what = "boxes" if iou_type == "bbox" else "masks"
    return (
        f"COCO AP of {what}: by falling score, each detection takes the free true object of its image and class with "
        "the largest IoU, at the IoU thresholds 0.50, 0.55 ... 0.95 or more; precision at 101 recalls, mean over "
        f"thresholds and the classes that the truth holds; at most {most} detections of an image and class. Precision, "
        f"recall and F1: detections with a score of {score:g} or more, matched at an IoU of {iou:g} or more, counts of "
        "all images pooled"
    )


def _evaluator(given: Input, iou_type: str, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the evaluator's precision (threshold, recall, class, area, detections) and recall, NaN for nothing."""
    from faster_coco_eval import COCO, COCOeval_faster

    images = [{"id": i + 1, "height": h, "width": w} for i, (h, w) in enumerate(given.sizes)]
    if not images or not given.classes:
        return np.full((10, 101, 0, 4, 3), math.nan), np.full((10, 0, 4, 3), math.nan)
    frame = {"images": images, "categories": [{"id": i + 1, "name": n} for i, n in enumerate(given.classes)]}
    sides = []
    for objects in (given.truth, given.results):
        # The evaluator writes into what it is given.
        side = COCO({**frame, "annotations": [dict(one) for one in objects]}, print_function=_silent)
        sides.append(side)
    run = COCOeval_faster(*sides, iouType=iou_type, print_function=_silent)
    run.params.maxDets = [1, 10, most]
    run.evaluate()
    run.accumulate()
    precision, recall = (np.array(run.eval[name], np.float64) for name in ("precision", "recall"))
    precision[precision < 0] = math.nan
    recall[recall < 0] = math.nan
    return precision, recall


def _silent(*_: object) -> None:
    """Take what the evaluator would print."""


def _numbers(precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
    best, reached = precision[..., -1], recall[..., -1]
    return {
        "AP": _mean(best[:, :, :, 0]),
        "AP_50": _mean(best[0, :, :, 0]),
        "AP_75": _mean(best[5, :, :, 0]),
        **{f"AP_{size}": _mean(best[..., i + 1]) for i, size in enumerate(("small", "medium", "large"))},
        **{f"AR_{name}": _mean(recall[:, :, 0, i]) for i, name in enumerate((1, 10, "max"))},
        **{f"AR_{size}": _mean(reached[..., i + 1]) for i, size in enumerate(("small", "medium", "large"))},
    }


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else math.nan


_Tally = Mapping[tuple[int, int], tuple[int, int, int]]


def _summed(tallies: Sequence[tuple[int, int, int]]) -> dict[str, Any]:
    tp, fp, fn = (sum(one[i] for one in tallies) for i in range(3))
    return {"true_positives": tp, "false_positives": fp, "false_negatives": fn, **boxmatch.rates(tp, fp, fn)}


def _per_class(given: Input, evaluated: tuple[np.ndarray, np.ndarray], tally: _Tally) -> list[dict[str, Any]]:
    rows = []
    for c, name in enumerate(given.classes):
        own = [t for t in given.truth if t["category_id"] == c + 1 and not t["iscrowd"]]
        rows.append(
            {
                "class": name,
                "id": given.class_ids[c],
                "truth_objects": len(own),
                "results": sum(r["category_id"] == c + 1 for r in given.results),
                **_numbers(*(values[..., c : c + 1, :, :] for values in evaluated)),
                **_summed([one for (_, category), one in tally.items() if category == c + 1]),
            }
        )
    return rows


def _per_image(given: Input, tally: _Tally) -> list[dict[str, Any]]:
    """Return one row an image; `value` is its F1 at the thresholds, as an image alone has no telling AP."""
    own: list[list[tuple[int, int, int]]] = [[] for _ in given.images]
    for (image, _), one in tally.items():
        own[image - 1].append(one)
    rows = []
    for name, key, parts in zip(given.images, given.image_ids, own, strict=True):
        row = _summed(parts)
        rows.append({"image": name, "id": key, "value": row["f1"], **row})
    return rows


def _intervals(
    given: Input, most: int, tally: _Tally, resamples: int, groups: Mapping[Any, str] | None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the ends of the 95 % interval of each number, by resampling images or whole groups, and all values."""
    group = _grouped(given, groups)
    number = int(group.max(initial=-1)) + 1
    if number < 2 or resamples < 1:
        return {}, {}
    draws = {name: np.array(values) for name, values in _drawn(given, most, tally, group, resamples).items()}
    intervals = {
        "level": 0.95,
        "method": "percentile bootstrap of " + ("images" if groups is None else "groups"),
        "units": number,
        **{name: _ends(values) for name, values in draws.items()},
    }
    return intervals, draws


def _drawn(
    given: Input, most: int, tally: _Tally, group: np.ndarray, resamples: int, seed: int = 0
) -> dict[str, list[float]]:
    """Return each number of so many resamples of the groups, `group` of each image."""
    number = int(group.max(initial=-1)) + 1
    ranks = [
        one
        for matches in boxmatch.match(given, most, boxmatch.THRESHOLDS).values()
        if (one := boxmatch.ranked(matches, len(given.images))) is not None
    ]
    sums = np.zeros((len(given.images), 3))
    for (image, _), counted in tally.items():
        sums[image - 1] += counted
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in ("AP", "AP_50", "AP_75", "AR_max", *boxmatch.rates(0, 0, 0))}
    for _ in range(resamples):
        weights = np.bincount(rng.integers(0, number, number), minlength=number)[group]
        parts = [boxmatch.average_precision(one, weights) for one in ranks]
        ap, ar = (np.array([part[i] for part in parts]).reshape(-1, 10) for i in range(2))
        values = {"AP": _mean(ap), "AP_50": _mean(ap[:, 0]), "AP_75": _mean(ap[:, 5]), "AR_max": _mean(ar)}
        tp, fp, fn = weights @ sums
        values |= {"precision": ratio(tp, tp + fp, math.nan), "recall": ratio(tp, tp + fn, math.nan)}
        values["f1"] = ratio(2 * tp, 2 * tp + fp + fn, math.nan)
        for name, value in values.items():
            drawn[name].append(value)
    return drawn


def resampled(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    iou_type: Literal["bbox", "segm"] = "bbox",
    groups: Mapping[Any, str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Return AP, AP_50, AP_75 and AR_max of each of the resamples that `evaluate` takes its intervals from.

    The same images in the same groups are drawn alike for other results, so that differences can be told pair by pair.
    Empty where there are fewer than two groups. Raises what `evaluate` raises.
    """
    given = checked(truth, results, iou_type)
    group = _grouped(given, groups)
    if len(set(group.tolist())) < 2:
        return {}
    found = _drawn(given, _most(given), {}, group, resamples, seed)
    return {name: np.array(found[name]) for name in ("AP", "AP_50", "AP_75", "AR_max")}


def _ends(values: np.ndarray) -> list[float]:
    values = values[~np.isnan(values)]
    if not len(values):
        return [math.nan, math.nan]
    return [float(end) for end in np.quantile(values, [0.025, 0.975])]


def _grouped(given: Input, groups: Mapping[Any, str] | None) -> np.ndarray:
    """Return the number of each image's group."""
    if groups is None:
        return np.arange(len(given.images))
    lacking = [key for key in given.image_ids if key not in groups]
    if lacking:
        raise UsageError(
            f"groups: no group for image {lacking[0]!r}{f' and {len(lacking) - 1} more' * (len(lacking) > 1)}"
        )
    places: dict[str, int] = {}
    return np.array([places.setdefault(groups[key], len(places)) for key in given.image_ids], np.intp)
