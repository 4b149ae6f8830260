"""Objects numbered over the whole image, block after block."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cellkit.core.errors import StageError
from cellkit.engine.blockwise.values import Value

if TYPE_CHECKING:
    from cellkit.engine.blockwise.job import Bench

__all__ = ["number_block", "numbers_of", "starts"]


def starts(some: Bench) -> dict[str, np.ndarray]:
    """Return for every numbered layer how many objects the blocks before each own, and at the end of all.

    The objects of the first block have the numbers 1 to n, those of the next go on from there.
    """
    last = some.plan.passes[-1].number
    down, across = some.job.grid
    counts: dict[str, list[int]] = {value.key: [] for value in some.plan.emit}
    for row in range(down):
        for column in range(across):
            if not some.ended[row, column]:  # left out: no tissue
                for count in counts.values():
                    count.append(0)
                continue
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
        if not some.ended[divmod(number, job.grid[1])]:  # a parent of its own in a block left out: no tissue
            continue
        owner = some.result("pass", last, divmod(number, job.grid[1]))
        own = owner[f"k-{value.key}"][owner[f"o-{value.key}"]]
        mine = there[block == number]
        at = np.minimum(np.searchsorted(own, keys[mine]), len(own) - 1)
        if not len(own) or not (own[at] == keys[mine]).all():
            raise StageError("two blocks see an object differently; a stage reaches farther than it says")
        result[mine] = start[number] + at + 1
    return result


def number_block(some: Bench, at: tuple[int, int]) -> None:
    """Write the final labels of one block."""
    from cellkit.engine.blockwise.outputs import label_store

    core = some.job.core(at)
    start, block = some.starts, some.result("pass", some.plan.passes[-1].number, at)
    for value in some.plan.stored:
        store = label_store(some, value, int(start[value.key][-1]))
        numbers = np.zeros(len(block[f"k-{value.key}"]) + 1, store.dtype)
        numbers[1:] = numbers_of(some, start[value.key], value, block[f"k-{value.key}"])
        store.write(core, numbers[some.spill.read_ids(value, core)])
