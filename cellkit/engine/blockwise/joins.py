"""Pieces of any size: linked over the cuts between blocks by union-find, with a summary of each block's open pieces.

A piece that touches no cut is decided in its own block. What an open one comes to hangs on whether any part of it, in
whatever block, is marked: for `fill_holes`, that it touches the edge of the image; for `hysteresis`, that it holds a
pixel above the upper threshold. Blocks with open pieces whose fate is another than was assumed are mended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cellkit.core.check import BoundStep
from cellkit.core.errors import KindError, StageError
from cellkit.formats.pieces import paint, pieces, touched
from cellkit.grid.cover import Window
from cellkit.grid.groups import groups

__all__ = ["JOINS", "Open", "decide", "join_block", "joins", "mend"]

JOINS = ("fill_holes", "hysteresis")


@dataclass(frozen=True)
class Open:
    """The open pieces of one block.

    `sides` hold, along top, bottom, left and right, the number of the piece from 1, or 0; `marked` and `seed` (an index
    into the block's pixels) belong to pieces 1 to n.
    """

    sides: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    marked: np.ndarray
    seed: np.ndarray


def joins(step: BoundStep) -> bool:
    """Tell whether a step joins pieces over the whole image."""
    if step.spec.name == "fill_holes":
        return not step.params["area"]
    return step.spec.name in JOINS


def join_block(step: BoundStep, value: np.ndarray, core: Window, shape: tuple[int, int]) -> tuple[np.ndarray, Open]:
    """Return the mask of one block as far as it can be told, and its open pieces; `value` is the step's first layer."""
    cuts = (core.top > 0, core.bottom < shape[0], core.left > 0, core.right < shape[1])
    if step.spec.name == "fill_holes":
        mask = np.array(value, bool, order="C")
        some = _Pieces.of(~mask, 4)
        marked, opened = some.at_sides([not cut for cut in cuts]), some.at_sides(cuts)
        paint(mask, some.runs, (~marked & ~opened)[some.piece], True)
        return mask, some.summary(opened, marked)
    if value.ndim == 3:
        if value.shape[2] != 1:
            raise KindError(f"hysteresis: wanted one channel, got {value.shape[2]}")
        value = value[..., 0]
    low, high = step.params["low"], step.params["high"]
    if low > high:
        raise StageError(f"hysteresis: `low` must not be greater than `high`, got {low:g} and {high:g}")
    mask = np.ascontiguousarray(np.greater(value, np.float32(low)))
    some = _Pieces.of(mask, int(step.params["connectivity"]))
    marked = np.zeros(some.count, bool)
    marked[some.piece[touched(np.ascontiguousarray(np.greater(value, np.float32(high))), some.runs)]] = True
    opened = some.at_sides(cuts)
    paint(mask, some.runs, (~marked & ~opened)[some.piece], False)
    return mask, some.summary(opened, marked)


def connectivity(step: BoundStep) -> int:
    """Return by how many neighbours the pieces of a step hang together."""
    return 4 if step.spec.name == "fill_holes" else int(step.params["connectivity"])


def decide(step: BoundStep, blocks: Mapping[tuple[int, int], Open]) -> dict[tuple[int, int], np.ndarray]:
    """Return, for each block (row, column) to be mended, the seeds of its pieces that no part anywhere marks."""
    offset, total = {}, 0
    for at, some in blocks.items():
        offset[at] = total
        total += len(some.marked)
    if not total:
        return {}
    diagonal = connectivity(step) == 8
    edges = [np.zeros((2, 0), np.int64)]
    for (row, column), some in blocks.items():
        own = offset[row, column]
        for dy, dx, mine, theirs in ((1, 0, 1, 0), (0, 1, 3, 2)):
            other = blocks.get((row + dy, column + dx))
            if other is not None:
                base = offset[row + dy, column + dx]
                edges += _links(some.sides[mine], own, other.sides[theirs], base, diagonal)
        for dy, dx in ((1, 1), (1, -1)) if diagonal else ():
            other = blocks.get((row + dy, column + dx))
            if other is not None:
                one, two = some.sides[1][-1 if dx > 0 else 0], other.sides[0][0 if dx > 0 else -1]
                if one and two:
                    edges.append(np.array([[own + one - 1], [offset[row + dy, column + dx] + two - 1]], np.int64))
    a, b = np.concatenate(edges, axis=1)
    count, group = groups(total, a, b)
    marks = np.zeros(count, bool)
    marks[group[np.concatenate([some.marked for some in blocks.values()])]] = True
    found = {}
    for at, some in blocks.items():
        seeds = some.seed[~marks[group[offset[at] : offset[at] + len(some.seed)]]]
        if len(seeds):
            found[at] = seeds
    return found


def mend(step: BoundStep, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Return a block's mask in which the pieces at `seeds` are decided: filled as holes, or dropped as weak."""
    filling = step.spec.name == "fill_holes"
    some = _Pieces.of(~mask if filling else mask, connectivity(step))
    chosen = np.zeros(some.count, bool)
    starts = some.runs[:, 0].astype(np.int64) * mask.shape[1] + some.runs[:, 1]  # they rise
    chosen[some.piece[np.searchsorted(starts, seeds, "right") - 1]] = True
    result = np.array(mask, order="C")
    paint(result, some.runs, chosen[some.piece], filling)
    return result


@dataclass(frozen=True, eq=False)
class _Pieces:
    """The connected pieces of a block of `shape`: runs (row, start, stop), the piece of each, and how many pieces."""

    shape: tuple[int, int]
    runs: np.ndarray
    piece: np.ndarray
    count: int

    @classmethod
    def of(cls, mask: np.ndarray, neighbours: int) -> _Pieces:
        height, width = mask.shape
        return cls((height, width), *pieces(np.ascontiguousarray(mask), neighbours))

    def _beside(self) -> tuple[np.ndarray, ...]:
        """Return which runs touch each side: top, bottom, left, right."""
        row, start, stop = self.runs.T
        return row == 0, row == self.shape[0] - 1, start == 0, stop == self.shape[1]

    def at_sides(self, sides: Sequence[bool]) -> np.ndarray:
        """Return which pieces touch one of the chosen sides."""
        found = np.zeros(self.count, bool)
        for chosen, there in zip(sides, self._beside(), strict=True):
            if chosen:
                found[self.piece[there]] = True
        return found

    def summary(self, opened: np.ndarray, marked: np.ndarray) -> Open:
        """Return the pieces that are `opened`, of which some are `marked`; each has its first pixel as its seed."""
        number = (np.cumsum(opened, dtype=np.int32) * opened)[self.piece]
        height, width = self.shape
        sides = []
        for place, (there, length) in enumerate(zip(self._beside(), (width, width, height, height), strict=True)):
            line = np.zeros(length, np.int32)
            runs, numbers = self.runs[there], number[there]
            if place < 2:  # along a row runs are as long as they are, beside a column one pixel
                long = runs[:, 2] - runs[:, 1]
                within = np.arange(int(long.sum())) - np.repeat(np.cumsum(long) - long, long)
                line[np.repeat(runs[:, 1], long) + within] = np.repeat(numbers, long)
            else:
                line[runs[:, 0]] = numbers
            sides.append(line)
        first = np.zeros(self.count, np.int64)
        first[self.piece[::-1]] = (self.runs[:, 0].astype(np.int64) * width + self.runs[:, 1])[::-1]
        return Open((sides[0], sides[1], sides[2], sides[3]), marked[opened], first[opened])


def _links(one: np.ndarray, a: int, two: np.ndarray, b: int, diagonal: bool) -> list[np.ndarray]:
    """Return pairs of open pieces that touch over a cut; `a` and `b` are what their numbers begin with."""
    pairs = [(one, two)]
    if diagonal:
        pairs += [(one[1:], two[:-1]), (one[:-1], two[1:])]
    found = []
    for x, y in pairs:
        both = (x > 0) & (y > 0)
        found.append(np.unique(np.stack([x[both] + (a - 1), y[both] + (b - 1)]).astype(np.int64), axis=1))
    return found
