"""Join the labels of neighbouring tiles, so that no object is cut and touching objects stay apart.

Every pixel takes its label from the tile whose core holds it. Which labels of two neighbouring tiles mean one object
is read off the region that both see (their windows overlap by the halos):

1. In that region every object falls into *fragments*, its 4-connected pieces there.
2. Two fragments, one from each tile, that both reach over the seam are one object if they share more than half the
   area of the smaller. Half of the smaller and not of the larger, because what one tile sees as two arms another may
   see as one U.
3. Fragments that found no partner so, of objects that own pixels in both cores, are one object if they share more
   than half the area of the larger: this picks up slivers, where only one tile drew the object over the seam, and
   pieces of an object that do not touch the seam.

A fragment that stays on its side of the seam is never joined to a partner that is already taken, so a tile that
cannot tell two neighbours apart at the rim of its window does not merge them. Where tiles agree on the pixels that
both see and every object is connected, any halo of 1 px or more gives the objects of the whole image exactly,
connected components among them. Where they differ by some pixels, the halo should be several times as large as that.

Without a halo no tile sees its neighbour: labels that touch across a seam (8 neighbours) are joined, so touching
objects merge there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from cellkit.core import KindError
from cellkit.grid.cover import Tile, Window, columns_of, earlier_neighbours
from cellkit.grid.groups import groups

__all__ = ["join_labels"]

_CHUNK = 1 << 20


@dataclass(frozen=True)
class _View:
    """Labels 0 to n of one tile's window, and what they are called over all tiles: local label + `base`."""

    tile: Tile
    window: Window
    labels: np.ndarray
    base: int
    owns: np.ndarray  # per local label: has pixels in the core

    def at(self, region: Window) -> np.ndarray:
        return self.labels[region.within(self.window).slices]


@dataclass(frozen=True)
class _Runs:
    """Horizontal runs of constant (a, b) in the regions that pairs of tiles share; a, b are labels over all tiles.

    `start` and `stop` number the pixels of all regions, rows one after another with a gap in between; `in_a`, `in_b`
    count the pixels of a run in the core of either tile.
    """

    start: np.ndarray
    stop: np.ndarray
    a: np.ndarray
    b: np.ndarray
    in_a: np.ndarray
    in_b: np.ndarray


def join_labels(shape: tuple[int, int], tiles: tuple[Tile, ...], crops: Iterable[np.ndarray]) -> np.ndarray:
    """Return int32 labels of `shape`, numbered 1 to n in the raster order of each object's first pixel.

    `crops` are the labels of each tile's window, cut to the image, in the order of `tiles` (row by row); they are
    read once, and at most one row of tiles is held.
    """
    columns = columns_of(tiles)
    stride = max(tile.window.shape[1] for tile in tiles) + 1
    whole = Window(0, 0, *shape)
    out = np.zeros(shape, np.int32)
    held: dict[int, _View] = {}
    runs: list[_Runs] = []
    count = rows = 0
    for index, (tile, crop) in enumerate(zip(tiles, crops, strict=True)):
        view = _view(tile, tile.window.clipped(whole), crop, count)
        count += len(view.owns) - 1
        core = view.at(tile.core)
        out[tile.core.slices] = np.where(core > 0, core + np.int32(view.base), np.int32(0))
        for earlier in earlier_neighbours(index, columns):
            other = held[earlier]
            region = other.window.clipped(view.window)
            if region.top < region.bottom and region.left < region.right:
                runs += _shared_runs(other, view, region, rows * stride, stride)
                rows += region.shape[0] + 1
        held[index] = view
        held.pop(index - columns - 1, None)
    if any(tile.window != tile.core for tile in tiles):
        edges = _same_object(_concatenated(runs), stride)
    else:
        edges = _touching(out, tiles)
    _, objects = groups(count + 1, *edges)
    return _numbered(out, objects)


def _view(tile: Tile, window: Window, crop: np.ndarray, base: int) -> _View:
    low, top = int(crop.min()), int(crop.max())
    if low < 0:
        raise KindError(f"labels to be joined over tiles: wanted 0 or more, got {low}")
    if top <= 4 * crop.size:
        used = np.zeros(top + 1, bool)
        used[crop.ravel()] = True
        used[0] = False
        lookup = np.cumsum(used, dtype=np.int32)
        labels = crop if lookup[-1] == top else np.where(crop > 0, lookup[crop], np.int32(0))
        count = int(lookup[-1])
    else:  # few, large numbers: a table would not fit
        values, inverse = np.unique(crop, return_inverse=True)
        labels = inverse.reshape(crop.shape).astype(np.int32) + np.int32(values[0] > 0)
        count = len(values) - int(values[0] == 0)
    owns = np.zeros(count + 1, bool)
    owns[labels[tile.core.within(window).slices].ravel()] = True
    owns[0] = False
    return _View(tile, window, labels, base, owns)


def _shared_runs(one: _View, two: _View, region: Window, offset: int, stride: int) -> Iterator[_Runs]:
    """Yield the runs of those objects in `region` that may be one: seen by both, with pixels in either core."""
    a, b = one.at(region), two.at(region)
    change = np.empty(a.shape, bool)
    change[:, 0] = True
    np.not_equal(a[:, 1:], a[:, :-1], out=change[:, 1:])
    change[:, 1:] |= b[:, 1:] != b[:, :-1]
    row, left = np.nonzero(change)
    a, b = a[row, left], b[row, left]
    both = one.owns[a] & two.owns[b]
    if not both.any():
        return
    right = np.append(left[1:], 0)
    right[right == 0] = region.shape[1]
    a_wanted, b_wanted = np.zeros_like(one.owns), np.zeros_like(two.owns)
    a_wanted[a[both]] = True
    b_wanted[b[both]] = True
    a_kept, b_kept = a_wanted[a], b_wanted[b]
    kept = a_kept | b_kept
    row, left, right = row[kept], left[kept], right[kept]
    yield _Runs(
        offset + row * stride + left,
        offset + row * stride + right,
        np.where(a_kept, a + one.base, 0)[kept],
        np.where(b_kept, b + two.base, 0)[kept],
        _pixels_in(one.tile.core.within(region), row, left, right),
        _pixels_in(two.tile.core.within(region), row, left, right),
    )


def _pixels_in(core: Window, row: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    length = np.minimum(right, core.right) - np.maximum(left, core.left)
    return np.where((row >= core.top) & (row < core.bottom), np.maximum(length, 0), 0)


def _concatenated(runs: list[_Runs]) -> _Runs:
    empty = np.zeros(0, np.int64)
    names = ("start", "stop", "a", "b", "in_a", "in_b")
    return _Runs(*(np.concatenate([empty, *(getattr(r, name) for r in runs)]) for name in names))


def _same_object(runs: _Runs, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of labels over all tiles that mean one object (rules 2 and 3 of the module)."""
    upper, lower = _neighbours(runs, stride)
    length = runs.stop - runs.start
    areas, crossing, fragments = [], [], []
    for label in (runs.a, runs.b):
        linked = (label[upper] == label[lower]) & (label[upper] > 0)
        count, fragment = groups(len(label), upper[linked], lower[linked])
        areas.append(np.bincount(fragment, length, count))
        crossing.append((np.bincount(fragment, runs.in_a, count) > 0) & (np.bincount(fragment, runs.in_b, count) > 0))
        fragments.append(fragment)
    shared = np.flatnonzero((runs.a > 0) & (runs.b > 0))
    key = fragments[0][shared].astype(np.int64) * len(areas[1]) + fragments[1][shared]
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    common = np.bincount(inverse.ravel(), length[shared], len(first))
    at = shared[first]
    one, two = fragments[0][at], fragments[1][at]
    area_one, area_two = areas[0][one], areas[1][two]
    joined = crossing[0][one] & crossing[1][two] & (2 * common > np.minimum(area_one, area_two))
    taken_one, taken_two = np.zeros(len(areas[0]), bool), np.zeros(len(areas[1]), bool)
    taken_one[one[joined]] = True
    taken_two[two[joined]] = True
    joined |= ~taken_one[one] & ~taken_two[two] & (2 * common > np.maximum(area_one, area_two))
    return runs.a[at[joined]], runs.b[at[joined]]


def _neighbours(runs: _Runs, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Return every pair of runs (earlier, later) that touch by a side: one row apart, or end to end."""
    low = np.searchsorted(runs.stop, runs.start + stride, side="right")
    high = np.searchsorted(runs.start, runs.stop + stride, side="left")
    number = np.maximum(high - low, 0)
    upper = np.repeat(np.arange(len(number)), number)
    lower = np.arange(len(upper)) + np.repeat(low - (np.cumsum(number) - number), number)
    beside = np.flatnonzero(runs.stop[:-1] == runs.start[1:])
    return np.concatenate([upper, beside]), np.concatenate([lower, beside + 1])


def _touching(labels: np.ndarray, tiles: tuple[Tile, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of labels that touch across a seam, by a side or a corner."""
    pairs = [np.zeros((2, 0), np.int64)]
    for top in {tile.core.top for tile in tiles} - {0}:
        pairs += _contacts(labels[top - 1], labels[top])
    for left in {tile.core.left for tile in tiles} - {0}:
        pairs += _contacts(labels[:, left - 1], labels[:, left])
    one, two = np.concatenate(pairs, axis=1)
    return one, two


def _contacts(one: np.ndarray, two: np.ndarray) -> Iterator[np.ndarray]:
    for a, b in ((one, two), (one[1:], two[:-1]), (one[:-1], two[1:])):
        touch = (a > 0) & (b > 0)
        touch[1:] &= (a[1:] != a[:-1]) | (b[1:] != b[:-1])  # the first pixel of each contact is enough
        yield np.stack([a[touch], b[touch]]).astype(np.int64)


def _numbered(labels: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Replace every label by the number of its object, counted in the raster order of first pixels; in place."""
    flat = labels.reshape(-1)
    first = np.full(int(objects.max()) + 1, -1, np.int64)
    for start in range((len(flat) - 1) // _CHUNK * _CHUNK, -1, -_CHUNK):
        chunk = flat[start : start + _CHUNK]
        runs = np.flatnonzero(np.append(True, chunk[1:] != chunk[:-1]))[::-1]
        runs = runs[chunk[runs] > 0]
        first[objects[chunk[runs]]] = start + runs  # of equal indices the last, so the first pixel, stays
    seen = np.flatnonzero(first >= 0)
    number = np.zeros(len(first), np.int32)
    number[seen[np.argsort(first[seen])]] = np.arange(1, len(seen) + 1, dtype=np.int32)
    lookup = number[objects]
    lookup[0] = 0
    for start in range(0, len(flat), _CHUNK):
        chunk = flat[start : start + _CHUNK]
        chunk[...] = lookup[chunk]
    return labels
