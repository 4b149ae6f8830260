"""Pieces of any size: linked over the cuts between blocks by union-find, with a summary of each block's open pieces.

A piece that touches no cut is decided in its own block. What an open one comes to hangs on whether any part of it, in
whatever block, is marked: for `fill_holes`, that it touches the edge of the image; for `hysteresis`, that it holds a
pixel above the upper threshold. Blocks with open pieces whose fate is another than was assumed are mended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cellkit.core.check import BoundStep
from cellkit.core.errors import KindError, StageError
from cellkit.grid.cover import Window
from cellkit.grid.groups import groups

__all__ = ["JOINS", "Open", "beside", "decide", "join_block", "joins", "mend"]

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
        mask = np.ascontiguousarray(value, bool)
        pieces, count = _pieces(~mask, 4)
        marked = _at_sides(pieces, count, [not cut for cut in cuts])
        opened = _at_sides(pieces, count, cuts)
        fill = ~marked & ~opened
        fill[0] = False
        return mask | fill[pieces], _summary(pieces, opened, marked)
    if value.ndim == 3:
        if value.shape[2] != 1:
            raise KindError(f"hysteresis: wanted one channel, got {value.shape[2]}")
        value = value[..., 0]
    low, high = step.params["low"], step.params["high"]
    if low > high:
        raise StageError(f"hysteresis: `low` must not be greater than `high`, got {low:g} and {high:g}")
    pieces, count = _pieces(np.greater(value, np.float32(low)), int(step.params["connectivity"]))
    marked = np.zeros(count + 1, bool)
    marked[pieces[np.greater(value, np.float32(high))]] = True
    opened = _at_sides(pieces, count, cuts)
    kept = marked | opened
    kept[0] = False
    return kept[pieces], _summary(pieces, opened, marked)


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


def beside(step: BoundStep, blocks: dict[tuple[int, int], Open], done: np.ndarray) -> None:
    """Take what reaches a block that was left out, by `done` (down, across), for background: no hole goes on there."""
    if step.spec.name != "fill_holes":
        return
    for (row, column), some in blocks.items():
        marked = some.marked.copy()
        for (dy, dx), side in zip(((-1, 0), (1, 0), (0, -1), (0, 1)), some.sides, strict=True):
            y, x = row + dy, column + dx
            if 0 <= y < done.shape[0] and 0 <= x < done.shape[1] and not done[y, x]:
                marked[side[side > 0] - 1] = True
        blocks[row, column] = Open(some.sides, marked, some.seed)


def mend(step: BoundStep, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Return a block's mask in which the pieces at `seeds` are decided: filled as holes, or dropped as weak."""
    filling = step.spec.name == "fill_holes"
    pieces, count = _pieces(~mask if filling else mask, connectivity(step))
    chosen = np.zeros(count + 1, bool)
    chosen[pieces.reshape(-1)[seeds]] = True
    chosen[0] = False
    return mask | chosen[pieces] if filling else mask & ~chosen[pieces]


def _pieces(mask: np.ndarray, connectivity: int) -> tuple[np.ndarray, int]:
    import cv2

    count, pieces = cv2.connectedComponents(mask.view(np.uint8), connectivity=connectivity, ltype=cv2.CV_32S)
    return pieces, count - 1


def _at_sides(pieces: np.ndarray, count: int, sides: Sequence[Any]) -> np.ndarray:
    """Return for pieces 0 to `count` whether they touch one of the chosen sides: top, bottom, left, right."""
    found = np.zeros(count + 1, bool)
    for chosen, line in zip(sides, (pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]), strict=True):
        if chosen:
            found[line] = True
    found[0] = False
    return found


def _summary(pieces: np.ndarray, opened: np.ndarray, marked: np.ndarray) -> Open:
    number = np.cumsum(opened, dtype=np.int32) * opened
    lines = (pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1])
    sides = tuple(number[line].astype(np.int32) for line in lines)
    seed = np.zeros(int(opened.sum()), np.int64)
    height, width = pieces.shape
    starts = (0, (height - 1) * width, 0, width - 1)
    steps = (1, 1, width, width)
    for side, start, step in zip(sides, starts, steps, strict=True):
        at = np.flatnonzero(side)
        seed[side[at] - 1] = start + at * step
    return Open((sides[0], sides[1], sides[2], sides[3]), marked[opened], seed)


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
