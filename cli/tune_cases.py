"""The images of `cellkit tune` with their truth and groups: folders, data sets, RLE tables, COCO JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from cellkit.core import Recipe
    from cellkit.io.datasets import Pair
    from cellkit.tune.scoring import Case

__all__ = ["Wanted", "open_cases"]

_GROUPS = ("group", "patient", "patient ID", "slide", "plate", "field")
_PARTS = ("part", "split")
_SHOWN = 10


@dataclass(frozen=True)
class Wanted:
    """What is tuned on: images, truth, a table of parts and groups, and which part of them."""

    images: str
    truth: Path
    split_file: Path | None = None
    group_column: str | None = None
    part: str | None = None
    allow_missing: bool = False


@dataclass(frozen=True)
class _Truths:
    """Truth by image name, and what the data set itself says of parts and groups."""

    where: str
    read: Mapping[str, Callable[[tuple[int, int]], np.ndarray]]
    parts: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    pictures: Sequence[Path] = ()


def open_cases(wanted: Wanted, recipe: Recipe, protocol: str) -> list[Case]:
    """Return the images with their truth, in natural order; nothing of them is read yet.

    Raises `UsageError` where an image has no truth and may not lack it, or no row in the table.
    """
    from cellkit.core import UsageError
    from cellkit.io import find
    from cellkit.tune.scoring import Case

    truths = _truths(wanted.truth, protocol)
    own = truths.pictures and Path(wanted.images).resolve() == wanted.truth.resolve()
    sources = find(list(truths.pictures) if own else [wanted.images], recipe.read_options)
    parts, groups = _table(wanted, [source.name for source in sources], truths)
    if wanted.part is not None:
        there = sorted({part for part in parts.values() if part})
        if wanted.part not in there:
            known = f"the parts are {', '.join(there)}" if there else "no parts are known; give --split FILE.csv"
            raise UsageError(f"--part {wanted.part}: {known}")
        sources = [source for source in sources if parts.get(source.name) == wanted.part]
    without = [source.name for source in sources if source.name not in truths.read]
    if without and not wanted.allow_missing:
        raise UsageError(f"images without truth in {truths.where} (--allow-missing leaves them out): {_some(without)}")
    cases = [
        Case(source.name, source, truths.read[source.name], groups.get(source.name, ""))
        for source in sources
        if source.name in truths.read
    ]
    if not cases:
        raise UsageError(f"no image of {wanted.images} has truth in {truths.where}: {_some(without)}")
    return cases


def _truths(path: Path, protocol: str) -> _Truths:
    """Open the truth: a data set of a known layout, else what `cellkit eval` takes."""
    from cellkit.io.datasets import LAYOUTS, open_dataset
    from cellkit.io.datasets.listing import Listing

    from .eval_sides import truth_side

    if path.is_dir() and any(layout.fits(Listing(path)) for layout in LAYOUTS.values()):
        dataset = open_dataset(path, allow_missing=True)
        return _Truths(
            str(path),
            {pair.name: _reader(pair, protocol) for pair in dataset},
            {pair.name: pair.split for pair in dataset},
            {pair.name: pair.group for pair in dataset if pair.group},
            tuple(pair.image for pair in dataset),
        )
    side = truth_side(path, protocol)

    def reader(name: str) -> Callable[[tuple[int, int]], np.ndarray]:
        return lambda size: side.read(name, size)

    return _Truths(side.where, {name: reader(name) for name in side.names})


def _reader(pair: Pair, protocol: str) -> Callable[[tuple[int, int]], np.ndarray]:
    """Return what reads the truth of a pair: classes for `semantic`, and for `pixel` where there is nothing else."""
    if protocol == "semantic" or (protocol == "pixel" and "labels" not in pair.truth.gives):
        return pair.truth.classes
    return pair.truth.labels


def _table(wanted: Wanted, names: Sequence[str], truths: _Truths) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Return part and group of each image, from ``--split`` or the data set itself."""
    from cellkit.core import UsageError
    from cellkit.core.errors import suggest

    if wanted.split_file is None:
        if wanted.group_column is not None:
            raise UsageError("--group-column needs --split FILE.csv, the table that has this column")
        return truths.parts, truths.groups
    header, rows = _rows(wanted.split_file)
    column = wanted.group_column or next((name for name in _GROUPS if name in header), None)
    if column is not None and column not in header[1:]:
        hint = suggest(column, header[1:]) or f"it has {', '.join(header[1:]) or 'one column only'}"
        raise UsageError(f"--group-column {column}: {wanted.split_file} has no such column; {hint}")
    lacking = [name for name in names if name not in rows]
    if lacking:
        raise UsageError(f"{wanted.split_file}: has no row for {_some(lacking)}")
    part = next((name for name in _PARTS if name in header), None)
    return (
        {name: row[part] for name, row in rows.items()} if part is not None else {},
        {name: row[column] for name, row in rows.items() if row[column]} if column is not None else {},
    )


def _rows(path: Path) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Return the header of a table and its rows by the image that their first column names."""
    from cellkit.core import FormatError
    from cellkit.io.datasets.listing import read_csv
    from cellkit.io.sources import safe_stem

    rows = read_csv(path)
    if not rows:
        raise FormatError(f"{path}: has no rows; wanted a table whose first column names the images")
    header = list(rows[0])
    suffixes = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".webp", ".npy")
    named = {}
    for row in rows:
        name = row[header[0]].replace("\\", "/").rsplit("/", 1)[-1]
        named[safe_stem(name) if name.lower().endswith(suffixes) else name] = row
    return header, named


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{len(names):,} ({', '.join(names[:_SHOWN])}{more})"
