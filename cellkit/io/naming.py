"""Output names: safe on every file system, and no two alike."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Named", "natural", "safe", "split", "unique"]

_DOUBLE = (".ome.tif", ".ome.tiff", ".ome.btf", ".ome.tf2", ".ome.tf8", ".ome.zarr")
_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*\ud800-\udfff]')
_RESERVED = frozenset(
    ("con", "prn", "aux", "nul", "conin$", "conout$", *(f"{d}{n}" for d in ("com", "lpt") for n in "123456789¹²³"))
)
_MOST_BYTES = 180  # file systems take 255; suffixes, numbers and temporary names need some


@dataclass(frozen=True)
class Named:
    """What a name is made of: the stem, the folders above it, and the suffix without its dot."""

    stem: str
    folders: tuple[str, ...] = ()
    suffix: str = ""


def split(path: Path) -> tuple[str, str]:
    """Return stem and suffix (with its dot) of a file name; ``.ome.tif`` is one suffix."""
    name = path.name
    lower = name.lower()
    for double in _DOUBLE:
        if lower.endswith(double) and len(name) > len(double):
            return name[: -len(double)], name[-len(double) :]
    return path.stem, path.suffix


def safe(name: str) -> str:
    """Return `name` as a file name that every system takes: no reserved characters or words, not hidden, not long."""
    name = _UNSAFE.sub("_", unicodedata.normalize("NFC", name)).rstrip(". ")
    if name.startswith("."):
        name = "_" + name[1:]
    if not name:
        return "image"
    if name.partition(".")[0].rstrip().casefold() in _RESERVED:
        name = f"_{name}"
    if len(name.encode()) > _MOST_BYTES:
        digest = hashlib.sha256(name.encode()).hexdigest()[:10]
        name = f"{name.encode()[: _MOST_BYTES - 11].decode(errors='ignore')}-{digest}"
    return name


def natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key by which ``s2`` comes before ``s10``."""
    pieces = re.split(r"([0-9]+)", text.casefold())
    return tuple((0, int(p), p) if i % 2 else (1, 0, p) for i, p in enumerate(pieces))


def unique(items: Sequence[Named]) -> list[str]:
    """Return a safe name for each item, all different even where case does not count.

    Names that clash get the fewest parent folders that tell most of them apart, then the suffix, then a number.
    """
    names = [safe(item.stem) for item in items]
    clashes: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        clashes.setdefault(_folded(name), []).append(i)
    taken = {folded for folded, members in clashes.items() if len(members) == 1}
    for members in clashes.values():
        if len(members) > 1:
            for i, name in zip(members, _told_apart([items[i] for i in members]), strict=True):
                names[i] = _free(name, items[i].suffix, taken)
                taken.add(_folded(names[i]))
    return names


def _told_apart(items: Sequence[Named]) -> list[str]:
    best = [safe(item.stem) for item in items]
    for depth in range(1, max(len(item.folders) for item in items) + 1):
        names = [safe("__".join([*item.folders[-depth:], item.stem])) for item in items]
        if len({_folded(name) for name in names}) > len({_folded(name) for name in best}):
            best = names
        if len({_folded(name) for name in best}) == len(items):
            break
    folded = [_folded(name) for name in best]
    return [
        safe(f"{name}_{item.suffix}") if item.suffix and folded.count(_folded(name)) > 1 else name
        for name, item in zip(best, items, strict=True)
    ]


def _free(name: str, suffix: str, taken: set[str]) -> str:
    if _folded(name) not in taken:
        return name
    with_suffix = safe(f"{name}_{suffix}") if suffix else name
    number = 1
    while _folded(with_suffix) in taken:
        number += 1
        with_suffix = safe(f"{name}_{number}")
    return with_suffix


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())
