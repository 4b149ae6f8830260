"""How a data set is scored, by name: what is counted, how images are pooled, and every number that follows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cellkit.metrics import instance, pixel, semantic
from cellkit.metrics.pooling import Empty, interval, ratio, total

__all__ = ["PROTOCOLS", "Protocol", "Report"]

_EMPTY_TEXT: dict[Empty, str] = {"one": "counts as 1", "skip": "does not count", "zero": "counts as 0"}


@dataclass(frozen=True)
class Report:
    """The scores of a data set.

    `value` is the headline number and `low` to `high` its 95 % bootstrap interval over images; all three NaN where
    nothing counts. `empty_images` have no object (no foreground, no class but 0) on either side. `scores` are further
    numbers by name; `per_image` one row for each image, in the order given.
    """

    value: float
    low: float
    high: float
    rule: str
    pooling: str
    empty_images: int
    scores: Mapping[str, Any]
    per_image: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Protocol:
    """One way to score: `count` one image pair, then `report` on the counts of all images by name."""

    name: str
    headline: str
    count: Callable[[np.ndarray, np.ndarray], Any]
    report: Callable[[Mapping[str, Any], Empty], Report]


def _dsb2018(counts: Mapping[str, instance.Counts], empty: Empty) -> Report:
    every = total(counts.values(), instance.Counts())
    rows = []
    for name, one in counts.items():
        hits = one.hits[0]
        rows.append(
            {
                "image": name,
                "value": instance.score(one, empty),
                "truth_objects": one.truths,
                "predicted_objects": one.preds,
                "hits_at_0.50": hits,
                "false_positives_at_0.50": one.preds - hits,
                "false_negatives_at_0.50": one.truths - hits,
            }
        )
    counted = np.array([row["value"] for row in rows], np.float64)
    counted = counted[~np.isnan(counted)]
    low, high = interval(np.stack([counted, np.ones_like(counted)], axis=1), lambda sums: sums[0] / sums[1])
    objects = every.truths + every.preds
    tp = every.hits[0]
    scores = {
        "truth_objects": every.truths,
        "predicted_objects": every.preds,
        "images_with_objects_on_one_side_only": every.one_empty,
        "pooled": instance.image_score(every.hits, every.truths, every.preds) if objects else math.nan,
        "pooled_precision_at_0.50": ratio(tp, every.preds, math.nan),
        "pooled_recall_at_0.50": ratio(tp, every.truths, math.nan),
        "pooled_f1_at_0.50": ratio(2 * tp, objects, math.nan),
        "pooled_by_threshold": {
            f"{t / 100:.2f}": ratio(hits, objects - hits, math.nan)
            for t, hits in zip(instance.THRESHOLDS, every.hits, strict=True)
        },
    }
    rule = (
        "TP / (TP + FP + FN), averaged over the IoU thresholds 0.50, 0.55 ... 0.95; an object is hit where its IoU is "
        "strictly greater than the threshold, compared in whole numbers; an image without objects on both sides "
        f"{_EMPTY_TEXT[empty]}, on one side only as 0"
    )
    value = instance.score(every, empty)
    return Report(value, low, high, rule, "mean of images", every.both_empty, scores, tuple(rows))


def _pixel(counts: Mapping[str, pixel.Counts], empty: Empty) -> Report:
    every = total(counts.values(), pixel.Counts())
    per_image = {name: pixel.scores(one, empty) for name, one in counts.items()}
    rows = [
        {
            "image": name,
            "value": per_image[name]["dice"],
            **per_image[name],
            "true_positives": one.tp,
            "false_positives": one.fp,
            "false_negatives": one.fn,
            "true_negatives": one.tn,
        }
        for name, one in counts.items()
    ]
    pooled = pixel.scores(every, empty)
    sums = np.array([[one.tp, one.fp, one.fn, one.tn] for one in counts.values()], np.float64).reshape(len(counts), 4)
    low, high = interval(sums, lambda s: pixel.dice(pixel.Counts(*s), empty))
    scores = {
        **{f"pooled_{name}": value for name, value in pooled.items()},
        **{f"image_mean_{name}": _mean([one[name] for one in per_image.values()]) for name in pixel.SCORES},
        "pixels": every.pixels,
        "truth_foreground": ratio(every.tp + every.fn, every.pixels, math.nan),
        "predicted_foreground": ratio(every.tp + every.fp, every.pixels, math.nan),
    }
    rule = (
        "Dice coefficient (F1) of the foreground, 2 TP / (2 TP + FP + FN); a value above 0 is foreground; an image "
        f"without foreground on both sides {_EMPTY_TEXT[empty]} in image means, and so do all images pooled where "
        "none has any; on one side only, precision and recall without a denominator are 0"
    )
    empties = sum(one.empty for one in counts.values())
    return Report(pooled["dice"], low, high, rule, "pixels of all images pooled", empties, scores, tuple(rows))


def _semantic(counts: Mapping[str, semantic.Confusion], empty: Empty) -> Report:
    every = total(counts.values(), semantic.Confusion())
    classes = every.classes
    rows: list[dict[str, Any]] = []
    for name, one in counts.items():
        ious = semantic.class_iou(one, classes)
        value, accuracy = semantic.mean_iou(ious, empty), semantic.accuracy(one)
        by_class = {f"iou_{c}": v for c, v in zip(classes, ious.tolist(), strict=True)}
        rows.append({"image": name, "value": value, "accuracy": accuracy, **by_class})
    size = len(classes)
    sums = np.array([semantic.areas(one, classes).ravel() for one in counts.values()]).reshape(len(counts), 3 * size)
    low, high = interval(sums, lambda s: semantic.mean_iou(semantic.iou(*s.reshape(3, size)), "skip"))
    hits, true, found = semantic.areas(every)
    scores = {
        "classes": list(classes),
        "pooled_accuracy": semantic.accuracy(every),
        "pooled_mean_iou_without_class_0": semantic.score(every, [c for c in classes if c != 0])
        if any(classes)
        else math.nan,
        "image_mean_accuracy": _mean([row["accuracy"] for row in rows]),
        "image_mean_iou": _mean([row["value"] for row in rows]),
        "per_class": {
            str(c): {
                "iou": float(iou),
                "dice": ratio(2 * int(h), int(t + f), math.nan),
                "precision": ratio(int(h), int(f)),
                "recall": ratio(int(h), int(t)),
                "truth_pixels": int(t),
                "predicted_pixels": int(f),
            }
            for c, iou, h, t, f in zip(classes, semantic.class_iou(every), hits, true, found, strict=True)
        },
        "confusion": every.matrix.tolist(),
    }
    rule = (
        "mean over the classes of the data set (every value, 0 too, that any truth or prediction holds) of "
        "TP / (TP + FP + FN); a class never true but predicted has 0; in the mean of one image, a class of the data "
        f"set that neither side of that image holds {_EMPTY_TEXT[empty]}"
    )
    empties = sum(one.classes in {(), (0,)} for one in counts.values())
    value = semantic.score(every)
    return Report(value, low, high, rule, "pixels of all images pooled", empties, scores, tuple(rows))


def _mean(values: list[float]) -> float:
    counted = [v for v in values if not math.isnan(v)]
    return math.fsum(counted) / len(counted) if counted else math.nan


PROTOCOLS: dict[str, Protocol] = {
    "dsb2018": Protocol("dsb2018", "DSB2018 score", instance.count, _dsb2018),
    "pixel": Protocol("pixel", "Dice (F1)", pixel.count, _pixel),
    "semantic": Protocol("semantic", "mean IoU", semantic.count, _semantic),
}
