"""Objects numbered over the whole image, and the audit of the seams."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellkit.core.errors import StageError
from cellkit.engine.blockwise.values import Value
from cellkit.grid.cover import Window

if TYPE_CHECKING:
    from cellkit.engine.blockwise.job import Bench, BlockJob

__all__ = ["Seams", "audit", "number_block", "numbers_of", "starts"]

_SHORT = 8
"""Pixels: a straight edge along a cut counts where it is longer; outlines are rarely straight for so long."""


def starts(some: Bench) -> dict[str, np.ndarray]:
    """Return for every numbered layer how many objects the blocks before each own, and at the end of all.

    The objects of the first block have the numbers 1 to n, those of the next go on from there.
    """
    last = some.plan.passes[-1].number
    down, across = some.job.grid
    counts: dict[str, list[int]] = {value.key: [] for value in some.plan.emit}
    for row in range(down):
        for column in range(across):
            block = some.result("pass", last, (row, column))
            for key, count in counts.items():
                count.append(int(block[f"o-{key}"].sum()))
    return {key: np.concatenate([[0], np.cumsum(count)]).astype(np.int64) for key, count in counts.items()}


def numbers_of(some: Bench, start: np.ndarray, value: Value, keys: np.ndarray) -> np.ndarray:
    """Return the number of each object by its key; 0 for a key below 0.

    Raises `StageError` where a block that should own an object does not know it.
    """
    job, last = some.job, some.plan.passes[-1].number
    result = np.zeros(len(keys), np.int64)
    there = np.flatnonzero(keys >= 0)
    y, x = np.divmod(keys[there], job.shape[1])
    block = y // job.side * job.grid[1] + x // job.side
    for number in np.unique(block).tolist():
        owner = some.result("pass", last, divmod(number, job.grid[1]))
        own = owner[f"k-{value.key}"][owner[f"o-{value.key}"]]
        mine = there[block == number]
        at = np.minimum(np.searchsorted(own, keys[mine]), len(own) - 1)
        if not len(own) or not (own[at] == keys[mine]).all():
            raise StageError("two blocks see an object differently; a stage reaches farther than it says")
        result[mine] = start[number] + at + 1
    return result


def number_block(some: Bench, at: tuple[int, int]) -> dict[str, np.ndarray | bytes]:
    """Write the final labels of one block, and return what its seams look like."""
    from cellkit.engine.blockwise.outputs import label_store

    core = some.job.core(at)
    start, block = some.starts(), some.result("pass", some.plan.passes[-1].number, at)
    found: dict[str, np.ndarray | bytes] = {}
    for value in some.plan.emit:
        numbers = np.concatenate([[0], numbers_of(some, start[value.key], value, block[f"k-{value.key}"])])
        if value.name not in some.plan.bound.outputs:
            continue
        ids = some.store.read_array(f"ids-{value.key}", core)
        store = label_store(some, value, int(start[value.key][-1]))
        store.write(core, numbers[ids].astype(store.dtype))
    return found


@dataclass(frozen=True)
class Seams:
    """What the labels of one layer look like along the cuts between blocks, beside lines that are no cuts.

    `touching`: objects that lie on both sides of a cut. `straight`: pixels of outlines that run along a cut for more
    than 8 px; `expected`: those of lines that no block ends at, as many pixels of them.
    """

    touching: int = 0
    straight: int = 0
    expected: float = 0.0

    @property
    def excess(self) -> float:
        """How many pixels of straight outline the cuts have more than other lines."""
        return max(0.0, self.straight - self.expected)


def audit(job: BlockJob, read: Callable[[Window], np.ndarray], places: int = 4) -> Seams:
    """Look along every cut of final labels; ``read(window)`` returns them."""
    touching: set[int] = set()
    straight = others = 0
    for axis in (0, 1):
        length, across = job.shape[axis], job.shape[1 - axis]
        cuts = range(job.side, length, job.side)
        steps = [round(job.side * (i + 1) / (places + 1)) for i in range(places)]
        for cut in cuts:
            for start in range(0, across, 8192):
                stop = min(start + 8192, across)
                for place in (cut, *(cut - step for step in steps)):
                    window = Window(place - 1, start, place + 1, stop)
                    if axis:
                        window = Window(start, place - 1, stop, place + 1)
                    pair = read(window)
                    one, two = (pair[0], pair[1]) if axis == 0 else (pair[:, 0], pair[:, 1])
                    edge = _straight(one, two)
                    if place == cut:
                        straight += edge
                        touching.update(np.unique(one[(one == two) & (one > 0)]).tolist())
                    else:
                        others += edge
    return Seams(len(touching), straight, others / places)


def _straight(one: np.ndarray, two: np.ndarray) -> int:
    """Count the pixels of runs longer than 8 along which two lines of pixels belong to different objects."""
    differ = np.concatenate([[False], (one != two), [False]])
    change = np.flatnonzero(differ[1:] != differ[:-1])
    length = change[1::2] - change[::2]
    return int(length[length > _SHORT].sum())
