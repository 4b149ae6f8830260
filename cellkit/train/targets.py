"""Labels into what a network is trained towards: maps per head, and how much each pixel weighs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np

from cellkit.core import KindError, Span, StageError, UsageError
from cellkit.core.errors import suggest
from cellkit.core.stage import Parameter, read_parameters
from cellkit.models.card import FIXED_CLASSES

__all__ = ["DENSE_HEADS", "Balance", "TargetRules", "balance_weights", "class_counts", "target_maps"]

Balance = Literal["none", "inverse", "root", "median"]

DENSE_HEADS = ("sigmoid", "softmax", "border", "distance")
"""The heads that targets are maps for; those of detectors learn from boxes and masks themselves."""

_SHARE = 0.5
"""How far into an object, of the way to its middle, a border or gap may reach at most."""
_NEGLIGIBLE = 1e-3
"""Extra weight below which the map of Ronneberger et al. is cut off."""


@dataclass(frozen=True, kw_only=True)
class TargetRules:
    """How labels become targets. Distances run between pixel centres: `border` 2 is a ring two pixels deep.

    `border`: depth of the border class. `borders`: ``"outline"``: it runs along all of an object's outline, inside;
    ``"contacts"``: only where another object is within `border`. `gap`: pixels of an object that have another object
    within this distance become background, so that touching objects come apart (0: none do). Neither reaches further
    than half way to an object's middle, so that the smallest object keeps an interior.

    `scaling` of the distance to the nearest pixel that is not of the object: ``"maximum"``: divided by the object's
    largest (as StarDist's object probabilities: Schmidt et al., MICCAI 2018, arXiv:1806.03535), so that every object
    peaks at 1, whatever its size; ``"saturate"``: divided by `saturation` and cut off at 1, which an object cut by the
    edge of a crop shares with a whole one.

    `separation` and `sigma`: w0 and sigma of the U-Net's weight map (Ronneberger et al., MICCAI 2015, equation 2:
    10 and 5 px there), which adds ``w0 exp(-(d1 + d2)^2 / (2 sigma^2))`` to background pixels between objects, d1 and
    d2 being the distances to the nearest two; 0 leaves it out. For touching objects it needs a `gap`.
    `balance`: the weight of a pixel by its class, from how frequent the class is in the picture; see
    `balance_weights`.

    Raises `UsageError` for a value out of range.
    """

    border: Annotated[float, Span(1, 50, "px")] = 2.0
    borders: Literal["outline", "contacts"] = "outline"
    gap: Annotated[float, Span(0, 20, "px")] = 0.0
    scaling: Literal["maximum", "saturate"] = "maximum"
    saturation: Annotated[float, Span(1, 1000, "px")] = 10.0
    separation: Annotated[float, Span(0, 1000)] = 0.0
    sigma: Annotated[float, Span(0.5, 50, "px")] = 5.0
    balance: Balance = "none"

    def __post_init__(self) -> None:
        for name, parameter in _rules().items():
            try:
                object.__setattr__(self, name, parameter.coerce(getattr(self, name)))
            except ValueError as error:
                raise UsageError(f"targets: {name}: {error}") from None

    @staticmethod
    def of(values: Mapping[str, Any]) -> TargetRules:
        """Return the rules that a mapping sets. Raises `UsageError`, with a suggestion, for an unknown name."""
        known = [field.name for field in fields(TargetRules)]
        for name in values:
            if name not in known:
                hint = suggest(str(name), known) or f"known: {', '.join(known)}"
                raise UsageError(f"targets: no parameter {name!r}; {hint}")
        return TargetRules(**values)


@lru_cache(maxsize=1)
def _rules() -> dict[str, Parameter]:
    return read_parameters(TargetRules)


_DEFAULT = TargetRules()


def target_maps(
    labels: np.ndarray,
    head: str,
    rules: TargetRules = _DEFAULT,
    *,
    classes: Mapping[int, int] | None = None,
    count: int = 1,
) -> dict[str, np.ndarray]:
    """Return what a network with `head` should give for `labels`, int32 (y, x), and the weights of the pixels.

    Above 0 are objects, in any numbers; all pixels of one number are one object. 0 is background. Below 0 nothing is
    known: weight 0, and the maps around go on as if the nearest known pixel reached in there. The edge of the crop is
    no outline: distances, borders and weights are as if what the edge cuts went on behind it, without end.

    ``sigmoid``: `maps`, float32 (`count`, y, x), one per class, 1 inside. ``distance``: `maps`, float32 (3, y, x):
    interior and border (0 or 1) and distance in [0, 1]. ``softmax``: `classes`, uint8 (y, x), 0 background and 1 to
    `count`. ``border``: `classes`, uint8 (y, x), 0 background, 1 interior, 2 border. Beside it `weight`, float32
    (y, x), 1 where the rules say nothing.

    `classes` maps the number of each object to its class, from 1 to `count`; without it, each object is of class 1.

    Raises `KindError` where `labels` is no label image, `StageError` where an object has no class, `UsageError` for
    another head.
    """
    _check(labels, head, count)
    known = labels >= 0
    whole = bool(known.all())
    if not whole:
        labels = _filled(labels, known)
    numbers, labels = _numbered(labels)
    if rules.gap > 0:
        apart = _outer(labels, *_depths(labels, len(numbers)))
        apart &= _close(labels, rules.gap)
        labels = np.where(apart, np.int32(0), labels)
    if head in FIXED_CLASSES:
        deep = _depths(labels, len(numbers))
        ring = _outer(labels, *deep)
        ring &= deep[0] <= rules.border if rules.borders == "outline" else _close(labels, rules.border)
        index = (labels > 0).astype(np.uint8) + ring
        kinds = 3
    else:
        index = _lookup(numbers, classes, count)[labels]
        kinds = count + 1
    weight = _weights(labels, index, kinds, known, rules)
    if head in ("softmax", "border"):
        return {"classes": index, "weight": weight}
    maps = np.empty((3 if head == "distance" else count, *labels.shape), np.float32)
    for number in range(kinds - 1):
        np.equal(index, number + 1, out=maps[number])
    if head == "distance":
        maps[2] = _scaled(labels, deep, rules)
    return {"maps": maps, "weight": weight}


def class_counts(target: Mapping[str, np.ndarray], head: str, count: int = 1) -> np.ndarray:
    """Return how many pixels of each class a target for `head` holds, int64, background first; unknown ones left out.

    To be added up over a data set, for `balance_weights`. A distance head has background, interior and border.
    """
    there = target["weight"] > 0
    kinds = len(FIXED_CLASSES.get(head, range(count + 1)))
    if "classes" in target:
        return np.bincount(target["classes"][there], minlength=kinds)
    maps = target["maps"][: kinds - 1, there] > 0
    return np.bincount(np.where(maps.any(0), maps.argmax(0) + 1, 0), minlength=kinds)


def balance_weights(counts: Sequence[int] | np.ndarray, rule: Balance, *, most: float = 10.0) -> np.ndarray:
    """Return the weight of each class, float32, from its `counts` of pixels; classes that are absent get 1.

    ``inverse``: every class has the same part in the sum of all weights, whose mean over the pixels is 1. ``root``:
    proportional to the square root of that, the mean over the pixels again 1. ``median``: the median of the classes'
    frequencies divided by each one's (median frequency balancing: Eigen & Fergus, ICCV 2015, arXiv:1411.4734).
    ``none``: 1. None is larger than `most`.

    Raises `UsageError` for an unknown rule.
    """
    number = np.asarray(counts, np.float64)
    there = number > 0
    weights = np.ones(len(number))
    share = number[there] / max(number.sum(), 1.0)
    if rule == "inverse":
        weights[there] = 1 / (share * max(len(share), 1))
    elif rule == "root":
        weights[there] = 1 / (np.sqrt(share) * np.sqrt(share).sum())
    elif rule == "median":
        weights[there] = np.median(share) / share if len(share) else 1
    elif rule != "none":
        raise UsageError(f"balance: wanted none, inverse, root or median, got {rule!r}")
    return np.minimum(weights, most).astype(np.float32)


def _check(labels: np.ndarray, head: str, count: int) -> None:
    if head not in DENSE_HEADS:
        hint = suggest(head, DENSE_HEADS) or f"wanted one of {', '.join(DENSE_HEADS)}"
        raise UsageError(f"targets: no maps for a head {head!r}; {hint}")
    if not isinstance(labels, np.ndarray) or labels.ndim != 2 or labels.dtype != np.int32 or labels.size == 0:
        given = f"{labels.dtype} {labels.shape}" if isinstance(labels, np.ndarray) else type(labels).__name__
        raise KindError(f"targets: wanted labels, int32 (y, x) with at least a pixel, got {given}")
    if not 1 <= count <= 254:  # they are told apart in uint8
        raise UsageError(f"targets: count: wanted 1 to 254 classes, got {count!r}")


def _filled(labels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return labels where each unknown pixel has the label of about the nearest known one."""
    import cv2

    if not known.any():
        return np.zeros_like(labels)
    # OpenCV numbers the zero pixels of its input in raster order, from 1 on.
    _, nearest = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    return labels[known][nearest - 1]


def _numbered(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the objects, rising, and labels that hold 1 for the first of them and so on."""
    largest = int(labels.max())
    if largest > 4 * labels.size + 1000:  # a table of all numbers would cost more than sorting
        numbers, index = np.unique(labels, return_inverse=True)
        first = int(numbers[0] == 0)
        return numbers[first:], (index.reshape(labels.shape) + (1 - first)).astype(np.int32)
    table = np.zeros(largest + 1, np.int32)
    table[labels] = 1
    table[0] = 0
    numbers = np.flatnonzero(table)
    table[numbers] = np.arange(1, len(numbers) + 1)
    return numbers, np.ascontiguousarray(table[labels])


def _depths(labels: np.ndarray, objects: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how far each pixel is from the nearest not of its object, and the largest of that per object (0 first)."""
    from cellkit.train import _nearest

    depth = _nearest.depth(labels)
    return depth, _nearest.largest(labels, depth, objects)


def _outer(labels: np.ndarray, depth: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Return which pixels of objects are not in the inner half, where neither border nor gap may be."""
    return (labels > 0) & (depth <= (_SHARE * largest)[labels])


def _close(labels: np.ndarray, distance: float) -> np.ndarray:
    """Return which pixels of objects have a pixel of another object within `distance`."""
    from cellkit.train import _nearest

    return _nearest.passage(labels, distance, _nearest.OBJECTS) <= distance


def _scaled(labels: np.ndarray, deep: tuple[np.ndarray, np.ndarray], rules: TargetRules) -> np.ndarray:
    depth, largest = deep
    if rules.scaling == "saturate":
        return np.minimum(depth / np.float32(rules.saturation), np.float32(1))
    # Background has depth 0, whatever it is divided by.
    return depth / np.maximum(largest, np.float32(1))[labels]


def _lookup(numbers: np.ndarray, classes: Mapping[int, int] | None, count: int) -> np.ndarray:
    """Return the class, uint8, of the background and of each of the objects `numbers`."""
    out = np.ones(len(numbers) + 1, np.uint8)
    out[0] = 0
    if classes is None:
        return out
    for place, number in enumerate(numbers.tolist()):
        found = classes.get(number)
        if found is None or not 1 <= found <= count:
            given = "none" if found is None else repr(found)
            raise StageError(f"targets: object {number}: wanted a class from 1 to {count}, got {given}")
        out[place + 1] = found
    return out


def _weights(labels: np.ndarray, index: np.ndarray, kinds: int, known: np.ndarray, rules: TargetRules) -> np.ndarray:
    from cellkit.train import _nearest

    if rules.balance == "none":
        weight = known.astype(np.float32)
    else:
        counts = np.bincount(index[known], minlength=kinds)
        weight = balance_weights(counts, rules.balance)[index] * known
    if rules.separation > _NEGLIGIBLE:
        most = rules.sigma * np.sqrt(2 * np.log(rules.separation / _NEGLIGIBLE))
        between = _nearest.passage(labels, most, _nearest.BACKGROUND)
        near = (between <= most) & known
        extra = np.exp(between[near] ** 2 / np.float32(-2 * rules.sigma**2))
        weight[near] += np.float32(rules.separation) * extra
    return weight
