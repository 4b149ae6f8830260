"""The outlines of objects, and objects from outlines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellkit.core.errors import FormatError
from cellkit.formats._fill import fill
from cellkit.formats._outline import Polygon, trace
from cellkit.formats._runs import clash, paint
from cellkit.formats.objects import ObjectSet

__all__ = ["Polygon", "fill", "outlines"]

_DENSE = 2**27


def outlines(objects: ObjectSet) -> list[list[Polygon]]:
    """Return the polygons of each object along its pixels' edges: filling them gives exactly its mask.

    A polygon is a list of rings, int64 (k, 2) as x, y, not closed, that neither cross nor touch themselves: the outer
    one first, then its holes. Raises `FormatError` for objects without masks.
    """
    if objects.runs is None:
        raise FormatError(f"image {objects.name!r}: its objects are boxes without masks; they have no outline")
    found: list[list[Polygon]] = [[] for _ in range(len(objects))]
    height, width = objects.size
    if height * width <= _DENSE and clash(objects.runs) is None:
        runs = objects.runs
        order = np.argsort(runs.starts, kind="stable")
        numbers = (runs.owner[order] + 1).astype(np.int32)
        for label, polygons in trace(paint(runs.starts[order], runs.ends[order], numbers, objects.size)):
            found[label - 1] = polygons
        return found
    for i in range(len(objects)):
        mask, (y, x) = objects.mask(i)
        for _, polygons in trace(mask.view(np.uint8)):
            found[i] = [[ring + np.array([x, y]) for ring in polygon] for polygon in polygons]
    return found


def of_outlines(
    polygons: Sequence[Sequence[Sequence[np.ndarray]]], size: tuple[int, int], names: Sequence[str], image: str
) -> ObjectSet:
    """Return the objects of `size` that polygons enclose by pixel centres, one list of polygons an object."""
    runs = fill(polygons, size, names, f"image {image!r}, ")
    return ObjectSet.of_runs(runs, size, np.arange(1, len(polygons) + 1), image)
