"""One box an object: suppress or fuse those that mean the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import numpy as np

from cellkit.core.errors import KindError, StageError
from cellkit.core.kinds import Boxes, Instances
from cellkit.core.stage import WHOLE, Span, stage

__all__ = ["suppress"]


@stage(reach=WHOLE, names=lambda _, names: names)
def suppress(
    objects: Boxes | Instances,
    /,
    *,
    method: Literal["nms", "soft-nms", "wbf"] = "nms",
    iou: Annotated[float, Span(0, 1)] = 0.5,
    score: Annotated[float, Span(0, 1)] = 0.0,
    sigma: Annotated[float, Span(0.001, 10)] = 0.5,
    per_class: bool = True,
    most: Annotated[int | None, Span(1, 10_000_000)] = None,
) -> Boxes | Instances:
    """Keep one detection of each object: those that better ones overlap are dropped, weakened or fused with them.

    ``nms`` drops a box that overlaps a better one that is kept by more than `iou` (intersection over union).
    ``soft-nms`` instead multiplies its score by exp(-overlap^2 / `sigma`), whatever the overlap, and drops what falls
    below `score`. ``wbf`` makes one box of all that overlap their mean by more than `iou`: sides weighted by score, the
    mean of the scores. With `per_class` boxes of different classes leave one another alone. Boxes that score less than
    `score` are dropped first; the `most` best are kept. Instances are compared by their boxes.

    Returns the boxes by falling score; of equal ones the first comes first.

    Raises `StageError` for ``wbf`` of instances, whose masks have no mean, `KindError` for a box that is not finite.
    Source: Bodla et al. (2017), Soft-NMS, ICCV, equation 5; Solovyev et al. (2021), Weighted boxes fusion, Image and
    Vision Computing 107, section 3.

    >>> import numpy as np
    >>> import cellkit as ck
    >>> xyxy = np.array([[10, 10, 50, 40], [14, 12, 54, 44], [60, 50, 90, 84]], np.float32)
    >>> boxes = ck.Boxes(xyxy, np.array([0.9, 0.6, 0.8], np.float32), np.zeros(3, np.int32))
    >>> kept = ck.stages.suppress(boxes, iou=0.5)
    >>> kept.xyxy.tolist()
    [[10.0, 10.0, 50.0, 40.0], [60.0, 50.0, 90.0, 84.0]]
    """
    masks = isinstance(objects, Instances)
    if masks and method == "wbf":
        raise StageError("suppress: wbf averages boxes, and masks cannot follow; use nms or soft-nms")
    boxes = objects.boxes if isinstance(objects, Instances) else objects
    finite(boxes, "suppress")
    score = float(np.float32(score))  # so that a score equal to it is not below it
    kept = np.flatnonzero(boxes.scores >= score)
    objects, boxes = objects.take(kept), boxes.take(kept)
    if method == "wbf":
        fused = weighted_fusion(boxes, np.ones(len(boxes)), 1.0, iou, per_class)
        return fused.take(np.arange(len(fused))[:most])
    if method == "nms":
        return objects.take(strongest(boxes, iou, per_class)[:most])
    from cellkit.stages._suppress import cells_of, decay

    scores = boxes.scores.astype(np.float64)
    order, scores = decay(_plain(boxes), _classes(boxes, per_class), scores, *cells_of(boxes.xyxy), sigma, score)
    order = order[:most]
    weaker = replace(boxes.take(order), scores=scores[order].astype(np.float32))
    return replace(objects.take(order), boxes=weaker) if isinstance(objects, Instances) else weaker


def strongest(boxes: Boxes, iou: float, per_class: bool) -> np.ndarray:
    """Return the places of the boxes that no better one that is kept overlaps by more than `iou`, best first."""
    from cellkit.stages._suppress import cells_of, keep_best

    order = np.argsort(-boxes.scores, kind="stable")
    kept = keep_best(_plain(boxes), _classes(boxes, per_class), order, *cells_of(boxes.xyxy), iou)
    return order[kept[order]]


def weighted_fusion(boxes: Boxes, weights: np.ndarray, detectors: float, iou: float, per_class: bool = True) -> Boxes:
    """Return the weighted means of boxes that overlap, by falling score.

    `weights`, float64 (n,), multiply the scores. The mean score of each is multiplied by the share of the `detectors`
    (their number, which the weights average to) that found it, 1 at most.
    """
    from cellkit.stages._suppress import cells_of, cluster

    scores = boxes.scores.astype(np.float64) * weights
    order = np.argsort(-scores, kind="stable")
    classes = _classes(boxes, per_class)
    means, score, members, first = cluster(_plain(boxes), classes, scores, order, *cells_of(boxes.xyxy), iou)
    score = score * np.minimum(members, detectors) / detectors
    best = np.argsort(-score, kind="stable")
    return Boxes(means[best].astype(np.float32), score[best].astype(np.float32), boxes.classes[first[best]])


def finite(boxes: Boxes, stage_name: str) -> None:
    """Raise `KindError` where a box is not finite."""
    bad = np.flatnonzero(~np.isfinite(boxes.xyxy).all(axis=1))
    if len(bad):
        raise KindError(f"{stage_name}: box {bad[0] + 1}: wanted finite coordinates, got {boxes.xyxy[bad[0]].tolist()}")


def _plain(boxes: Boxes) -> np.ndarray:
    return np.ascontiguousarray(boxes.xyxy, np.float32)


def _classes(boxes: Boxes, per_class: bool) -> np.ndarray:
    return boxes.classes.astype(np.int64) if per_class else np.zeros(len(boxes), np.int64)
