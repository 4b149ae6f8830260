"""Instancing: label images made from masks, tidied, grown, smoothed and related to one another."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import cv2
import numpy as np

from cellkit.core.errors import StageError
from cellkit.core.kinds import Labels, Mask, Table
from cellkit.core.stage import WHOLE, Span, stage

__all__ = ["components", "expand", "relabel", "relate", "smooth_labels", "subtract"]


@stage(reach=WHOLE)
def components(mask: Mask, /, *, connectivity: Literal[4, 8] = 8) -> Labels:
    """Give every connected piece of the foreground a label of its own.

    `mask`: (y, x). Returns int32 (y, x): 1 to n in raster order of each piece's first pixel. `connectivity`: pixels
    hang together across sides (4) or across sides and corners (8).
    """
    from cellkit.formats.pieces import components as number

    return number(np.ascontiguousarray(mask, bool), connectivity)


@stage(reach=WHOLE)
def relabel(labels: Labels, /) -> Labels:
    """Renumber objects 1 to n without gaps, in the order of their old numbers.

    `labels`: int32 (y, x). Objects keep their pixels; an object in several parts stays one.

    Raises `StageError` where a label is negative.
    """
    labels = np.ascontiguousarray(labels, np.int32)
    largest = _largest("relabel", labels)
    if largest <= 4 * labels.size + 65536:
        from cellkit.stages._labels import renumber

        return renumber(labels, largest)
    # A table by label would be larger than the image.
    present = np.unique(labels)
    start = 0 if present[0] == 0 else 1
    return (np.searchsorted(present, labels) + start).astype(np.int32)


@stage(reach=lambda p: math.ceil(p["distance"]))
def expand(labels: Labels, /, *, distance: Annotated[float, Span(0, 1000, "px")] = 1.0) -> Labels:
    """Grow every object by a distance into the background, never into another object.

    `labels`: int32 (y, x). A background pixel takes the label of the nearest object pixel if that is no farther than
    `distance`, centre to centre. Of object pixels equally near the first in raster order counts, so the result does not
    hang on how objects are numbered.

    Equals ``skimage.segmentation.expand_labels`` except in the choice between objects that are equally near.
    """
    from cellkit.stages._labels import grow

    most = int(distance * distance)
    most += math.sqrt(most + 1) <= distance
    return grow(np.ascontiguousarray(labels, np.int32), math.isqrt(most), most)


@stage(reach=lambda p: p["radius"])
def smooth_labels(labels: Labels, /, *, radius: Annotated[int, Span(1, 50, "px")] = 2) -> Labels:
    """Smooth the outlines of objects: each pixel takes what more than half of the disc around it holds.

    `labels`: int32 (y, x); background counts as a label too. Where nothing holds more than half of the disc, the pixel
    keeps its label. The disc holds the pixels within `radius` of its centre that lie in the image. Spurs go, notches
    close, gaps between objects stay; a part thinner than about `radius` can vanish, and with it a bridge. Objects never
    merge: a label is never given to a pixel far from where it was.
    """
    from cellkit.stages._labels import majority

    labels = np.ascontiguousarray(labels, np.int32)
    change = np.zeros(labels.shape, np.uint8)
    change[1:] = labels[1:] != labels[:-1]
    change[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    side = 2 * radius + 1
    doubtful = cv2.dilate(change, np.ones((side, side), np.uint8)).view(bool)
    half_widths = np.array([math.isqrt(radius * radius - dy * dy) for dy in range(-radius, radius + 1)], np.int64)
    return majority(labels, doubtful, half_widths)


@stage(reach=0)
def subtract(labels: Labels, other: Labels, /) -> Labels:
    """Remove from every object the pixels that any object of another layer holds: cytoplasm = cell - nucleus.

    `labels`, `other`: int32 (y, x). Labels are kept, so a cytoplasm has the number of its cell; an object that is
    covered completely is gone.

    Raises `StageError` where the layers differ in size.
    """
    _same_size("subtract", labels, other)
    return np.where(other > 0, np.int32(0), labels)


@stage(reach=WHOLE)
def relate(table: Table, child: Labels, parent: Labels, /, *, min_overlap: Annotated[float, Span(0, 1)] = 0.5) -> Table:
    """Find for every measured object the parent object it lies in.

    `table`: the measurements of `child`, with a column `label`; `child`, `parent`: int32 (y, x). Returns the table with
    two more columns: `overlap`, the largest share of the child's area that lies in one parent, and `parent`, the label
    of that parent, or 0 where the share is below `min_overlap` or nothing overlaps at all. Of parents that hold equal
    shares the one with the lowest label is taken.

    Raises `StageError` where the table has no column `label` or the layers differ in size.
    """
    if "label" not in table.columns:
        raise StageError(
            f"relate: wanted a table with a column 'label', got {', '.join(map(str, table.columns)) or 'no columns'}; "
            "put `measure` of the child's labels before it"
        )
    _same_size("relate", child, parent)
    labels, parents, shares = _largest_overlaps(child, parent)
    rows = table["label"].to_numpy()
    at = np.minimum(np.searchsorted(labels, rows), len(labels) - 1)
    known = labels[at] == rows
    share = np.where(known, shares[at], 0.0)
    return table.assign(parent=np.where(share >= min_overlap, np.where(known, parents[at], 0), 0), overlap=share)


def _largest_overlaps(child: np.ndarray, parent: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the children's labels, rising, each one's parent of largest overlap (0: none) and its share."""
    child, parent = child.ravel(), parent.ravel()
    changes = np.flatnonzero((child[1:] != child[:-1]) | (parent[1:] != parent[:-1])) + 1
    starts = np.concatenate(([0], changes))
    lengths = np.diff(starts, append=child.size)
    inside = child[starts] > 0
    starts, lengths = starts[inside], lengths[inside]
    if not len(starts):
        return np.array([-1]), np.array([0]), np.array([0.0])
    pair = (child[starts].astype(np.int64) << 32) | np.maximum(parent[starts], 0)
    pairs, run_pair = np.unique(pair, return_inverse=True)
    counts = np.bincount(run_pair, lengths)
    labels, of_child = np.unique(pairs >> 32, return_inverse=True)
    area = np.bincount(of_child, counts)
    of_parent = pairs & 0xFFFFFFFF
    counts[of_parent == 0] = 0
    # The first of each child's pairs is then that of its largest overlap.
    order = np.lexsort((of_parent, -counts, of_child))
    first = order[np.searchsorted(of_child[order], np.arange(len(labels)))]
    return labels, of_parent[first], counts[first] / area


def _largest(name: str, labels: np.ndarray) -> int:
    if labels.min() < 0:
        raise StageError(f"{name}: wanted labels of 0 and above, got {labels.min()}; set negative ones to 0 first")
    return int(labels.max())


def _same_size(name: str, first: np.ndarray, second: np.ndarray) -> None:
    if first.shape != second.shape:
        raise StageError(
            f"{name}: wanted two label layers of one size, got {first.shape} and {second.shape}; "
            "make both in the same frame"
        )
