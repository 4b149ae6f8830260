"""Which detection belongs to which true object: counts at a score threshold, classes confused, resampled AP."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cellkit.metrics.boxinput import Input
from cellkit.metrics.pooling import ratio

__all__ = ["Matches", "Ranked", "average_precision", "confusion", "match", "ranked"]

RECALLS = np.linspace(0.0, 1.0, 101)
THRESHOLDS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True, eq=False)
class Matches:
    """Of one image and class: detections by falling score, int or bool (detections,), and the number of truths.

    `hit`: bool (thresholds, detections), matched to a true object; `ignored`: matched to a crowd.
    """

    image: int
    scores: np.ndarray
    hit: np.ndarray
    ignored: np.ndarray
    truths: int


def match(given: Input, most: int, thresholds: np.ndarray) -> dict[int, list[Matches]]:
    """Match by COCO's rule, within each image and class; returns the matches of every class (numbered from 1)."""
    found: dict[int, list[Matches]] = {c + 1: [] for c in range(len(given.classes))}
    for (image, category), truth, results in _by_image(given, by_class=True):
        results = sorted(results, key=lambda r: -r["score"])[:most]
        truth = sorted(truth, key=lambda t: t["iscrowd"])
        hit, ignored = _greedy(_iou(results, truth), [t["iscrowd"] for t in truth], thresholds)
        scores = np.array([r["score"] for r in results])
        found[category].append(Matches(image, scores, hit, ignored, sum(not t["iscrowd"] for t in truth)))
    return found


def confusion(given: Input, score_threshold: float, iou_threshold: float) -> np.ndarray:
    """Return how often each class was found as each: int64 (n + 1, n + 1), truth down, detections across.

    The last row are detections without a true object, the last column true objects without a detection. Detections
    from `score_threshold` up are paired whatever their class, one to one, the largest IoU first (where equal: same
    class first, then the higher score). Crowds, and detections that lie on nothing but a crowd, do not count.
    """
    n = len(given.classes)
    table = np.zeros((n + 1, n + 1), np.int64)
    for _, truth, results in _by_image(given, by_class=False):
        results = [r for r in results if r["score"] >= score_threshold]
        crowd = np.array([t["iscrowd"] for t in truth], bool)
        iou = _iou(results, truth)
        rows, columns = np.nonzero(iou >= min(iou_threshold, 1 - 1e-10))
        same = [results[r]["category_id"] == truth[c]["category_id"] for r, c in zip(rows, columns, strict=True)]
        score = [results[r]["score"] for r in rows]
        order = np.lexsort((np.negative(score), np.logical_not(same), -iou[rows, columns]))
        free_result, free_truth = np.ones(len(results), bool), ~crowd
        for r, c in zip(rows[order], columns[order], strict=True):
            if free_result[r] and free_truth[c]:
                free_result[r] = free_truth[c] = False
                table[truth[c]["category_id"] - 1, results[r]["category_id"] - 1] += 1
        free_result[rows[crowd[columns]]] = False
        for r in np.flatnonzero(free_result):
            table[n, results[r]["category_id"] - 1] += 1
        for c in np.flatnonzero(free_truth):
            table[truth[c]["category_id"] - 1, n] += 1
    return table


@dataclass(frozen=True, eq=False)
class Ranked:
    """All detections of one class by falling score: what AP follows from, for any weights of the images."""

    images: np.ndarray
    hit: np.ndarray
    missed: np.ndarray
    truths: np.ndarray


def ranked(matches: Sequence[Matches], images: int) -> Ranked | None:
    """Return the detections of one class over all images in the order of their scores; None where it has no truth."""
    truths = np.zeros(images, np.int64)
    for one in matches:
        truths[one.image - 1] = one.truths
    if not truths.any():
        return None
    scores = np.concatenate([one.scores for one in matches])
    order = np.argsort(-scores, kind="stable")
    image = np.concatenate([np.full(len(one.scores), one.image - 1) for one in matches])[order]
    hit = np.concatenate([one.hit for one in matches], axis=1)[:, order]
    ignored = np.concatenate([one.ignored for one in matches], axis=1)[:, order]
    return Ranked(image, hit & ~ignored, ~hit & ~ignored, truths)


def average_precision(one: Ranked, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return AP and the recall reached at each threshold, where image i counts `weights[i]` times.

    Source: the COCO evaluation, precision made falling and read off at 101 recalls (cocodataset.org/#detection-eval).
    """
    truths = float(weights @ one.truths)
    if not truths:
        return np.full(len(one.hit), math.nan), np.full(len(one.hit), math.nan)
    if not len(one.images):
        return np.zeros(len(one.hit)), np.zeros(len(one.hit))
    each = weights[one.images]
    hits = np.cumsum(one.hit * each, axis=1, dtype=np.float64)
    misses = np.cumsum(one.missed * each, axis=1, dtype=np.float64)
    recall = hits / truths
    precision = hits / (hits + misses + np.spacing(1))
    falling = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    values = np.empty(len(recall))
    for t, row in enumerate(recall):
        at = np.searchsorted(row, RECALLS, "left")
        values[t] = falling[t, at[at < len(row)]].sum() / len(RECALLS)
    return values, recall[:, -1]


def counts(one: Matches, score_threshold: float) -> tuple[int, int, int]:
    """Return the true positives, false positives and false negatives from `score_threshold` up."""
    # A detection's match does not depend on those of lower score, so the best ones alone match as all do.
    kept = one.scores >= score_threshold
    hits = int((one.hit[0] & ~one.ignored[0] & kept).sum())
    return hits, int((~one.hit[0] & kept).sum()), one.truths - hits


def rates(tp: int, fp: int, fn: int) -> dict[str, float]:
    """Return precision, recall and F1; NaN where there is nothing to divide by."""
    return {
        "precision": ratio(tp, tp + fp, math.nan),
        "recall": ratio(tp, tp + fn, math.nan),
        "f1": ratio(2 * tp, 2 * tp + fp + fn, math.nan),
    }


def _by_image(given: Input, by_class: bool) -> Iterator[tuple[tuple[int, int], list[Any], list[Any]]]:
    """Yield image and class (0 for all classes), with their true objects and results, where there are any."""
    groups: dict[tuple[int, int], tuple[list[Any], list[Any]]] = {}
    for side, entries in enumerate((given.truth, given.results)):
        for entry in entries:
            key = (entry["image_id"], entry["category_id"] if by_class else 0)
            groups.setdefault(key, ([], []))[side].append(entry)
    for key in sorted(groups):
        yield key, *groups[key]


def _iou(results: Sequence[Mapping[str, Any]], truth: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return the IoU of every result and true object; with a crowd the share of the result that lies on it."""
    from faster_coco_eval import mask

    if not results or not truth:
        return np.zeros((len(results), len(truth)))
    shape = "segmentation" if "segmentation" in results[0] else "bbox"
    pair = ([entry[shape] for entry in side] for side in (results, truth))
    return np.asarray(mask.iou(*pair, [t["iscrowd"] for t in truth]), np.float64)


def _greedy(iou: np.ndarray, crowd: Sequence[int], thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give each detection, in order, the free true object of the largest IoU; where none is left, a crowd."""
    hit = np.zeros((len(thresholds), len(iou)), bool)
    ignored = np.zeros_like(hit)
    candidates: list[list[tuple[int, float]]] = [[] for _ in iou]
    for d, g in zip(*np.nonzero(iou >= min(thresholds.min(initial=1.0), 1 - 1e-10)), strict=True):
        candidates[d].append((int(g), float(iou[d, g])))
    for t, threshold in enumerate(thresholds):
        taken: set[int] = set()
        for d, near in enumerate(candidates):
            best, at = min(threshold, 1 - 1e-10), -1
            for g, value in near:
                if at >= 0 and crowd[g] and not crowd[at]:
                    break
                if value >= best and (crowd[g] or g not in taken):
                    best, at = value, g
            if at >= 0:
                hit[t, d], ignored[t, d] = True, bool(crowd[at])
                taken.add(at)
    return hit, ignored
