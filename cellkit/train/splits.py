"""Which images train and which judge: by a file, or dealt out so that no group is cut and strata are balanced."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from cellkit.core import FormatError, UsageError
from cellkit.core.errors import suggest
from cellkit.io.datasets.listing import read_csv
from cellkit.io.datasets.pairs import Dataset, Pair

__all__ = [
    "Row",
    "Split",
    "balanced_weights",
    "hold_out",
    "make_folds",
    "read_split",
    "split_of",
    "write_split",
]

_NAMES = ("id", "name", "file", "filename", "image")
_PARTS = ("part", "split", "set", "subset")
_GROUPS = ("group", "patient", "slide", "plate", "field")
_FOLD = "fold"


@dataclass(frozen=True)
class Row:
    """One image: its `name`, the `part` it belongs to, the `group` that must not be cut (empty: one of its own).

    `fold`: the fold in which it judges, or -1. `fields`: whatever else is known of it, by column.
    """

    name: str
    part: str = ""
    group: str = ""
    fold: int = -1
    fields: Mapping[str, str] = field(default_factory=dict)

    def value(self, column: str) -> str:
        """Return what `column` says of it; empty where it says nothing."""
        own = {"name": self.name, "part": self.part, "group": self.group, _FOLD: str(self.fold)}
        return own[column] if column in own else self.fields.get(column, "")


@dataclass(frozen=True)
class Split:
    """Rows in the order of their file or data set. `where` names it in messages."""

    rows: tuple[Row, ...]
    where: str = "split"

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @property
    def folds(self) -> int:
        """How many folds there are; 0 where none were made."""
        return max((row.fold for row in self.rows), default=-1) + 1

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns beside name, part, group and fold, in the order they are met."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row.fields))

    def part(self, *parts: str) -> Split:
        """Return the rows of these parts. Raises `UsageError` where one of them has none."""
        known = sorted({row.part for row in self.rows if row.part})
        for part in parts:
            if part not in known:
                fix = suggest(part, known) or f"parts: {', '.join(known) or 'none'}"
                raise UsageError(f"{self.where}: no image belongs to the part {part!r}; {fix}")
        return replace(self, rows=tuple(row for row in self.rows if row.part in parts))

    def fold(self, number: int) -> Split:
        """Return the rows with the parts that fold `number` gives them: val where they judge, else train.

        Rows of no fold keep their part. Raises `UsageError` where there is no such fold.
        """
        if not 0 <= number < self.folds:
            raise UsageError(f"{self.where}: no fold {number}; there are {self.folds}, counted from 0")
        rows = (
            row if row.fold < 0 else replace(row, part="val" if row.fold == number else "train") for row in self.rows
        )
        return replace(self, rows=tuple(rows))

    def values(self, column: str) -> list[str]:
        """Return what `column` says of each row. Raises `UsageError` where no row has it."""
        if column not in ("name", "part", "group", _FOLD, *self.columns):
            known = ["part", "group", *self.columns]
            fix = suggest(column, known) or f"columns: {', '.join(known)}"
            raise UsageError(f"{self.where}: has no column {column!r}; {fix}")
        return [row.value(column) for row in self.rows]

    def pairs(self, dataset: Dataset) -> tuple[Pair, ...]:
        """Return the images of `dataset` that the rows name, in their order, with their part and group.

        Raises `UsageError` where one is not there.
        """
        known = {pair.name: pair for pair in dataset}
        missing = [row.name for row in self.rows if row.name not in known]
        if missing:
            more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
            raise UsageError(f"{self.where}: names {missing[0]!r}{more}, not among the images of {dataset.folder}")
        return tuple(
            replace(known[row.name], split=row.part, group=row.group, fields={**known[row.name].fields, **row.fields})
            for row in self.rows
        )


def read_split(path: str | Path) -> Split:
    """Read a CSV file with one row for each image.

    Its column of names is called id, name, file, filename or image; part (or split, set, subset), group (or patient,
    slide, plate, field) and fold are read where they are there; all others become `fields`. A suffix of a file is left
    out, as data sets do.

    Raises `FormatError` where there is no column of names, a name occurs twice, or a group lies in two parts or folds.
    """
    path = Path(path)
    rows = read_csv(path)
    if not rows:
        raise FormatError(f"{path}: names no image")
    heads = {name.lower(): name for name in rows[0]}
    column = next((heads[name] for name in _NAMES if name in heads), None)
    if column is None:
        raise FormatError(f"{path}: has no column of names ({', '.join(_NAMES)}); its columns are {', '.join(rows[0])}")
    part, group = (next((heads[n] for n in names if n in heads), "") for names in (_PARTS, _GROUPS))
    fold = heads.get(_FOLD, "")
    found = []
    for line, row in enumerate(rows, 2):
        rest = {key: value for key, value in row.items() if key not in (column, part, group, fold)}
        name = _stem(row[column]) if heads.get("file") == column or heads.get("filename") == column else row[column]
        number = _fold_of(row.get(fold, ""), f"{path}: line {line}")
        found.append(Row(name, row.get(part, ""), row.get(group, ""), number, rest))
    split = Split(tuple(found), str(path))
    _refuse_faults(split)
    return split


def write_split(path: str | Path, split: Split) -> None:
    """Write a CSV file with the columns id, part, group, fold (where there are any) and all fields. Atomic.

    Raises `WriteError` where it cannot be written.
    """
    from cellkit.io import atomic

    folds = [_FOLD] if split.folds else []
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "part", "group", *folds, *split.columns])
    for row in split:
        number = [str(row.fold) if row.fold >= 0 else ""] if folds else []
        writer.writerow([row.name, row.part, row.group, *number, *(row.fields.get(c, "") for c in split.columns)])
    with atomic(Path(path)) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="")


def split_of(dataset: Dataset) -> Split:
    """Return what a data set says of its own images: part, group and fields."""
    rows = []
    for pair in dataset:
        rest = {key: value for key, value in pair.fields.items() if key not in ("id", "name", "part", "group", _FOLD)}
        fold = _fold_of(pair.fields.get(_FOLD, ""), f"{dataset.folder}: {pair.name}")
        rows.append(Row(pair.name, pair.split, pair.group, fold, rest))
    return Split(tuple(rows), str(dataset.folder))


def make_folds(split: Split, folds: int, *, stratify: str = "", seed: int = 0) -> Split:
    """Return the rows, each with the fold in which it judges: no group in two folds, strata spread evenly.

    Groups are dealt out from the largest to the smallest, each to the fold that has least of its strata, so that for
    strata that no group straddles the folds differ by at most the stratum's largest group. `stratify` names a column;
    without it, all images are one stratum. Ties are broken by `seed`.

    Raises `UsageError` where there are fewer groups than folds or no such column.
    """
    if folds < 2:
        raise UsageError(f"{split.where}: wanted at least 2 folds, got {folds}")
    place = _dealt(split, [1 / folds] * folds, stratify, seed)
    return replace(split, rows=tuple(replace(row, fold=place[_group(row)]) for row in split))


def hold_out(split: Split, share: float = 0.2, *, stratify: str = "", seed: int = 0) -> Split:
    """Return the rows with the parts train and val, about `share` of each stratum in val; no group in both.

    Raises `UsageError` where there is only one group, no such column, or `share` is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise UsageError(f"{split.where}: wanted a share between 0 and 1 for validation, got {share}")
    place = _dealt(split, [1 - share, share], stratify, seed)
    rows = (replace(row, part=("train", "val")[place[_group(row)]]) for row in split)
    return replace(split, rows=tuple(rows))


def balanced_weights(values: Sequence[str], *, power: float = 1.0) -> np.ndarray:
    """Return how often to draw each image, float64 (n,) that add up to 1, so that every value comes up equally often.

    `values`: what a column says of each image. `power` 0 leaves images as frequent as they are, 1 balances fully; in
    between, a value with n images is drawn as often as n to the power of (1 - `power`).

    Raises `UsageError` where there is none, or `power` is out of range.
    """
    if not len(values):
        raise UsageError("balance: there are no images to draw from")
    if not 0 <= power <= 1:
        raise UsageError(f"balance: power: wanted 0 to 1, got {power}")
    counts = Counter(values)
    weights = np.array([counts[value] ** -power for value in values], np.float64)
    return weights / weights.sum()


def _dealt(split: Split, shares: Sequence[float], stratify: str, seed: int) -> dict[str, int]:
    """Return the part, counted from 0, of each group; parts get `shares` of each stratum as nearly as groups allow."""
    strata = split.values(stratify) if stratify else [""] * len(split)
    names = {name: i for i, name in enumerate(sorted(set(strata)))}
    groups: dict[str, np.ndarray] = {}
    for row, stratum in zip(split, strata, strict=True):
        groups.setdefault(_group(row), np.zeros(len(names)))[names[stratum]] += 1
    if len(groups) < len(shares):
        raise UsageError(
            f"{split.where}: {len(groups)} group{'s' * (len(groups) != 1)} cannot be dealt out to {len(shares)} parts, "
            "as no group is cut"
        )
    shuffled = sorted(groups)
    np.random.default_rng(seed).shuffle(shuffled)
    totals = np.sum(list(groups.values()), axis=0)
    have = np.zeros((len(shares), len(names)))
    wanted = np.array(shares)
    place = {}
    for group in sorted(shuffled, key=lambda name: -groups[name].sum()):
        size = groups[group]
        # A stratum counts by its share, so that a rare one is spread as evenly as a common one.
        fill = (have + size) / wanted[:, None] @ (size / totals**2)
        ahead = (have.sum(axis=1) + size.sum()) / wanted
        best = np.lexsort((ahead, np.round(fill / fill.max(), 9)))[0]
        place[group] = int(best)
        have[best] += size
    _fill_empty(place, groups, len(shares))
    return place


def _fill_empty(place: dict[str, int], groups: Mapping[str, np.ndarray], parts: int) -> None:
    """Move the smallest group of the fullest part to each part that got none."""
    counts = Counter(place.values())
    for part in range(parts):
        if not counts[part]:
            source = counts.most_common(1)[0][0]
            smallest = min((name for name in place if place[name] == source), key=lambda name: groups[name].sum())
            place[smallest] = part
            counts[part], counts[source] = 1, counts[source] - 1


def _group(row: Row) -> str:
    return f"group {row.group}" if row.group else f"image {row.name}"


def _stem(name: str) -> str:
    from cellkit.io.naming import split

    return split(Path(name))[0]


def _fold_of(text: str, where: str) -> int:
    if not text:
        return -1
    if not text.isdecimal():
        raise FormatError(f"{where}: fold: wanted a whole number from 0, got {text!r}")
    return int(text)


def _refuse_faults(split: Split) -> None:
    twice = _first(name for name, count in Counter(row.name for row in split).items() if count > 1)
    if twice:
        raise FormatError(f"{split.where}: names {twice!r} twice")
    sides: tuple[tuple[str, Callable[[Row], str]], ...] = (
        ("part", lambda row: row.part),
        ("fold", lambda row: str(row.fold) if row.fold >= 0 else ""),
    )
    for what, side in sides:
        seen: dict[str, str] = {}
        for row in split:
            if row.group and side(row) and seen.setdefault(row.group, side(row)) != side(row):
                raise FormatError(
                    f"{split.where}: the group {row.group!r} lies in the {what}s {seen[row.group]!r} and "
                    f"{side(row)!r}; what belongs together must be on one side"
                )


def _first(values: Iterable[str]) -> str:
    return next(iter(values), "")
