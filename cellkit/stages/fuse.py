"""Ensembles: what several predictors say of one image, as one answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np

from cellkit.core.errors import StageError
from cellkit.core.kinds import Boxes, Mask, Prob
from cellkit.core.stage import WHOLE, Span, stage

__all__ = ["average", "fuse", "vote"]


@stage(reach=0, out="prob")
def average(prob: Prob, /, *others: Prob, weights: Annotated[tuple[float, ...], Span(0, 1000)] = ()) -> Prob:
    """Average the probabilities of several predictors, channel by channel.

    (y, x, c) each; `weights`, one a layer in their order (which `in:` sets), are relative to their sum. The channels
    keep the names of the first layer.

    Raises `StageError` where layers differ in size or channels, or the weights are not one a layer or all 0.

    >>> import numpy as np
    >>> import cellkit as ck
    >>> picture, truth = ck.io.fluorescence_field(128)
    >>> image = ck.Sample.of(image=picture)["image"]
    >>> one, other = ck.stages.gaussian(image, sigma=1), ck.stages.gamma(image, gamma=0.5)
    >>> prob = ck.stages.average(one, other)
    >>> bool(np.allclose(prob, (one + other) / 2))
    True
    """
    layers = (prob, *others)
    if len({layer.shape for layer in layers}) > 1:
        shapes = ", ".join(_shape_text(layer) for layer in layers)
        raise StageError(
            f"average: wanted layers of one size and number of channels, got {shapes}; "
            "pick what they share, e.g. with `channel`"
        )
    total = np.zeros(prob.shape, np.float32)
    for layer, share in zip(layers, _shares("average", weights, len(layers)), strict=True):
        total += np.float32(share) * layer
    return np.clip(total, 0, 1, out=total)  # shares add up to 1 only to within rounding


@stage(reach=0, out="mask")
def vote(mask: Mask, /, *others: Mask, share: Annotated[float, Span(0, 1)] = 0.5) -> Mask:
    """Take as foreground what more than a share of the masks hold: of 0.5, the majority.

    (y, x) each. With a `share` of 0 one mask is enough; with 1 it takes all of them.

    Raises `StageError` where masks differ in size.

    >>> import cellkit as ck
    >>> picture, truth = ck.io.fluorescence_field(128)
    >>> image = ck.Sample.of(image=picture)["image"]
    >>> histogram = ck.stages.histogram(image)
    >>> masks = [one(image, histogram) for one in (ck.stages.otsu, ck.stages.li, ck.stages.triangle)]
    >>> mask = ck.stages.vote(*masks)
    >>> bool((mask == (sum(m.astype(int) for m in masks) >= 2)).all())
    True
    """
    masks = (mask, *others)
    if len({m.shape for m in masks}) > 1:
        sizes = ", ".join(f"{m.shape[0]} x {m.shape[1]}" for m in masks)
        raise StageError(f"vote: wanted masks of one size, got {sizes}; make all in the same frame")
    count = np.zeros(mask.shape, np.int32)
    for one in masks:
        count += one
    # More than the share of all; where the share is all of them, all.
    return count >= min(int(np.floor(share * len(masks) + 1e-9)) + 1, len(masks))


@stage(reach=WHOLE, out="boxes", names=lambda _, names: names)
def fuse(
    boxes: Boxes,
    /,
    *others: Boxes,
    weights: Annotated[tuple[float, ...], Span(0, 1000)] = (),
    iou: Annotated[float, Span(0, 1)] = 0.55,
    score: Annotated[float, Span(0, 1)] = 0.0,
) -> Boxes:
    """Fuse the boxes of several detectors into their weighted means (weighted box fusion).

    Boxes of one class that overlap their mean by more than `iou` become one: sides weighted by score, the mean of the
    scores times the share of the detectors that found it. `weights`, one a layer in their order (which `in:` sets),
    multiply the scores of a detector. Boxes that score less than `score` are dropped first. Class numbers must mean the
    same in all layers; the names are those of the first. Returns the boxes by falling score.

    Raises `StageError` where the weights are not one a layer or all 0, `KindError` for a box that is not finite.
    Source: Solovyev et al. (2021), Weighted boxes fusion, Image and Vision Computing 107, section 3, equation 5.

    >>> import numpy as np
    >>> import cellkit as ck
    >>> xyxy = np.array([[10, 10, 50, 40], [14, 12, 54, 44], [60, 50, 90, 84]], np.float32)
    >>> boxes = ck.Boxes(xyxy, np.array([0.9, 0.6, 0.8], np.float32), np.zeros(3, np.int32))
    >>> fused = ck.stages.fuse(boxes.take([0, 2]), boxes.take([1]), iou=0.5)
    >>> len(fused)
    2
    """
    from cellkit.stages.suppress import finite, weighted_fusion

    layers = (boxes, *others)
    shares = _shares("fuse", weights, len(layers))
    kept = []
    for layer in layers:
        finite(layer, "fuse")
        kept.append(layer.take(np.flatnonzero(layer.scores >= np.float32(score))))
    together = Boxes(
        np.concatenate([k.xyxy for k in kept]),
        np.concatenate([k.scores for k in kept]),
        np.concatenate([k.classes for k in kept]),
    )
    # Weights of 1 on average, so that a box that all found keeps the mean of its scores.
    each = np.repeat(shares * len(layers), [len(k) for k in kept])
    return weighted_fusion(together, each, len(layers), iou)


def _shares(name: str, weights: Sequence[float], count: int) -> np.ndarray:
    """Return the weights divided by their sum; equal ones where none are given."""
    if weights and len(weights) != count:
        raise StageError(f"{name}: wanted one weight for each of {count} layers, got {len(weights)}")
    values = np.array(weights or [1.0] * count, np.float64)
    if not values.sum() > 0:
        raise StageError(f"{name}: wanted a weight above 0, got {', '.join(f'{w:g}' for w in weights)}")
    return values / values.sum()


def _shape_text(layer: np.ndarray) -> str:
    height, width, channels = layer.shape
    return f"{height} x {width} with {channels} channel{'s' * (channels != 1)}"
