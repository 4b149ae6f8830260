"""Runs of pixels: what every mask is made of, numbered down each column and then to the right, from 0."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cellkit.core.errors import FormatError

__all__ = ["Runs", "clash", "drawn", "merged", "paint", "runs_of", "runs_of_part", "stable_order"]

_MOST = 2**62


@dataclass(frozen=True, eq=False)
class Runs:
    """Pixels of several objects: int64 start and end (half-open) of each run, and the index of its object.

    Ordered by object, then by start; the runs of one object neither overlap nor touch.
    """

    starts: np.ndarray
    ends: np.ndarray
    owner: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    def areas(self, count: int) -> np.ndarray:
        """Return the pixels of each of `count` objects, int64."""
        before = np.concatenate([[0], np.cumsum(self.ends - self.starts)])
        bounds = np.searchsorted(self.owner, np.arange(count + 1))
        return before[bounds[1:]] - before[bounds[:-1]]

    def boxes(self, count: int, height: int) -> np.ndarray:
        """Return the box of each of `count` objects, int64 (count, 4) as x0, y0, x1, y1, half-open; zeros for none."""
        boxes = np.zeros((count, 4), np.int64)
        if not len(self):
            return boxes
        x0, y0 = np.divmod(self.starts, height)
        x1, y1 = np.divmod(self.ends - 1, height)
        wraps = x1 > x0  # a run that goes on in the next column touches both edges
        y0, y1 = np.where(wraps, 0, y0), np.where(wraps, height - 1, y1)
        first = np.flatnonzero(np.append(True, self.owner[1:] != self.owner[:-1]))
        there = self.owner[first]
        for column, (values, least) in enumerate(
            ((x0, np.minimum), (y0, np.minimum), (x1, np.maximum), (y1, np.maximum))
        ):
            boxes[there, column] = least.reduceat(values, first) + (column > 1)
        return boxes

    def of(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return starts and ends of one object."""
        low, high = np.searchsorted(self.owner, [index, index + 1])
        return self.starts[low:high], self.ends[low:high]

    def take(self, keep: np.ndarray) -> Runs:
        """Return the objects of the ascending indices `keep`, numbered anew."""
        place = np.full(int(self.owner.max(initial=-1)) + 1, -1)
        place[keep[keep < len(place)]] = np.flatnonzero(keep < len(place))
        owner = place[self.owner]
        kept = owner >= 0
        return Runs(self.starts[kept], self.ends[kept], owner[kept])


def runs_of(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return start, end and value of every run of `labels`, integer (y, x), that is not background; by start."""
    height, width = labels.shape
    if labels.size == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, labels.dtype)
    change = np.empty(labels.shape, np.bool_)
    np.not_equal(labels[1:], labels[:-1], out=change[1:])
    np.not_equal(labels[0, 1:], labels[-1, :-1], out=change[0, 1:])  # a run goes on at the top of the next column
    change[0, 0] = True
    at = np.flatnonzero(change)
    values = labels.ravel()[at]
    y, x = np.divmod(at, width)
    # The points come row by row, so ordering them by column alone, stably, makes them column-major.
    order = stable_order(x)
    starts, values = (x * height + y)[order], values[order]
    ends = np.append(starts[1:], labels.size)
    kept = values != 0
    return starts[kept], ends[kept], values[kept]


def runs_of_part(labels: np.ndarray, origin: tuple[int, int], height: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `runs_of`, for `labels` that are the part from `origin` (y, x) on of an image `height` px high.

    They are those of the whole image, for objects that lie wholly inside the part.
    """
    starts, ends, values = runs_of(np.pad(labels, ((0, 1), (0, 0))))  # so that no run goes on in the next column
    column, row = np.divmod(starts, labels.shape[0] + 1)
    first = (column + origin[1]) * height + row + origin[0]
    last = first + (ends - starts)
    joined = np.flatnonzero((first[1:] == last[:-1]) & (values[1:] == values[:-1]))
    return np.delete(first, joined + 1), np.delete(last, joined), np.delete(values, joined)


def stable_order(values: np.ndarray) -> np.ndarray:
    """Stable argsort; numpy sorts 16-bit integers by radix, in linear time."""
    small = len(values) and values.min() >= 0 and values.max() <= np.iinfo(np.uint16).max
    return np.argsort(values.astype(np.uint16) if small else values, kind="stable")


def merged(starts: np.ndarray, ends: np.ndarray, owner: np.ndarray) -> Runs:
    """Return runs in any order, which may overlap within an object, as `Runs`; empty ones are dropped."""
    kept = ends > starts
    starts, ends, owner = starts[kept].astype(np.int64), ends[kept].astype(np.int64), owner[kept].astype(np.int64)
    if not len(starts):
        return Runs(starts, ends, owner)
    order = np.lexsort((starts, owner))
    starts, ends, owner = starts[order], ends[order], owner[order]
    # Every object is moved behind the one before it, so that one running maximum serves all.
    span = int(ends.max()) + 1
    rank = np.cumsum(np.append(0, owner[1:] != owner[:-1]))
    if (int(rank[-1]) + 1) * span > _MOST:
        raise FormatError(f"{int(rank[-1]) + 1} objects in an image of {span} pixels or more are too many")
    reached = np.maximum.accumulate(ends + rank * span)
    opens = np.append(True, starts[1:] + rank[1:] * span > reached[:-1])
    closes = np.append(opens[1:], True)
    return Runs(starts[opens], reached[closes] - rank[closes] * span, owner[opens])


def clash(runs: Runs) -> tuple[int, int, int] | None:
    """Return two objects that share a pixel and the first such pixel in reading order, or None."""
    order = np.argsort(runs.starts, kind="stable")
    starts, ends = runs.starts[order], runs.ends[order]
    if not len(starts):
        return None
    reached = np.maximum.accumulate(ends)
    at = np.flatnonzero(starts[1:] < reached[:-1])
    if not len(at):
        return None
    late = int(at[0]) + 1  # all before it are apart, so that the one just before reaches furthest
    first, second = sorted((int(runs.owner[order[late - 1]]), int(runs.owner[order[late]])))
    return first, second, int(starts[late])


def paint(starts: np.ndarray, ends: np.ndarray, values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Fill runs, ascending and not overlapping, with `values`; an array of their dtype and of `shape`."""
    height, width = shape
    out = np.zeros((height, width), values.dtype)
    if not len(starts):
        return out
    # Write where a column's value changes and add up downwards: no transposed copy of the image is made. Integer sums
    # wrap around, so that what is added and taken away again cancels whatever the dtype.
    tops = np.arange(width) * height
    last = np.searchsorted(starts, tops, "right") - 1
    covered = (last >= 0) & (ends[last] > tops)
    out[0, covered] = values[last[covered]]
    for edges, step in ((ends, -values), (starts, values)):
        x, y = np.divmod(edges, height)
        inner = (y > 0) & (x < width)
        out[y[inner], x[inner]] += step[inner]
    for row in range(1, height):
        out[row] += out[row - 1]
    return out


def drawn(starts: np.ndarray, ends: np.ndarray, box: tuple[int, int, int, int], height: int) -> np.ndarray:
    """Draw the runs of one object in its box, x0, y0, x1, y1: a bool mask of the box's size."""
    x0, y0, x1, y1 = box
    first, last = starts // height, (ends - 1) // height
    columns = last - first + 1
    run = np.repeat(np.arange(len(starts)), columns)
    x = first[run] + np.arange(len(run)) - np.repeat(np.cumsum(columns) - columns, columns)
    top = np.maximum(starts[run], x * height) - x * height - y0
    bottom = np.minimum(ends[run], (x + 1) * height) - x * height - y0
    step = np.zeros((y1 - y0 + 1, x1 - x0), np.int8)
    np.add.at(step, (top, x - x0), 1)
    np.subtract.at(step, (bottom, x - x0), 1)
    return np.cumsum(step[:-1], axis=0, dtype=np.int8).view(np.bool_)
