"""Reports on scores of pixels: foreground, and classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cellkit.metrics import pixel, semantic
from cellkit.metrics.pooling import NOTHING, Sums, ends, image_means, ratio, resampled, total
from cellkit.metrics.report import EMPTY_TEXT, POOLING_TEXT, Report, Settings, Summary, summary

__all__ = ["classes", "foreground"]

_MOST_COLUMNS = 10


def foreground(counts: Mapping[str, pixel.Counts], settings: Settings) -> Report:
    """Report on the pixels of a foreground; the headline is the Dice coefficient."""
    empty = settings.empty
    found = summary(counts, pixel.Counts(), lambda c: pixel.scores(c, empty), settings)
    every = found.total
    rows = [
        {
            "image": name,
            "value": float(found.images["dice"][i]),
            **{score: float(values[i]) for score, values in found.images.items()},
            "true_positives": one.tp,
            "false_positives": one.fp,
            "false_negatives": one.fn,
            "true_negatives": one.tn,
        }
        for i, (name, one) in enumerate(counts.items())
    ]
    scores, intervals = found.scores()
    scores |= {
        "pixels": every.pixels,
        "truth_foreground": ratio(every.tp + every.fn, every.pixels, math.nan),
        "predicted_foreground": ratio(every.tp + every.fp, every.pixels, math.nan),
    }
    rule = (
        "Dice coefficient (F1) of the foreground, 2 TP / (2 TP + FP + FN); a value above 0 is foreground; an image "
        f"without foreground on both sides {EMPTY_TEXT[empty]} in image means, and so do all images pooled where "
        "none has any; on one side only, precision and recall without a denominator are 0"
    )
    empties = sum(one.empty for one in counts.values())
    pooling = "pixels of all images pooled" if settings.pooling != "images" else POOLING_TEXT["images"]
    value, low, high = found.chosen(settings.pooling, "dice")
    draws = found.drawn(settings.pooling, "dice")
    return Report(value, low, high, rule, pooling, empties, scores, tuple(rows), intervals, draws=draws)


@dataclass(frozen=True, eq=False)
class _Areas(Sums):
    """Pixels of each class of a data set that are right, true and predicted, (k,) each."""

    hits: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    true: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    found: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def by_class(self) -> dict[str, np.ndarray]:
        """Return every score of each class, (..., k); NaN for a class that occurs on neither side."""
        there = self.true + self.found
        return {
            "iou": ratio(self.hits, there - self.hits, math.nan),
            "dice": ratio(2 * self.hits, there, math.nan),
            "precision": np.where(there > 0, ratio(self.hits, self.found), math.nan),
            "recall": np.where(there > 0, ratio(self.hits, self.true), math.nan),
        }


def classes(counts: Mapping[str, semantic.Confusion], settings: Settings) -> Report:
    """Report on the pixels of every class; the headline is the mean IoU over the classes of the data set."""
    every = total(counts.values(), semantic.Confusion())
    names = every.classes
    foreground_classes = np.array([c != 0 for c in names], bool)

    def numbers(areas: _Areas) -> dict[str, np.ndarray]:
        table = areas.by_class()
        pixels = areas.true.sum(axis=-1)
        made = {
            "accuracy": ratio(areas.hits.sum(axis=-1), pixels, math.nan),
            "mean_iou": _mean(table["iou"]),
            "mean_iou_without_class_0": _mean(table["iou"][..., foreground_classes]),
            "mean_dice": _mean(table["dice"]),
        }
        return made | {f"per_class.{c}.{s}": v[..., i] for s, v in table.items() for i, c in enumerate(names)}

    parts = {name: _Areas(*semantic.areas(one, names)) if names else _Areas() for name, one in counts.items()}
    nothing = _Areas(*np.zeros((3, len(names)), np.int64))
    found = summary(parts, nothing, numbers, settings)
    # In one image, a class of the data set that neither side holds counts as `empty` says.
    absent = np.array([one.true + one.found == 0 for one in parts.values()]).reshape(len(parts), len(names))
    ious = np.array([found.images[f"per_class.{c}.iou"] for c in names]).reshape(len(names), len(parts)).T
    values = _mean(np.where(absent, NOTHING[settings.empty], ious))
    rows = [_class_row(name, i, values, counts[name], found, names) for i, name in enumerate(counts)]
    scores, intervals = _class_scores(found, every, values)
    rule = (
        "mean over the classes of the data set (every value, 0 too, that any truth or prediction holds) of "
        "TP / (TP + FP + FN); a class never true but predicted has 0; in the mean of one image, a class of the data "
        f"set that neither side of that image holds {EMPTY_TEXT[settings.empty]}"
    )
    empties = sum(one.classes in {(), (0,)} for one in counts.values())
    value, low, high = found.chosen("set", "mean_iou")
    pooling, draws = "pixels of all images pooled", found.drawn("set", "mean_iou")
    if settings.pooling == "images":
        again = _values_drawn(values, list(counts), settings)
        pooling, draws = POOLING_TEXT["images"], {**draws, "value": again} if draws else {}
        value, (low, high) = scores["image_mean_iou"], ends(again)
    return Report(value, low, high, rule, pooling, empties, scores, tuple(rows), intervals, draws=draws)


def _class_scores(
    found: Summary[_Areas], every: semantic.Confusion, values: np.ndarray
) -> tuple[dict[str, Any], dict[str, tuple[float, float]]]:
    hits, true, predicted = semantic.areas(every)
    per_class = {
        str(c): {
            **{score: found.pooled[f"per_class.{c}.{score}"] for score in ("iou", "dice", "precision", "recall")},
            "image_mean_iou": found.means[f"per_class.{c}.iou"],
            "truth_pixels": int(true[i]),
            "predicted_pixels": int(predicted[i]),
            "right_pixels": int(hits[i]),
        }
        for i, c in enumerate(every.classes)
    }
    scores = {
        "classes": list(every.classes),
        **{f"pooled_{n}": v for n, v in found.pooled.items() if not n.startswith("per_class")},
        "image_mean_accuracy": found.means["accuracy"],
        "image_mean_iou": float(image_means(values)[0]) if len(values) else math.nan,
        "per_class": per_class,
        "confusion": every.matrix.tolist(),
    }
    intervals = {n if n.startswith("per_class") else f"pooled_{n}": v for n, v in found.pooled_intervals.items()}
    return scores, intervals | {"image_mean_accuracy": found.mean_intervals["accuracy"]}


def _values_drawn(values: np.ndarray, images: list[str], settings: Settings) -> np.ndarray:
    return resampled(len(images), settings.units(images), lambda times: {"value": image_means(values, times)})["value"]


def _class_row(
    name: str,
    i: int,
    values: np.ndarray,
    one: semantic.Confusion,
    found: Summary[_Areas],
    names: tuple[int, ...],
) -> dict[str, Any]:
    row: dict[str, Any] = {"image": name, "value": float(values[i]), "accuracy": semantic.accuracy(one)}
    for score in ("iou", "dice", "precision", "recall"):
        row |= {f"{score}_{c}": float(found.images[f"per_class.{c}.{score}"][i]) for c in names}
    if len(names) <= _MOST_COLUMNS:
        at = {c: place for place, c in enumerate(one.classes)}
        row |= {
            f"pixels_{a}_as_{b}": int(one.matrix[at[a], at[b]]) if a in at and b in at else 0
            for a in names
            for b in names
        }
    return row


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean along the last axis of what is not NaN; NaN where nothing is."""
    there = ~np.isnan(values)
    return ratio(np.where(there, values, 0.0).sum(axis=-1), there.sum(axis=-1), math.nan)
