"""Where to cut the values of a histogram in two or more: the criteria behind the automatic thresholds."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from cellkit.core.histogram import Histogram

__all__ = ["between", "li_split", "multi_otsu_splits", "otsu_split", "reduced", "triangle_split"]

_BINS = 256


def between(below: float, above: float) -> float:
    """Return the float32 that parts the pixels counted at `below` from those counted at `above`.

    A pixel is counted at its value rounded to float16, so it may lie on either side of that value, but never beyond
    the midpoint to the next one; where the midpoint itself rounds up, the cut lies just under it.
    """
    middle = np.float32((below + above) / 2)
    if float(np.float16(middle)) >= above:
        middle = np.nextafter(middle, np.float32(-np.inf))
    return float(middle)


def reduced(histogram: Histogram) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return at most 256 ascending values that occur, their counts, and the cut between each value and the next.

    Up to 256 values are taken as they are. More are gathered in 256 bins of equal width from the least to the
    greatest; a float16 value is spread over the interval that rounds to it, so that narrow bins show no comb.
    """
    values, counts = histogram.filled(0)
    if len(values) <= _BINS:
        cuts = np.array([between(a, b) for a, b in pairwise(values)])
        return values, counts.astype(np.float64), cuts
    half = values.astype(np.float16)
    ends = np.empty((len(values), 2))
    with np.errstate(over="ignore"):
        ends[:, 0] = (values + np.nextafter(half, np.float16(-np.inf))) / 2
        ends[:, 1] = (values + np.nextafter(half, np.float16(np.inf))) / 2
    ends = np.clip(ends, values[0], values[-1])
    reached = np.cumsum(counts)
    edges = np.linspace(values[0], values[-1], _BINS + 1)
    share = np.interp(edges, ends.ravel(), np.stack([reached - counts, reached], 1).ravel())
    share[0], share[-1] = 0, reached[-1]
    tally = np.diff(share)
    some = np.flatnonzero(tally)
    cuts = (edges[some[:-1] + 1] + edges[some[1:]]) / 2
    return (edges[some] + edges[some + 1]) / 2, tally[some], cuts


def otsu_split(values: np.ndarray, counts: np.ndarray) -> int:
    """Return the index of the last value below the cut that makes the variance between the two sides largest."""
    n, total = np.cumsum(counts)[:-1].astype(np.float64), float(counts.sum())
    centred = values - values @ counts / total
    below = np.cumsum(centred * counts)[:-1]
    return int(np.argmax(below**2 / (n * (total - n))))


def li_split(values: np.ndarray, counts: np.ndarray) -> int:
    """Return the index of the last value below the cut that makes the cross entropy least (values from 0 up)."""
    shifted = values - values[0]
    n, mass = np.cumsum(counts).astype(np.float64), np.cumsum(shifted * counts)
    below, above = mass[:-1], mass[-1] - mass[:-1]
    entropy = above * np.log(above / (n[-1] - n[:-1]))
    some = below > 0
    entropy[some] += below[some] * np.log(below[some] / n[:-1][some])
    return int(np.argmax(entropy))


def triangle_split(values: np.ndarray, counts: np.ndarray) -> int:
    """Return the index of the value farthest under the line from the end of the longer tail, at 0, to the peak."""
    peak = int(np.argmax(counts))
    right = values[-1] - values[peak] > values[peak] - values[0]
    tail = np.arange(peak + 1, len(values))[::-1] if right else np.arange(peak)
    run = np.abs(values[tail] - values[tail[0]]) / abs(values[peak] - values[tail[0]])
    return int(tail[np.argmax(run * counts[peak] - counts[tail])])


def multi_otsu_splits(values: np.ndarray, counts: np.ndarray, classes: int) -> list[int]:
    """Return, ascending, the indices of the last value of every class but the highest.

    The cuts make the variance between classes largest; every class gets at least one value.
    """
    total = counts.sum()
    n = np.concatenate([[0.0], np.cumsum(counts)])
    mass = np.concatenate([[0.0], np.cumsum((values - values @ counts / total) * counts)])
    # score[i, j]: what the values i to j - 1 add to the variance as one class.
    with np.errstate(divide="ignore", invalid="ignore"):
        score = (mass[None] - mass[:, None]) ** 2 / (n[None] - n[:, None])
    score[np.tril_indices(len(n))] = -np.inf
    best, back = score[0], []
    for _ in range(classes - 1):
        reach = best[:, None] + score
        back.append(reach.argmax(axis=0))
        best = reach.max(axis=0)
    splits, at = [], len(values)
    for chosen in reversed(back):
        at = int(chosen[at])
        splits.append(at - 1)
    return splits[::-1]
