"""How per-image values become one number, and how sure that number is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, TypeVar

import numpy as np

__all__ = ["Empty", "interval", "mean_of_images", "ratio", "total"]

C = TypeVar("C")

Empty = Literal["one", "skip", "zero"]
"""How something that neither truth nor prediction holds counts: as 1, not at all, or as 0."""


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


def ratio(part: float, whole: float, nothing: float = 0.0) -> float:
    """Return `part` / `whole`, or `nothing` where the whole is 0."""
    return part / whole if whole else nothing


def interval(
    rows: np.ndarray,
    statistic: Callable[[np.ndarray], float],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a statistic over images.

    `rows`: float or integer (images, n), what each image adds to the n sums that `statistic` takes. Images are drawn
    with replacement `resamples` times, from the given seed. Resamples for which the statistic is NaN do not count;
    where none is left, or there are fewer than two images, both ends are NaN.

    Source: B. Efron, "Bootstrap methods: another look at the jackknife", Ann. Statist. 7 (1979).
    """
    images = len(rows)
    if images < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    rows = np.asarray(rows, np.float64)
    drawn = np.empty(resamples)
    for i in range(resamples):
        weights = np.bincount(rng.integers(0, images, images), minlength=images)
        drawn[i] = statistic(weights @ rows)
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return math.nan, math.nan
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
