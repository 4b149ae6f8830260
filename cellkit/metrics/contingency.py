"""One sparse table of how two label images overlap, from which every score of objects and classes follows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cellkit.core.errors import KindError

__all__ = ["Contingency", "added", "contingency", "renumbered"]

# Pixels looked at together: small enough to stay in the processor's cache.
_BLOCK = 1 << 20


@dataclass(frozen=True, eq=False)
class Contingency:
    """How many pixels carry each pair of ids. Only pairs that occur are held, ascending by truth, then prediction.

    `truth_ids`, `pred_ids`: uint64, the ids that occur, ascending, background 0 among them. `truth`, `pred`: intp
    (k,), the place of each pair in those two. `pixels`: int64 (k,). Tables of parts of one image add up to the table
    of the whole.
    """

    truth_ids: np.ndarray
    pred_ids: np.ndarray
    truth: np.ndarray
    pred: np.ndarray
    pixels: np.ndarray

    @property
    def truth_areas(self) -> np.ndarray:
        """Pixels of each id of the truth, int64, in the order of `truth_ids`."""
        return _tally(self.truth, self.pixels, len(self.truth_ids))

    @property
    def pred_areas(self) -> np.ndarray:
        """Pixels of each id of the prediction, int64, in the order of `pred_ids`."""
        return _tally(self.pred, self.pixels, len(self.pred_ids))

    def dense(self) -> np.ndarray:
        """Return the table as an int64 array of (truth ids, prediction ids)."""
        table = np.zeros((len(self.truth_ids), len(self.pred_ids)), np.int64)
        table[self.truth, self.pred] = self.pixels
        return table

    def __add__(self, other: Contingency) -> Contingency:
        return _sum([self, other])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Contingency):
            return NotImplemented
        fields = ("truth_ids", "pred_ids", "truth", "pred", "pixels")
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in fields)


def contingency(truth: np.ndarray, pred: np.ndarray) -> Contingency:
    """Count the pixels of every pair of ids in two label images of one shape.

    Any integer dtype, or bool; ids need be neither consecutive nor small. Raises `KindError` where the shapes differ,
    a dtype is not whole numbers, or an id is negative.
    """
    _refuse(truth, pred)
    parts = list(_runs(np.atleast_2d(truth), np.atleast_2d(pred)))
    if not parts:
        nothing = np.zeros(0, np.int64)
        return _table(nothing, nothing, nothing)
    truth, pred, pixels = (np.concatenate(column) for column in zip(*parts, strict=True))
    for ids, side in ((truth, "truth"), (pred, "prediction")):
        if ids.min() < 0:
            raise KindError(f"{side}: ids must not be negative (0 is background), found {ids.min()}")
    return _table(truth, pred, pixels)


def added(tables: Iterable[Contingency]) -> Contingency:
    """Return the table of a whole image from those of its parts, which may be many: none is held longer than needed."""
    nothing = np.zeros(0, np.int64)
    total = _table(nothing, nothing, nothing)
    waiting: list[Contingency] = []
    pairs = 0
    for table in tables:
        waiting.append(table)
        pairs += len(table.pixels)
        # Adding a part costs as much as the total is long: they wait until together they are as long.
        if pairs > max(len(total.pixels), _BLOCK):
            total, waiting, pairs = _sum([total, *waiting]), [], 0
    return _sum([total, *waiting])


def renumbered(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct values of whole numbers `ids` (n,), ascending uint64, and the place of each, intp (n,).

    No id may be negative.
    """
    ids = ids.astype(np.uint64)
    if len(ids) and ids.max() < 4 * len(ids) + 65536:
        ids = ids.astype(np.intp)
        there = np.zeros(ids.max() + 1, bool)
        there[ids] = True
        place = np.cumsum(there, dtype=np.intp) - 1
        return np.flatnonzero(there).astype(np.uint64), place[ids]
    values, place = np.unique(ids, return_inverse=True)
    return values, place.astype(np.intp, copy=False)


def _refuse(truth: np.ndarray, pred: np.ndarray) -> None:
    for array, side in ((truth, "truth"), (pred, "prediction")):
        if array.dtype.kind not in "bui":
            raise KindError(f"{side}: wanted labels (whole numbers), got {array.dtype}; threshold or round it first")
    if truth.shape != pred.shape:
        raise KindError(f"the truth is {_size(truth)} but the prediction is {_size(pred)}; both must have one size")


def _size(array: np.ndarray) -> str:
    return " x ".join(map(str, array.shape)) + (" px" if array.ndim == 2 else "")


def _runs(truth: np.ndarray, pred: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield, block by block of rows, the runs of pixels that carry one pair: its two ids and the run's length."""
    if not truth.size:
        return
    rows = max(1, _BLOCK * len(truth) // truth.size)
    for top in range(0, len(truth), rows):
        a, b = _flat(truth[top : top + rows]), _flat(pred[top : top + rows])
        change = a[1:] != a[:-1]
        change |= b[1:] != b[:-1]
        starts = np.concatenate([[0], np.flatnonzero(change) + 1])
        yield a[starts], b[starts], np.diff(starts, append=a.size)


def _flat(block: np.ndarray) -> np.ndarray:
    values = block.ravel()
    return values.view(np.uint8) if values.dtype == bool else values


def _table(truth: np.ndarray, pred: np.ndarray, pixels: np.ndarray) -> Contingency:
    """Add up the pixels of pairs that occur more than once."""
    from scipy import sparse

    truth_ids, rows = renumbered(truth)
    pred_ids, columns = renumbered(pred)
    # A counting sort by row: several times as fast as sorting the pairs.
    table = sparse.coo_array((pixels, (rows, columns)), shape=(len(truth_ids), len(pred_ids))).tocsr()
    table.sum_duplicates()
    rows = np.repeat(np.arange(len(truth_ids)), np.diff(table.indptr))
    return Contingency(truth_ids, pred_ids, rows, table.indices.astype(np.intp), table.data.astype(np.int64))


def _sum(tables: Sequence[Contingency]) -> Contingency:
    return _table(
        np.concatenate([one.truth_ids[one.truth] for one in tables]),
        np.concatenate([one.pred_ids[one.pred] for one in tables]),
        np.concatenate([one.pixels for one in tables]),
    )


def _tally(places: np.ndarray, pixels: np.ndarray, length: int) -> np.ndarray:
    # Sums in float64 are exact below 2**53 pixels.
    return np.bincount(places, weights=pixels, minlength=length).astype(np.int64)
