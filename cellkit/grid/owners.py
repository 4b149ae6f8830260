"""Give each object that several tiles see one owner: boxes and instances.

The owner is the tile whose core holds the centre of the object's box, cut to the image. Tiles that see one object a
little differently may both, or neither, take themselves for its owner; so objects of neighbouring tiles are first
matched in the region both see (same class, each the other's best, overlap over union above one half), and of each
group one is kept: an owner, or, where there is none, the best if two tiles saw the object whole, or if the tile in
which the mean of what they saw is centred is one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from cellkit.core import Boxes, Instances
from cellkit.grid.cover import Tile, Window, columns_of, earlier_neighbours
from cellkit.grid.groups import groups

__all__ = ["enter_boxes", "enter_instances", "own_boxes", "own_instances"]

_SAME = 0.5

Overlap = Callable[[np.ndarray, np.ndarray, Window], np.ndarray]
"""Of boxes `one[k]` and `two[k]`: how alike they are within a window, 0 to 1."""


def enter_boxes(boxes: Boxes, tile: Tile, outer: tuple[int, int]) -> Boxes:
    """Return the boxes that reach into the tile's window, uncut, in the tile's coordinates."""
    return _taken(boxes, _entering(boxes, tile, outer), tile)


def enter_instances(instances: Instances, tile: Tile, outer: tuple[int, int]) -> Instances:
    """Return the instances whose boxes reach into the tile's window, uncut, in the tile's coordinates."""
    index = _entering(instances.boxes, tile, outer)
    entered = instances.take(index)
    return replace(entered, boxes=_taken(instances.boxes, index, tile))


def own_boxes(parts: Sequence[Boxes], tiles: tuple[Tile, ...], outer: tuple[int, int]) -> Boxes:
    """Return the boxes of all tiles in outer coordinates, cut to the image, each object once."""
    moved = [_moved(boxes, tile, outer)[0] for boxes, tile in zip(parts, tiles, strict=True)]
    boxes = _concatenated(moved)
    part = np.repeat(np.arange(len(moved)), [len(b) for b in moved])

    def overlap(one: np.ndarray, two: np.ndarray, region: Window) -> np.ndarray:
        return _box_overlap(_cut(boxes.xyxy[one], region), _cut(boxes.xyxy[two], region))

    return boxes.take(_owned(boxes, part, tiles, outer, overlap))


def own_instances(parts: Sequence[Instances], tiles: tuple[Tile, ...], outer: tuple[int, int]) -> Instances:
    """Return the instances of all tiles in outer coordinates, cut to the image, each object once.

    Probabilities behind the masks are kept where every part has them.
    """
    moved = [_moved_instances(part, tile, outer) for part, tile in zip(parts, tiles, strict=True)]
    boxes = _concatenated([m.boxes for m in moved])
    masks = tuple(mask for m in moved for mask in m.masks)
    probs = None
    if any(m.probs is not None for m in moved) and all(m.probs is not None or not len(m) for m in moved):
        probs = tuple(prob for m in moved for prob in m.probs or ())
    part = np.repeat(np.arange(len(moved)), [len(m) for m in moved])

    def overlap(one: np.ndarray, two: np.ndarray, region: Window) -> np.ndarray:
        return np.array(
            [
                _mask_overlap(boxes.xyxy[a], masks[a], boxes.xyxy[b], masks[b], region)
                for a, b in zip(one.tolist(), two.tolist(), strict=True)
            ],
            np.float64,
        )

    return Instances(boxes, masks, probs).take(_owned(boxes, part, tiles, outer, overlap))


def _concatenated(boxes: Sequence[Boxes]) -> Boxes:
    return Boxes(
        np.concatenate([b.xyxy for b in boxes]),
        np.concatenate([b.scores for b in boxes]),
        np.concatenate([b.classes for b in boxes]),
    )


def _centre_in(xyxy: np.ndarray, core: Window, outer: tuple[int, int]) -> np.ndarray:
    """Tell whose centre, cut to the image, lies in `core`."""
    y, x = _centres(xyxy, outer)
    return (x >= core.left) & (x < core.right) & (y >= core.top) & (y < core.bottom)


def _centres(xyxy: np.ndarray, outer: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return row and column of each box's centre, cut to the image."""
    centre = np.floor((xyxy[:, :2].astype(np.float64) + xyxy[:, 2:]) / 2)
    return np.clip(centre[:, 1], 0, outer[0] - 1), np.clip(centre[:, 0], 0, outer[1] - 1)


def _reaches(xyxy: np.ndarray, window: Window) -> np.ndarray:
    x0, y0, x1, y1 = xyxy.T
    return (x1 > window.left) & (x0 < window.right) & (y1 > window.top) & (y0 < window.bottom)


def _entering(boxes: Boxes, tile: Tile, outer: tuple[int, int]) -> np.ndarray:
    return np.flatnonzero(_reaches(boxes.xyxy, tile.window) | _centre_in(boxes.xyxy, tile.core, outer))


def _shift(window: Window) -> np.ndarray:
    return np.array([window.left, window.top, window.left, window.top], np.float32)


def _shifted(xyxy: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Return the boxes moved by whole pixels; rounded outwards they stay as large, so that their masks still fit."""
    moved = xyxy + offset
    # Far from the origin float32 is coarse, and a side a hair from a pixel's edge could be rounded onto it.
    low, high = np.floor(xyxy[:, :2]) + offset[:2] + 1, np.ceil(xyxy[:, 2:]) + offset[2:] - 1
    moved[:, :2] = np.where(moved[:, :2] >= low, np.nextafter(low, np.float32(-np.inf)), moved[:, :2])
    moved[:, 2:] = np.where(moved[:, 2:] <= high, np.nextafter(high, np.float32(np.inf)), moved[:, 2:])
    return moved


def _taken(boxes: Boxes, index: np.ndarray, tile: Tile) -> Boxes:
    return Boxes(_shifted(boxes.xyxy[index], -_shift(tile.window)), boxes.scores[index], boxes.classes[index])


def _moved(boxes: Boxes, tile: Tile, outer: tuple[int, int]) -> tuple[Boxes, np.ndarray]:
    """Return the boxes in outer coordinates, cut to the image, without those outside it; and which these were."""
    image = Window(0, 0, *outer)
    xyxy = _shifted(boxes.xyxy, _shift(tile.window))
    kept = np.flatnonzero(_reaches(xyxy, image))
    return Boxes(_cut(xyxy[kept], image), boxes.scores[kept], boxes.classes[kept]), kept


def _cut(xyxy: np.ndarray, window: Window) -> np.ndarray:
    low = np.array([window.left, window.top] * 2, np.float32)
    high = np.array([window.right, window.bottom] * 2, np.float32)
    return np.clip(xyxy, low, high)


def _frame_of(box: np.ndarray) -> Window:
    """Return the pixels of an instance's mask: its box rounded outwards."""
    return Window(math.floor(box[1]), math.floor(box[0]), math.ceil(box[3]), math.ceil(box[2]))


def _moved_instances(instances: Instances, tile: Tile, outer: tuple[int, int]) -> Instances:
    """Return the instances in outer coordinates, cut to the image, without those of which nothing is left there."""
    boxes, kept = _moved(instances.boxes, tile, outer)
    before = _shifted(instances.boxes.xyxy[kept], _shift(tile.window))
    slices = [_frame_of(box).within(_frame_of(old)).slices for box, old in zip(boxes.xyxy, before, strict=True)]
    masks = [instances.masks[i][at] for i, at in zip(kept, slices, strict=True)]
    if instances.probs is None:
        cut = Instances(boxes, tuple(masks))
        there = [mask.any() for mask in masks]
    else:
        probs = [instances.probs[i][at] for i, at in zip(kept, slices, strict=True)]
        cut = Instances(boxes, tuple(masks), tuple(probs))
        there = [mask.any() or prob.any() for mask, prob in zip(masks, probs, strict=True)]
    return cut if all(there) else cut.take(np.flatnonzero(np.array(there, bool)))


def _box_overlap(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Return intersection over union of boxes (n, 4), one by one; 0 where there is no area."""
    common = np.clip(np.minimum(one[:, 2:], two[:, 2:]) - np.maximum(one[:, :2], two[:, :2]), 0, None).prod(axis=1)
    area = [(b[:, 2:] - b[:, :2]).prod(axis=1) for b in (one, two)]
    union = area[0] + area[1] - common
    return np.divide(common, union, out=np.zeros_like(common), where=common > 0)


def _mask_overlap(
    box_a: np.ndarray, mask_a: np.ndarray, box_b: np.ndarray, mask_b: np.ndarray, region: Window
) -> float:
    a, b = (frame.clipped(region) for frame in (_frame_of(box_a), _frame_of(box_b)))
    both = a.clipped(b)
    if both.top >= both.bottom or both.left >= both.right:
        return 0.0
    in_a, in_b = (mask[both.within(_frame_of(box)).slices] for box, mask in ((box_a, mask_a), (box_b, mask_b)))
    common = np.count_nonzero(in_a & in_b)
    areas = (
        np.count_nonzero(mask[frame.within(_frame_of(box)).slices])
        for box, mask, frame in ((box_a, mask_a, a), (box_b, mask_b, b))
    )
    return common / max(sum(areas) - common, 1)


def _owned(
    boxes: Boxes, part: np.ndarray, tiles: tuple[Tile, ...], outer: tuple[int, int], overlap: Overlap
) -> np.ndarray:
    """Return the sorted index of the boxes to keep: of each group the owner, else what two tiles saw whole."""
    centred = np.zeros(len(boxes), bool)
    whole = np.zeros(len(boxes), bool)
    bounds = np.searchsorted(part, np.arange(len(tiles) + 1))
    for index, tile in enumerate(tiles):
        own = slice(bounds[index], bounds[index + 1])
        centred[own] = _centre_in(boxes.xyxy[own], tile.core, outer)
        whole[own] = _uncut(boxes.xyxy[own], tile.window, outer)
    group = _matched(boxes, bounds, tiles, outer, overlap)
    order = np.lexsort((np.arange(len(boxes)), -boxes.scores, ~whole, ~centred, group))
    first = np.ones(len(boxes), bool)
    first[1:] = group[order][1:] != group[order][:-1]
    witnesses = np.bincount(group[whole], minlength=len(boxes))
    at_home = np.bincount(group[part == _home(boxes, group, tiles, outer)], minlength=len(boxes))
    best = order[first]
    return np.sort(best[centred[best] | (witnesses[group[best]] > 1) | (at_home[group[best]] > 0)])


def _home(boxes: Boxes, group: np.ndarray, tiles: tuple[Tile, ...], outer: tuple[int, int]) -> np.ndarray:
    """Return for each box the tile whose core holds the centre of its group's mean box."""
    total = np.stack([np.bincount(group, side) for side in boxes.xyxy.T.astype(np.float64)], axis=1)
    y, x = _centres(total[group] / np.bincount(group)[group, None], outer)
    across = columns_of(tiles)
    row = np.searchsorted([t.core.top for t in tiles[::across]], y, side="right") - 1
    column = np.searchsorted([t.core.left for t in tiles[:across]], x, side="right") - 1
    return row * across + column


def _uncut(xyxy: np.ndarray, window: Window, outer: tuple[int, int]) -> np.ndarray:
    """Tell which boxes keep a pixel away from those sides of the window that are no edge of the image."""
    x0, y0, x1, y1 = xyxy.T
    return (
        ((x0 >= window.left + 1) | (window.left <= 0))
        & ((y0 >= window.top + 1) | (window.top <= 0))
        & ((x1 <= window.right - 1) | (window.right >= outer[1]))
        & ((y1 <= window.bottom - 1) | (window.bottom >= outer[0]))
    )


def _matched(
    boxes: Boxes, bounds: np.ndarray, tiles: tuple[Tile, ...], outer: tuple[int, int], overlap: Overlap
) -> np.ndarray:
    """Return the group of each box: those that neighbouring tiles agree to be one object share a number."""
    image = Window(0, 0, *outer)
    columns = columns_of(tiles)
    edges = [np.zeros((2, 0), np.intp)]
    for index, tile in enumerate(tiles):
        for earlier in earlier_neighbours(index, columns):
            region = tiles[earlier].window.clipped(tile.window).clipped(image)
            one, two = (
                bounds[i] + np.flatnonzero(_reaches(boxes.xyxy[bounds[i] : bounds[i + 1]], region))
                for i in (earlier, index)
            )
            if len(one) and len(two):
                edges.append(_partners(boxes, one, two, region, overlap))
    a, b = np.concatenate(edges, axis=1)
    return groups(len(boxes), a, b)[1]


def _partners(boxes: Boxes, one: np.ndarray, two: np.ndarray, region: Window, overlap: Overlap) -> np.ndarray:
    """Return the pairs (2, n) of boxes in `one` and `two` that are each the other's best, and alike enough."""
    from cellkit.grid._pairs import overlapping

    sides = []
    for index in (one, two):
        sides += [_cut(boxes.xyxy[index], region).astype(np.float32), boxes.classes[index].astype(np.int64)]
    i, j = overlapping(*sides)
    likeness = overlap(one[i], two[j], region)
    best = np.ones(len(i), bool)
    for own, other in ((i, j), (j, i)):
        order = np.lexsort((other, -likeness, own))  # of equal ones the first
        later = order[1:][own[order][1:] == own[order][:-1]]
        best[later] = False
    best &= likeness > _SAME
    return np.stack([one[i[best]], two[j[best]]])
