"""The audit of the seams: whether outlines of objects run along the cuts between blocks more than along other lines.

Where blocks agree, they do not. The exceptions are images that have seams of their own, such as the stripes of a
scanner or the fields of a mosaic: there an outline counts only where the picture itself does not change at the cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cellkit.engine.blockwise.job import BlockJob
from cellkit.grid.cover import Window

__all__ = ["Read", "Seams", "audit", "unexplained"]

_SHORT = 8
"""Pixels: a straight edge counts where it is longer; outlines are rarely straight for so long."""
_PIECE = 8192
_BESIDE = (7, 16, 27, 38)
"""Pixels before a cut at which lines are looked at for comparison."""
_STEP = 2.0
"""How many times as much as between the lines beside it the picture changes at a seam of its own."""

Read = Callable[[Window], np.ndarray]


@dataclass(frozen=True)
class Seams:
    """What the labels of one layer look like along the cuts between blocks, beside lines that are no cuts.

    `touching`: objects that lie on both sides of a cut. `straight`: pixels of outlines that run along a cut for more
    than 8 px; `expected`: as many as as many pixels of other lines have. `cuts`: pixels of all cuts.
    """

    touching: int = 0
    straight: int = 0
    expected: float = 0.0
    cuts: int = 0

    @property
    def excess(self) -> float:
        """How many pixels of straight outline the cuts have more than other lines."""
        return max(0.0, self.straight - self.expected)


def audit(job: BlockJob, labels: Read) -> Seams:
    """Look along every cut of final labels, and along lines some pixels beside it."""
    touching: set[int] = set()
    straight = others = pixels = 0
    beside = [step for step in _BESIDE if step < job.side // 2] or [1]
    for cut in _cuts(job):
        lines = _lines(job, labels, cut, max(beside) + 1)
        middle = len(lines) // 2
        for step in (0, *beside):
            one, two = lines[middle - step - 1], lines[middle - step]
            edge = sum(end - begin for begin, end in _runs(one, two))
            if step:
                others += edge
                continue
            straight += edge
            pixels += cut[3] - cut[2]
            touching.update(np.unique(one[(one == two) & (one > 0)]).tolist())
    return Seams(len(touching), straight, others / len(beside), pixels)


def unexplained(job: BlockJob, labels: Read, image: Read) -> int:
    """Return the pixels of straight outline along cuts where the picture, (y, x, c), goes on as if there were none."""
    total = 0
    for cut in _cuts(job):
        one, two = _lines(job, labels, cut, 1)
        runs = list(_runs(one, two))
        if not runs:
            continue
        lines = _lines(job, image, cut, 2)
        before, at, behind = (np.abs(b - a).max(axis=-1) for a, b in pairwise(lines))
        for begin, end in runs:
            beside = max(float(before[begin:end].mean()), float(behind[begin:end].mean()))
            if float(at[begin:end].mean()) <= _STEP * beside:
                total += end - begin
    return total


def _cuts(job: BlockJob) -> Iterator[tuple[int, int, int, int]]:
    """Yield (axis, first pixel behind the cut, start, stop) of every cut, in pieces; axis 0: cuts between rows."""
    for axis in (0, 1):
        length, across = job.shape[axis], job.shape[1 - axis]
        for cut in range(job.side, length, job.side):
            for start in range(0, across, _PIECE):
                yield axis, cut, start, min(start + _PIECE, across)


def _lines(job: BlockJob, read: Read, cut: tuple[int, int, int, int], many: int) -> list[np.ndarray]:
    """Return `many` lines of pixels on either side of a cut, in their order.

    Behind the cut there may be fewer, where the image ends; then its last line stands for them.
    """
    axis, place, start, stop = cut
    window = Window(place - many, start, place + many, stop)
    if axis:
        window = Window(start, place - many, stop, place + many)
    block = read(window.clipped(Window(0, 0, *job.shape)))
    lines = list(block if axis == 0 else np.moveaxis(block, 1, 0))
    return lines + lines[-1:] * (2 * many - len(lines))


def _runs(one: np.ndarray, two: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield the runs longer than 8 px along which two lines of pixels belong to different objects."""
    differ = np.concatenate([[False], one != two, [False]])
    change = np.flatnonzero(differ[1:] != differ[:-1])
    for begin, end in zip(change[::2].tolist(), change[1::2].tolist(), strict=True):
        if end - begin > _SHORT:
            yield begin, end
