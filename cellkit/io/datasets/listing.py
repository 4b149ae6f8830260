"""What a folder holds: listed once, and its tables and annotation files read once."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from cellkit.core.errors import FormatError, UsageError
from cellkit.io.datasets.pairs import Missing
from cellkit.io.naming import natural, split
from cellkit.io.sources import find

__all__ = ["Listing", "by_stem", "matched", "read_csv", "read_text"]

_TABLE_BYTES = 1 << 30


class Listing:
    """The names in one folder, or in the folder of the one annotation file that was given."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise UsageError(f"{path}: no such folder")
        self.only = path if path.is_file() else None
        self.folder = path.parent if path.is_file() else path

    @cached_property
    def _entries(self) -> list[tuple[str, bool]]:
        try:
            with os.scandir(self.folder) as entries:
                found = [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            raise UsageError(f"{self.folder}: the folder cannot be read: {error.strerror or error}") from error
        return sorted(found, key=lambda entry: natural(entry[0]))

    @property
    def subfolders(self) -> list[str]:
        """Names of the folders in it, in natural order."""
        return [name for name, folder in self._entries if folder]

    @property
    def files(self) -> list[Path]:
        """The files in it, in natural order."""
        return [self.folder / name for name, folder in self._entries if not folder]

    def sub(self, *names: str) -> Path | None:
        """Return the first of the folders `names`, upper or lower case, that is in it."""
        there = {name.lower(): name for name in self.subfolders}
        return next((self.folder / there[name.lower()] for name in names if name.lower() in there), None)

    @cached_property
    def documents(self) -> dict[Path, Any]:
        """The JSON files in it, in annotations/ and those of Roboflow's parts, parsed."""
        if self.only is not None:
            return {self.only: _parsed(self.only)} if self.only.suffix.lower() == ".json" else {}
        paths = [path for path in self.files if path.suffix.lower() == ".json"]
        annotations = self.sub("annotations")
        paths += sorted(annotations.glob("*.json")) if annotations else []
        paths += [p for name in self.subfolders for p in sorted((self.folder / name).glob("*.coco.json"))]
        return {path: _parsed(path) for path in paths}


def _parsed(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: is no sound JSON: {error}") from error


def read_text(path: Path) -> str:
    """Return the text of a file. Raises `FormatError` where it is too large or not UTF-8."""
    try:
        if path.stat().st_size > _TABLE_BYTES:
            raise FormatError(f"{path}: is larger than the {_TABLE_BYTES >> 30} GiB that are read as annotations")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error


def read_csv(path: Path, *needed: str) -> list[dict[str, str]]:
    """Return the rows of a table by column name, blanks around names and values gone."""
    lines = list(csv.reader(read_text(path).splitlines()))
    if not lines:
        raise FormatError(f"{path}: is empty; wanted a table with the columns {', '.join(needed)}")
    names = [name.strip() for name in lines[0]]
    lacking = [name for name in needed if name not in names]
    if lacking:
        raise FormatError(f"{path}: has no column {lacking[0]!r}; its columns are {', '.join(names)}")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        if line and len(line) != len(names):
            raise FormatError(f"{path}: line {number} has {len(line)} values, the head {len(names)}")
        if line:
            rows.append(dict(zip(names, (value.strip() for value in line), strict=True)))
    return rows


def by_stem(files: Iterable[Path]) -> dict[str, Path]:
    """Return files by their names without suffix. Raises `UsageError` where two have one."""
    found: dict[str, Path] = {}
    for path in files:
        stem = split(path)[0]
        if stem in found:
            raise UsageError(f"{found[stem]} and {path.name} have one name; wanted one file an image")
        found[stem] = path
    return found


def images_in(folder: Path) -> dict[str, Path]:
    """Return the images of a folder by stem, in natural order; none where there is none."""
    try:
        return by_stem(source.paths[0] for source in find([folder]))
    except UsageError:
        if any(folder.iterdir()):
            raise
        return {}


def matched(images: Mapping[str, Path], truths: Mapping[str, Path], where: Path) -> tuple[list[str], list[Missing]]:
    """Return the names that both have, and what is missing of the others."""
    both = [name for name in images if name in truths]
    folder = next(iter(images.values())).parent if images else where
    missing = [Missing(n, "truth", f"looked in {where.name}/") for n in images if n not in truths]
    missing += [Missing(n, "image", f"looked in {folder.name}/") for n in truths if n not in images]
    return both, missing


def one_of(row: Mapping[str, str], names: Sequence[str]) -> str:
    """Return the first of the columns `names` that a row has a value in."""
    return next((row[name] for name in names if row.get(name)), "")
