"""The masks of COCO annotations: compressed and plain RLE, polygons, and crops of images too large for 32 bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from cellkit.core.errors import FormatError
from cellkit.formats import _json
from cellkit.formats._cocopoly import rasterise
from cellkit.formats._runs import Runs, merged
from cellkit.formats.coco_rle import decode_runs, runs_from

__all__ = ["Named", "masks_of"]

Named = tuple[str, dict[str, Any]]
"""An annotation, and which it is, for messages."""


def masks_of(lines: list[Named], size: tuple[int, int]) -> Runs | None:
    """Return the masks of one image's objects, or None where none has one."""
    kinds: dict[str, list[int]] = {"none": [], "text": [], "counts": [], "polygons": [], "cropped": []}
    for i, (where, line) in enumerate(lines):
        kinds[_kind(line.get("segmentation"), where)].append(i)
    if len(kinds["none"]) == len(lines):
        return None
    if kinds["none"]:
        raise FormatError(f"{lines[kinds['none'][0]][0]}: has no segmentation, others of its image have")
    parts = []
    for kind, read in (("text", _from_text), ("counts", _from_counts), ("polygons", _from_polygons)):
        at = kinds[kind]
        if at:
            runs = read([lines[i] for i in at], size)
            parts.append((runs.starts, runs.ends, np.array(at)[runs.owner]))
    for i in kinds["cropped"]:
        starts, ends = _from_crop(lines[i], size)
        parts.append((starts, ends, np.full(len(starts), i)))
    return merged(*(np.concatenate([part[k] for part in parts]) for k in range(3)))


def _kind(segmentation: Any, where: str) -> str:
    if segmentation is None or segmentation == []:
        return "none"
    if isinstance(segmentation, list):
        return "polygons"
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= set(segmentation):
        raise FormatError(f"{where}: a segmentation is a list of polygons or {{size, counts}}")
    if "offset" in segmentation:
        return "cropped"
    return "counts" if isinstance(segmentation["counts"], list) else "text"


def _sized(lines: list[Named], size: tuple[int, int]) -> list[Any]:
    counts = []
    for where, line in lines:
        own = _json.sides(line["segmentation"]["size"], f"{where}, segmentation size")
        if own != size:
            raise FormatError(
                f"{where}: the segmentation is of {own[0]} x {own[1]} px, its image has {size[0]} x {size[1]}"
                f"{' (size is [height, width])' if own == size[::-1] else ''}"
            )
        counts.append(line["segmentation"]["counts"])
    return counts


def _from_text(lines: list[Named], size: tuple[int, int]) -> Runs:
    return decode_runs(_sized(lines, size), size, names=[where for where, _ in lines])


def _from_counts(lines: list[Named], size: tuple[int, int]) -> Runs:
    names = [where for where, _ in lines]
    given = [_whole(c, where) for c, where in zip(_sized(lines, size), names, strict=True)]
    return runs_from(np.concatenate(given), np.array([len(c) for c in given]), size, names)


def _whole(counts: Any, where: str) -> np.ndarray:
    values = _json.numbers(counts, f"{where}, counts")
    if (values != np.floor(values)).any():
        raise FormatError(f"{where}, counts: wanted whole numbers")
    return values.astype(np.int64)


def _from_polygons(lines: list[Named], size: tuple[int, int]) -> Runs:
    polygons, owner = [], []
    for i, (where, line) in enumerate(lines):
        for part in line["segmentation"]:
            points = _json.numbers(part, f"{where}, polygon")
            if len(points) < 6 or len(points) % 2:
                raise FormatError(
                    f"{where}: a polygon is x, y, x, y, ... of 3 points or more; got {len(points)} numbers"
                )
            polygons.append(points.reshape(-1, 2))
            owner.append(i)
    return rasterise(polygons, np.array(owner), size, [where for where, _ in lines])


def _from_crop(named: Named, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    where, line = named
    segmentation = line["segmentation"]
    own = _json.sides(segmentation["size"], f"{where}, segmentation size")
    offset = _json.listed(segmentation["offset"], f"{where}, offset")
    y, x = (_json.whole(v, f"{where}, offset") for v in (offset if len(offset) == 2 else [None, None]))
    if y < 0 or x < 0 or y + own[0] > size[0] or x + own[1] > size[1]:
        raise FormatError(f"{where}: the crop of {own[0]} x {own[1]} px at row {y}, column {x} leaves its image")
    counts = segmentation["counts"]
    if isinstance(counts, list):
        given = _whole(counts, where)
        runs = runs_from(given, np.array([len(given)]), own, [where])
    else:
        runs = decode_runs([counts], own, names=[where])
    first, last = runs.starts // own[0], (runs.ends - 1) // own[0]
    columns = last - first + 1
    run = np.repeat(np.arange(len(runs)), columns)
    column = first[run] + np.arange(len(run)) - np.repeat(np.cumsum(columns) - columns, columns)
    top = np.maximum(runs.starts[run] - column * own[0], 0)
    bottom = np.minimum(runs.ends[run] - column * own[0], own[0])
    begin = (column + x) * size[0] + y
    return begin + top, begin + bottom
