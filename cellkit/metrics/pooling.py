"""How per-image values become one number, and how sure that number is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from cellkit.core.errors import UsageError

__all__ = [
    "NOTHING",
    "Empty",
    "Sums",
    "drawn",
    "ends",
    "filled",
    "image_means",
    "interval",
    "mean_of_images",
    "ratio",
    "redrawn",
    "resampled",
    "stacked",
    "total",
    "weights",
]

C = TypeVar("C")
S = TypeVar("S", bound="Sums")

Empty = Literal["one", "skip", "zero"]
"""How something that neither truth nor prediction holds counts: as 1, not at all, or as 0."""
NOTHING: Mapping[Empty, float] = {"one": 1.0, "skip": math.nan, "zero": 0.0}

_MOST_WEIGHTS = 1 << 22


class Sums:
    """Base of counts that add up field by field: numbers, arrays of them, or other such counts.

    A field marked ``{"fixed": True}`` says what was counted and must be alike; adding unlike ones is a `UsageError`.
    """

    def __add__(self: S, other: S) -> S:
        return _field_by_field(lambda a, b: a + b, self, other)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        names = [f.name for f in dataclasses.fields(self)]  # type: ignore[arg-type]
        pairs = [(getattr(self, n), getattr(other, n)) for n in names]
        return all(a == b if isinstance(a, Sums) else np.array_equal(a, b) for a, b in pairs)


def _field_by_field(how: Callable[..., Any], *parts: S) -> S:
    made = {}
    for f in dataclasses.fields(parts[0]):  # type: ignore[arg-type]
        values = [getattr(part, f.name) for part in parts]
        if isinstance(values[0], Sums):
            made[f.name] = _field_by_field(how, *values)
        elif not f.metadata.get("fixed"):
            made[f.name] = how(*values)
        elif any(value != values[0] for value in values):
            raise UsageError(f"counts of different {f.name} do not add up: {values[0]} and others")
        else:
            made[f.name] = values[0]
    return type(parts[0])(**made)


def stacked(counts: Sequence[S]) -> S:
    """Return the counts of n >= 1 images as one, every field an array (n, ...)."""
    return _field_by_field(lambda *values: np.array(values), *counts)


def drawn(images: S, times: np.ndarray) -> S:
    """Return the sums of stacked counts in which each image occurs some `times`, (r, n): every field (r, ...)."""
    return _field_by_field(lambda values: np.tensordot(times, values, 1), images)


def mean_of_images(values: Sequence[float], empties: int, empty: Empty) -> float:
    """Return the mean of `values` and of `empties` images with nothing in them; NaN where nothing counts.

    The sum is exact before rounding, so the order of the images never changes the result.
    """
    counted = len(values) + (0 if empty == "skip" else empties)
    if not counted:
        return math.nan
    return (math.fsum(values) + (empties if empty == "one" else 0)) / counted


def total(counts: Iterable[C], nothing: C) -> C:
    """Return the sum of additive `counts`, `nothing` where there are none.

    Neighbours are added first, so that counts which grow (per-image values, classes) are not copied for every image.
    """
    parts = list(counts)
    while len(parts) > 1:
        pairs = [a + b for a, b in zip(parts[::2], parts[1::2], strict=False)]  # type: ignore[operator]
        parts = pairs + parts[len(parts) // 2 * 2 :]
    return parts[0] if parts else nothing


def ratio(part: Any, whole: Any, nothing: float = 0.0) -> Any:
    """Return `part` / `whole`, or `nothing` where the whole is 0: numbers, or arrays that fit each other."""
    if isinstance(part, (int, float)) and isinstance(whole, (int, float)):
        return part / whole if whole else nothing
    part, whole = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(whole, np.float64))
    return np.divide(part, whole, out=np.full(part.shape, nothing), where=whole != 0)[()]


def filled(value: Any, there: Any, empty: Empty) -> Any:
    """Return `value`, and what `empty` says where nothing is `there`."""
    return np.where(np.asarray(there) > 0, value, NOTHING[empty])[()]


def image_means(values: np.ndarray, times: np.ndarray | None = None) -> np.ndarray:
    """Return the mean over images, the first axis of `values` (n, ...), of what is not NaN; NaN where nothing is.

    With `times` (r, n), how often each image occurs, an array (r, ...).
    """
    counted = ~np.isnan(values)
    times = np.ones((1, len(values))) if times is None else times
    infinite = np.tensordot(times, np.isinf(values).astype(np.float64), 1)
    sums = np.tensordot(times, np.where(counted & np.isfinite(values), values, 0.0), 1)
    means = ratio(sums, np.tensordot(times, counted.astype(np.float64), 1), math.nan)
    return np.where(infinite > 0, np.inf, means)


def weights(
    images: int, groups: Sequence[Hashable] | None = None, *, resamples: int = 1000, seed: int = 0
) -> Iterator[np.ndarray]:
    """Yield how often each image is drawn, float64 (r, images), in blocks of resamples.

    Images are drawn with replacement, from the given seed; with `groups`, one for each image, whole groups are.
    """
    rng = np.random.default_rng(seed)
    place = np.arange(images) if groups is None else np.unique(_numbered(groups), return_inverse=True)[1]
    units = int(place.max(initial=-1)) + 1
    block = max(1, _MOST_WEIGHTS // max(1, images))
    for first in range(0, resamples, block):
        rows = range(first, min(first + block, resamples))
        times = np.array([np.bincount(rng.integers(0, units, units), minlength=units) for _ in rows], np.float64)
        yield times[:, place]


def _numbered(groups: Sequence[Hashable]) -> list[int]:
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(group, len(numbers)) for group in groups]


def redrawn(
    images: int, groups: Sequence[Hashable] | None, statistics: Callable[[np.ndarray], Mapping[str, np.ndarray]]
) -> dict[str, tuple[float, float]]:
    """Return the interval of every number that `statistics` makes of how often each image is drawn, (r, images)."""
    return {name: ends(values) for name, values in resampled(images, groups, statistics).items()}


def resampled(
    images: int, groups: Sequence[Hashable] | None, statistics: Callable[[np.ndarray], Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Return what every number that `statistics` makes is in each resample, float64 (r,), as `redrawn` draws them.

    The same images and groups are drawn alike every time, so that numbers of two predictions can be told apart resample
    by resample. Where there are fewer than two images or groups, arrays are empty.
    """
    if images < 2 or (groups is not None and len(set(groups)) < 2):
        return {name: np.zeros(0) for name in statistics(np.ones((1, images)))}
    blocks = [statistics(times) for times in weights(images, groups)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def ends(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return the percentiles of resampled `values` (r,) that hold the share `level`; NaN does not count."""
    values = values[~np.isnan(values)]
    if not len(values):
        return math.nan, math.nan
    # Between a finite and an infinite value there is nothing to interpolate.
    how: Any = "linear" if np.isfinite(values).all() else "nearest"
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], method=how)
    return float(low), float(high)


def interval(
    rows: np.ndarray,
    statistic: Callable[[np.ndarray], float],
    *,
    groups: Sequence[Hashable] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a statistic over images.

    `rows`: float or integer (images, n), what each image adds to the n sums that `statistic` takes. Images are drawn
    with replacement `resamples` times, from the given seed; with `groups`, one for each image (its slide, plate or
    patient), whole groups are drawn, since images of one group resemble each other. Resamples for which the statistic
    is NaN do not count; where none is left, or there are fewer than two images or groups, both ends are NaN.

    Source: B. Efron, "Bootstrap methods: another look at the jackknife", Ann. Statist. 7 (1979).
    """
    images = len(rows)
    if images < 2 or (groups is not None and len(set(groups)) < 2):
        return math.nan, math.nan
    rows = np.asarray(rows, np.float64)
    blocks = weights(images, groups, resamples=resamples, seed=seed)
    return ends(np.array([statistic(times @ rows) for block in blocks for times in block]), level)
