"""The objects of one image in two label files, window by window: one table of overlaps, added up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cellkit.core.errors import KindError
from cellkit.diff.tables import unequal
from cellkit.grid.cover import Window
from cellkit.io.labelfile import LabelFile, RasterFile
from cellkit.metrics import changes
from cellkit.metrics.changes import Changes
from cellkit.metrics.contingency import Contingency, added, contingency
from cellkit.metrics.instance import overlaps

__all__ = ["Compared", "coded", "compare_arrays", "compare_files", "differing_pixels"]

QUIET = changes.OUTCOMES.index("kept")
"""Codes of `changes.OUTCOMES` up to this one are of objects that stayed."""


@dataclass(frozen=True, eq=False)
class Compared:
    """What became of the objects of one layer of one image.

    `before_ids`, `after_ids`: uint64, the labels of each side, in the order of the codes in `changes`. `truth`, `pred`:
    the places of each pair in those two. `shape` (y, x). `busiest`: the window read at once in which most changed.
    """

    shape: tuple[int, int]
    before_ids: np.ndarray
    after_ids: np.ndarray
    truth: np.ndarray
    pred: np.ndarray
    changes: Changes
    busiest: Window

    @property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """The labels of objects that were paired, before and after, uint64 (p,)."""
        chosen = self.changes.pairs
        return self.before_ids[self.truth[chosen]], self.after_ids[self.pred[chosen]]

    @property
    def iou(self) -> np.ndarray:
        """The IoU of the pairs, float64 (p,)."""
        return self.changes.iou[self.changes.pairs]


@dataclass
class _Where:
    """Which labels lie in which window, on either side."""

    before: list[np.ndarray] = field(default_factory=list)
    after: list[np.ndarray] = field(default_factory=list)

    def add(self, table: Contingency) -> None:
        self.before.append(table.truth_ids)
        self.after.append(table.pred_ids)

    def busiest(self, ids: tuple[np.ndarray, np.ndarray], loud: tuple[np.ndarray, np.ndarray]) -> int:
        """Return the number of the window with most labels that are `loud`, bool, in the order of `ids`."""
        wanted = [side[which] for side, which in zip(ids, loud, strict=True)]
        counts = [
            sum(int(np.isin(side, wanted[i]).sum()) for i, side in enumerate(here))
            for here in zip(self.before, self.after, strict=True)
        ]
        return int(np.argmax(counts)) if counts else 0


def compare_files(before: str | Path, after: str | Path, limit: float) -> Compared:
    """Compare two label files of one image, whatever their numbering; neither is read whole if it need not be.

    `limit`: see `changes.find`. Raises `ReadError` for what are no labels, `KindError` where their sizes differ.
    """
    with LabelFile(before) as one, LabelFile(after) as two:
        if one.shape != two.shape:
            sizes = " but ".join(f"{name} {y} x {x} px" for name, (y, x) in (("is", one.shape), ("was", two.shape)))
            raise KindError(f"{before} {sizes} in the other run")
        windows = one.windows(two)
        where = _Where()

        def tables() -> Iterator[Contingency]:
            for window in windows:
                table = contingency(one.read(window), two.read(window))
                where.add(table)
                yield table

        return _compared(added(tables()), one.shape, windows, where, limit)


def compare_arrays(before: np.ndarray, after: np.ndarray, limit: float) -> Compared:
    """Compare two label images (y, x) of one shape. Raises `KindError` where they are none."""
    table, where = contingency(before, after), _Where()
    where.add(table)
    shape = (int(before.shape[0]), int(before.shape[1]))
    return _compared(table, shape, (Window(0, 0, *shape),), where, limit)


def coded(labels: np.ndarray, ids: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return the code, from 1, of the object at each pixel, uint8 (y, x); 0 is background.

    `ids`: uint64 (n,) ascending; `codes`: uint8 (n,), from 0.
    """
    if not len(ids):
        return np.zeros(labels.shape, np.uint8)
    table = np.concatenate([np.zeros(1, np.uint8), codes + np.uint8(1)])
    place = np.minimum(np.searchsorted(ids, labels.astype(np.uint64)), len(ids) - 1)
    return table[np.where(labels > 0, place + 1, 0)]


def differing_pixels(before: str | Path, after: str | Path) -> int:
    """Return how many pixels differ between two files of one layer; NaN is equal to itself.

    Raises `ReadError` for what is no picture, `KindError` where their shapes differ.
    """
    with RasterFile(before) as one, RasterFile(after) as two:
        total = 0
        for window in one.windows(two) if one.shape == two.shape else ():
            a, b = one.read(window), two.read(window)
            if a.shape != b.shape:
                break
            other = unequal(a, b)
            total += int(np.count_nonzero(other.any(axis=2) if other.ndim == 3 else other))
        else:
            if one.shape == two.shape:
                return total
        raise KindError(f"{before}: its shape is not that of {after}")


def _compared(
    table: Contingency, shape: tuple[int, int], windows: tuple[Window, ...], where: _Where, limit: float
) -> Compared:
    found = overlaps(table)
    ids = tuple(side[int(0 in side[:1]) :] for side in (table.truth_ids, table.pred_ids))
    result = changes.find(found, limit)
    at = 0
    if len(windows) > 1:
        at = where.busiest((ids[0], ids[1]), (result.before > QUIET, result.after > QUIET))
    return Compared(shape, ids[0], ids[1], found.truth, found.pred, result, windows[at])
