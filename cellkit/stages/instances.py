"""From detections to pixels: probabilities, labels and masks painted from boxes and instances."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np

from cellkit.core.errors import KindError
from cellkit.core.kinds import Boxes, Image, Instances, Labels, Mask, Prob
from cellkit.core.stage import WHOLE, Span, stage

__all__ = ["merge_masks", "paint", "to_labels"]

Pixels = tuple[slice, slice]


@stage(reach=WHOLE, names=lambda _, __: ("object",))
def paint(
    objects: Boxes | Instances, raw: Image, /, *, combine: Literal["max", "sum"] = "max", weigh: bool = True
) -> Prob:
    """Paint detections as a map of how likely a pixel is part of an object.

    One channel of the size of `raw`. An object counts with the probability of its mask where a network gave one, else
    with 1 in its mask or, of a box, in all pixels that it touches; with `weigh` times its score. Where objects overlap,
    `max` takes the largest value, `sum` adds them up, to 1 at most.

    Raises `KindError` for a box that is not finite or a mask that does not fit its box.

    >>> import numpy as np
    >>> import cellkit as ck
    >>> xyxy = np.array([[10, 10, 50, 40], [14, 12, 54, 44], [60, 50, 90, 84]], np.float32)
    >>> boxes = ck.Boxes(xyxy, np.array([0.9, 0.6, 0.8], np.float32), np.zeros(3, np.int32))
    >>> raw = np.zeros((96, 96, 1), np.float32)
    >>> prob = ck.stages.paint(boxes, raw, combine="sum")
    >>> round(float(prob.max()), 2)
    1.0
    """
    boxes = objects.boxes if isinstance(objects, Instances) else objects
    result = np.zeros(raw.shape[:2], np.float32)
    scores = np.clip(np.nan_to_num(boxes.scores), 0, 1) if weigh else np.ones(len(boxes), np.float32)
    for index, pixels, part in _placed(objects, result.shape):
        value: np.ndarray = scores[index]
        if isinstance(objects, Instances):
            value = value * _soft(objects, index)[part]
        view = result[pixels]
        if combine == "max":
            np.maximum(view, value, out=view)
        else:
            view += value
    return np.clip(result, 0, 1, out=result)[..., None]


@stage(reach=WHOLE)
def to_labels(
    instances: Instances,
    raw: Image,
    /,
    *,
    score: Annotated[float, Span(0, 1)] = 0.0,
    overlap: Annotated[float, Span(0, 1)] = 0.5,
    area: Annotated[int, Span(1, 1_000_000_000, "px")] = 1,
    largest: bool = False,
) -> Labels:
    """Make labels of instances: better ones take their pixels first, the others what is still free.

    Objects that score less than `score` are left out, and those of which others hold more than the share `overlap`
    already. What falls into pieces stays one object, or with `largest` keeps its largest piece (8-connected). Objects
    of less than `area` px are left out. Numbers run from 1, by falling score; of equal ones the first comes first.
    Of the size of `raw`.

    Raises `KindError` for a box that is not finite or a mask that does not fit its box.

    >>> import numpy as np
    >>> import cellkit as ck
    >>> xyxy = np.array([[10, 10, 50, 40], [14, 12, 54, 44], [60, 50, 90, 84]], np.float32)
    >>> boxes = ck.Boxes(xyxy, np.array([0.9, 0.6, 0.8], np.float32), np.zeros(3, np.int32))
    >>> masks = tuple(np.tri(round(y1 - y0), round(x1 - x0), dtype=bool) for x0, y0, x1, y1 in xyxy.tolist())
    >>> instances = ck.Instances(boxes, masks)
    >>> raw = np.zeros((96, 96, 1), np.float32)
    >>> labels = ck.stages.to_labels(instances, raw, overlap=0.9)
    >>> sorted(set(labels.ravel().tolist()))
    [0, 1, 2, 3]
    """
    labels = np.zeros(raw.shape[:2], np.int32)
    scores = instances.boxes.scores
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= np.float32(score)]
    number = 1
    for index, pixels, part in _placed(instances, labels.shape, order):
        mask, view = instances.masks[index][part], labels[pixels]
        free = mask & (view == 0)
        left, own = np.count_nonzero(free), np.count_nonzero(mask)
        if left == 0 or own - left > overlap * own:
            continue
        if largest:
            free = _largest_piece(free)
            left = np.count_nonzero(free)
        if left >= area:
            view[free] = number
            number += 1
    return labels


@stage(reach=WHOLE)
def merge_masks(
    instances: Instances,
    raw: Image,
    /,
    *,
    score: Annotated[float, Span(0, 1)] = 0.4,
    iou: Annotated[float, Span(0, 1)] = 0.5,
    pixel: Annotated[float, Span(0, 1)] = 0.3,
    threshold: Annotated[float, Span(0, 100)] = 0.9,
) -> Mask:
    """Merge instances into one mask: what their probabilities add up to where it is enough.

    In this order: drop objects that score less than `score`, and those whose boxes overlap a better one's by more than
    `iou` (non-maximum suppression, whatever their classes); set probabilities below `pixel` to 0; add them up over the
    objects; take as foreground what is greater than `threshold`. A mask without probabilities counts as 1. Of the size
    of `raw`.

    Raises `KindError` for a box that is not finite or a mask that does not fit its box.

    >>> import numpy as np
    >>> import cellkit as ck
    >>> xyxy = np.array([[10, 10, 50, 40], [14, 12, 54, 44], [60, 50, 90, 84]], np.float32)
    >>> boxes = ck.Boxes(xyxy, np.array([0.9, 0.6, 0.8], np.float32), np.zeros(3, np.int32))
    >>> masks = tuple(np.tri(round(y1 - y0), round(x1 - x0), dtype=bool) for x0, y0, x1, y1 in xyxy.tolist())
    >>> instances = ck.Instances(boxes, masks)
    >>> raw = np.zeros((96, 96, 1), np.float32)
    >>> mask = ck.stages.merge_masks(instances, raw, iou=0.5)
    >>> int(mask.sum()) == int(masks[0].sum() + masks[2].sum())
    True
    """
    from cellkit.stages.suppress import finite, strongest

    finite(instances.boxes, "merge_masks")
    enough = instances.take(np.flatnonzero(instances.boxes.scores >= np.float32(score)))
    kept = enough.take(strongest(enough.boxes, iou, per_class=False))
    total = np.zeros(raw.shape[:2], np.float32)
    for index, pixels, part in _placed(kept, total.shape):
        prob = _soft(kept, index)[part]
        total[pixels] += np.where(prob < np.float32(pixel), np.float32(0), prob)
    return total > np.float32(threshold)


def _soft(instances: Instances, index: int) -> np.ndarray:
    """Return an object's probabilities, or its mask where there are none, as float32."""
    return instances.masks[index].astype(np.float32) if instances.probs is None else instances.probs[index]


def _placed(
    objects: Boxes | Instances, shape: tuple[int, ...], order: np.ndarray | None = None
) -> Iterator[tuple[int, Pixels, Pixels]]:
    """Yield for each object that reaches into the image: its index, its pixels there, and those in its own mask."""
    boxes = objects.boxes if isinstance(objects, Instances) else objects
    bad = np.flatnonzero(~np.isfinite(boxes.xyxy).all(axis=1))
    if len(bad):
        raise KindError(f"box {bad[0] + 1}: wanted finite coordinates, got {boxes.xyxy[bad[0]].tolist()}")
    xyxy = np.clip(boxes.xyxy.astype(np.float64), -(2**31), 2**31)
    frames = np.concatenate([np.floor(xyxy[:, :2]), np.ceil(xyxy[:, 2:])], axis=1).astype(np.int64)
    cut = np.clip(frames, 0, np.array([shape[1], shape[0]] * 2))
    index = np.arange(len(boxes)) if order is None else order
    for i, (x0, y0, x1, y1), (left, top, right, bottom) in zip(
        index.tolist(), frames[index].tolist(), cut[index].tolist(), strict=True
    ):
        if isinstance(objects, Instances) and objects.masks[i].shape != (y1 - y0, x1 - x0):
            raise KindError(
                f"instance {i + 1}: wanted a mask of shape {(y1 - y0, x1 - x0)}, its box rounded outwards, "
                f"got {objects.masks[i].shape}"
            )
        if top < bottom and left < right:
            pixels = slice(top, bottom), slice(left, right)
            yield i, pixels, (slice(top - y0, bottom - y0), slice(left - x0, right - x0))


def _largest_piece(mask: np.ndarray) -> np.ndarray:
    """Return the largest 8-connected piece of a mask that is not empty."""
    import cv2

    _, pieces, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    return pieces == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
