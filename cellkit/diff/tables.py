"""Measurements of paired objects before and after: how many differ, and by how much."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellkit.core.errors import ReadError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Pool", "Shift", "TableFile", "box_columns", "measured", "rows_of", "shifts", "unequal"]

_NAMES = ("label", "parent", "image")
"""Columns that number objects: a change of numbers is none of them."""
_BOXES = (("x0", "y0", "x1", "y1"), ("bbox_x0", "bbox_y0", "bbox_x1", "bbox_y1"))
_MOST = 100_000
"""Objects of which a measurement of a whole run is held at least; beyond, every second, fourth ... one."""


@dataclass(frozen=True)
class Shift:
    """One measurement of paired objects: how many differ, its medians, and the quartiles of what was added.

    Numbers are NaN where nothing was measured, and where a column holds words. `thinned`: of how many objects one was
    looked at for medians and quartiles.
    """

    column: str
    objects: int
    differing: int
    before: float = math.nan
    after: float = math.nan
    low: float = math.nan
    median: float = math.nan
    high: float = math.nan
    thinned: int = 1


class TableFile:
    """A table of a run, one row per object, read image by image."""

    def __init__(self, path: str | Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = Path(path)
        try:
            self._file = pq.ParquetFile(path)
            self._starts = np.concatenate(
                [[0], np.cumsum([self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)])]
            ).astype(np.int64)
            self._places = self._spans()
        except (OSError, pa.ArrowException, KeyError) as error:
            raise ReadError(f"{path}: cannot be read as a table of a run: {error}") from error
        self._held: tuple[int, Any] = (-1, None)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns."""
        return tuple(self._file.schema_arrow.names)

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def rows(self, image: str) -> pd.DataFrame:
        """Return the rows of one image; none where it has none. Raises `ReadError`."""
        import pyarrow as pa

        first, last = self._places.get(image, (0, 0))
        try:
            if first == last:
                return self._file.schema_arrow.empty_table().to_pandas()
            begin = int(np.searchsorted(self._starts, first, "right")) - 1
            end = int(np.searchsorted(self._starts, last, "left"))
            found = [self._part(i, first, last) for i in range(begin, end)]
            return pa.concat_tables(found).to_pandas()
        except (OSError, pa.ArrowException) as error:
            raise ReadError(f"{self.path}: the rows of {image!r} cannot be read: {error}") from error

    def _part(self, group: int, first: int, last: int) -> Any:
        if self._held[0] != group:
            self._held = (group, self._file.read_row_group(group))
        start = int(self._starts[group])
        low, high = max(first, start) - start, min(last, int(self._starts[group + 1])) - start
        return self._held[1].slice(low, high - low)

    def _spans(self) -> dict[str, tuple[int, int]]:
        """Return the rows of every image, half-open: those of one image follow each other."""
        found: dict[str, tuple[int, int]] = {}
        for group in range(self._file.num_row_groups if "image" in self._file.schema_arrow.names else 0):
            column = self._file.read_row_group(group, columns=["image"])["image"].combine_chunks().dictionary_encode()
            codes, names = column.indices.to_numpy(), column.dictionary.to_pylist()
            edges = np.flatnonzero(np.diff(codes)) + 1
            for low, high in zip([0, *edges.tolist()], [*edges.tolist(), len(codes)], strict=True):
                if low < high:
                    name, start = str(names[codes[low]]), int(self._starts[group])
                    found[name] = (found.get(name, (start + low,))[0], start + high)
        return found


def rows_of(frame: pd.DataFrame, labels: np.ndarray) -> np.ndarray:
    """Return the row of each of `labels` in a table with the column `label`, intp (n,); -1 where it has none."""
    known = frame["label"].to_numpy(np.uint64)
    order = np.argsort(known, kind="stable")
    if not len(known):
        return np.full(len(labels), -1, np.intp)
    place = np.minimum(np.searchsorted(known[order], labels), len(known) - 1)
    return np.where(known[order][place] == labels, order[place], -1)


def box_columns(columns: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that hold a box as x0, y0, x1, y1; none where there are none."""
    return next((names for names in _BOXES if set(names) <= set(columns)), ())


def measured(before: pd.DataFrame, after: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the columns that both tables have, by name: numbers as float64, words as objects."""
    found = {}
    for name in before.columns:
        if name in _NAMES or name not in after.columns:
            continue
        one, two = before[name], after[name]
        numbers = all(side.dtype.kind in "biuf" for side in (one, two))
        kind = np.float64 if numbers else object
        found[str(name)] = one.to_numpy(kind), two.to_numpy(kind)
    return found


def shifts(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], thinned: int = 1) -> tuple[Shift, ...]:
    """Return how each measurement moved from the first to the second of its two arrays (n,), paired by place."""
    return tuple(_shift(name, one, two, thinned) for name, (one, two) in pairs.items())


def _shift(name: str, one: np.ndarray, two: np.ndarray, thinned: int = 1) -> Shift:
    differing = _differing(one, two)
    if one.dtype == object:
        return Shift(name, len(one), differing)
    both = np.isfinite(one) & np.isfinite(two)
    if not both.any():
        return Shift(name, len(one), differing, thinned=thinned)
    one, two = one[both], two[both]
    low, middle, high = np.percentile(two - one, (25, 50, 75))
    medians = (float(np.median(one)), float(np.median(two)))
    return Shift(name, len(both), differing, *medians, float(low), float(middle), float(high), thinned)


def unequal(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Return where two arrays of one shape differ, bool; NaN is equal to itself, and None."""
    if one.dtype == object:
        import pandas as pd

        return (one != two) & ~(pd.isna(one) & pd.isna(two))
    if "f" not in (one.dtype.kind, two.dtype.kind):
        return one != two
    return (one != two) & ~(np.isnan(one) & np.isnan(two))


def _differing(one: np.ndarray, two: np.ndarray) -> int:
    return int(np.count_nonzero(unequal(one, two)))


@dataclass
class _Column:
    objects: int = 0
    differing: int = 0
    step: int = 1
    held: int = 0
    before: list[np.ndarray] = field(default_factory=list)
    after: list[np.ndarray] = field(default_factory=list)


class Pool:
    """The measurements of all images together, thinned evenly where they are very many."""

    def __init__(self) -> None:
        self._columns: dict[str, _Column] = {}

    def add(self, pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
        """Take in the measurements of one image, as `shifts` does."""
        for name, (one, two) in pairs.items():
            column = self._columns.setdefault(name, _Column())
            first = -column.objects % column.step
            column.objects += len(one)
            column.differing += _differing(one, two)
            if one.dtype == object:
                continue
            column.before.append(one[first :: column.step])
            column.after.append(two[first :: column.step])
            column.held += len(column.before[-1])
            while column.held > 2 * _MOST:
                self._thin(column)

    def shifts(self) -> tuple[Shift, ...]:
        """Return how each measurement moved over all images."""
        found = []
        for name, column in self._columns.items():
            if not column.before:
                found.append(Shift(name, column.objects, column.differing))
                continue
            one = _shift(name, np.concatenate(column.before), np.concatenate(column.after), column.step)
            counts = {"objects": column.objects, "differing": column.differing}
            found.append(Shift(**{**one.__dict__, **counts}))
        return tuple(found)

    @staticmethod
    def _thin(column: _Column) -> None:
        """Keep every second object."""
        one, two = np.concatenate(column.before)[::2], np.concatenate(column.after)[::2]
        column.before, column.after, column.held, column.step = [one], [two], len(one), 2 * column.step
