"""Outlines of objects along the edges of their pixels, as polygons with holes that never cross themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Polygon", "trace"]

Polygon = list[np.ndarray]
"""Rings, int64 (k, 2) as x, y, not closed: the outer one first, then its holes, which run the other way."""


@dataclass(frozen=True, eq=False)
class _Corners:
    """Where outlines turn: object, vertex, and to which side its level and its upright edge lead away.

    In the order of object, row and column; `level` and `upright` are the corners at the other ends of the two edges.
    """

    owner: np.ndarray
    y: np.ndarray
    x: np.ndarray
    begins: np.ndarray
    level: np.ndarray
    upright: np.ndarray


def trace(labels: np.ndarray) -> list[tuple[int, list[Polygon]]]:
    """Return the polygons of every object of `labels`, integer (y, x), by ascending id.

    Pixel (row, column) covers x from column to column + 1 and y likewise. Each piece that hangs together by pixel sides
    is one polygon; pieces and holes that meet at a corner share that point alone. Outer rings have positive area in
    x, y, holes negative.
    """
    corners = _corners(labels)
    if not len(corners.owner):
        return []
    rings, owners = _rings(corners)
    x = np.concatenate([ring[:, 0] for ring in rings])
    y = np.concatenate([ring[:, 1] for ring in rings])
    sizes = np.array([len(ring) for ring in rings])
    first = np.cumsum(sizes) - sizes
    following = np.arange(len(x)) + 1
    following[first + sizes - 1] = first
    area = np.add.reduceat(x * y[following] - x[following] * y, first)
    parents = _parents(_Rings(owners, area > 0, x, y, first, following, sizes))
    polygons: dict[int, Polygon] = {}
    found: dict[int, list[Polygon]] = {}
    for i, outer in enumerate((area > 0).tolist()):
        if outer:
            polygons[i] = [rings[i]]
            found.setdefault(int(owners[i]), []).append(polygons[i])
    for i in np.flatnonzero(area < 0).tolist():
        polygons[int(parents[i])].append(rings[i])
    return sorted(found.items())


def _corners(labels: np.ndarray) -> _Corners:
    height, width = labels.shape
    padded = np.zeros((height + 2, width + 2), labels.dtype)
    padded[1:-1, 1:-1] = labels
    four = {(s, e): padded[s : s + height + 1, e : e + width + 1] for s in (0, 1) for e in (0, 1)}
    mixed = (four[0, 0] != four[0, 1]) | (four[0, 0] != four[1, 0]) | (four[1, 0] != four[1, 1])
    vertex = np.flatnonzero(mixed)
    near = {key: view[mixed].astype(np.int64) for key, view in four.items()}
    owner, at, south, east, begins = [], [], [], [], []
    for (s, e), own in near.items():
        beside, above, across = near[s, 1 - e], near[1 - s, e], near[1 - s, 1 - e]
        convex = np.flatnonzero((own != 0) & (beside != own) & (above != own))
        concave = np.flatnonzero((across != 0) & (beside == across) & (above == across) & (own != across))
        for places, owners, below in ((convex, own, s == 1), (concave, across, s == 0)):
            owner.append(owners[places])
            at.append(vertex[places])
            south.append(np.full(len(places), s, np.int8))
            east.append(np.full(len(places), e, np.int8))
            # Outlines run with the object on the right hand as y grows downwards.
            begins.append(np.full(len(places), below == (e == 1)))
    y, x = np.divmod(np.concatenate(at), width + 1)
    owners, souths, easts = (np.concatenate(part) for part in (owner, south, east))
    # Where two corners of one object meet, each keeps to its own side: the object is taken as joined by sides only.
    order = np.lexsort((easts, x, y, owners))
    owners, y, x, souths = owners[order], y[order], x[order], souths[order]
    by_column = np.lexsort((souths, y, x, owners))
    return _Corners(owners, y, x, np.concatenate(begins)[order], _partners(np.arange(len(x))), _partners(by_column))


def _partners(order: np.ndarray) -> np.ndarray:
    """Return who is paired with whom where each two that follow in `order` are a pair."""
    other = np.empty(len(order), np.int64)
    other[order[0::2]], other[order[1::2]] = order[1::2], order[0::2]
    return other


def _rings(corners: _Corners) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the rings, each without a point that it visits twice, and whose they are."""
    starts = np.flatnonzero(corners.begins)
    place = np.empty(len(corners.begins), np.int64)
    place[starts] = np.arange(len(starts))
    head, rank = _ranked(place[corners.upright[corners.level[starts]]])
    ring = np.empty(len(corners.begins), np.int64)
    ring[starts] = head
    ring[corners.level[starts]] = head
    same = (corners.owner[1:] == corners.owner[:-1]) & (corners.y[1:] == corners.y[:-1])
    twice = np.flatnonzero(same & (corners.x[1:] == corners.x[:-1]) & (ring[1:] == ring[:-1]))
    order = np.lexsort((rank, head))
    path = np.stack([starts[order], corners.level[starts[order]]], axis=1).ravel()
    points = np.stack([corners.x[path], corners.y[path]], axis=1)
    heads = head[order]
    cuts = np.flatnonzero(heads[1:] != heads[:-1]) + 1
    rings = np.split(points, 2 * cuts)
    first = heads[np.append(0, cuts)]
    owners = corners.owner[starts[first]]
    if not len(twice):
        return rings, owners
    knotted = np.isin(first, ring[twice])
    loose = [_loops(one) if knot else [one] for one, knot in zip(rings, knotted.tolist(), strict=True)]
    return [one for part in loose for one in part], np.repeat(owners, [len(part) for part in loose])


def _ranked(following: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, for a permutation, the least member of each one's cycle and the steps to there, by pointer doubling."""
    head = np.arange(len(following))
    jump = following
    while True:
        lower = np.minimum(head, head[jump])
        if np.array_equal(lower, head) and np.array_equal(head, head[following]):
            break
        head, jump = lower, jump[jump]
    # Cut each cycle open before its head and count the steps to its end.
    here = np.arange(len(following))
    last = following == head
    jump = np.where(last, here, following)
    steps = (~last).astype(np.int64)
    while True:
        more = steps[jump]
        if not more.any():
            break
        steps, jump = steps + more, jump[jump]
    return head, -steps


def _loops(ring: np.ndarray) -> list[np.ndarray]:
    """Cut a ring apart wherever it comes back to a point."""
    loops: list[list[tuple[int, int]]] = []
    path: list[tuple[int, int]] = []
    at: dict[tuple[int, int], int] = {}
    for point in map(tuple, ring.tolist()):
        if point in at:
            begin = at[point]
            loops.append(path[begin:])
            for gone in path[begin + 1 :]:
                del at[gone]
            del path[begin + 1 :]
        else:
            at[point] = len(path)
            path.append(point)
    return [np.array(loop, np.int64) for loop in [path, *loops]]


@dataclass(frozen=True, eq=False)
class _Rings:
    """Rings laid out one after the other: whose, whether outer, all points, each one's first, next and number."""

    owner: np.ndarray
    outer: np.ndarray
    x: np.ndarray
    y: np.ndarray
    first: np.ndarray
    following: np.ndarray
    sizes: np.ndarray


def _parents(rings: _Rings) -> np.ndarray:
    """Return for every hole the outer ring around it."""
    parents = np.full(len(rings.owner), -1)
    holes = np.flatnonzero(~rings.outer)
    if not len(holes):
        return parents
    objects, index = np.unique(rings.owner, return_inverse=True)
    outers = np.flatnonzero(rings.outer)
    several = np.bincount(index[outers], minlength=len(objects)) > 1
    only = np.empty(len(objects), np.int64)
    only[index[outers]] = outers
    parents[holes] = only[index[holes]]
    unsure = holes[several[index[holes]]]
    if not len(unsure):
        return parents
    beside = _left_of(unsure, index, rings)
    parents[unsure] = beside
    # A ring to the left that is itself a hole starts in a higher row, so that this ends.
    while (inner := unsure[~rings.outer[parents[unsure]]]).size:
        parents[inner] = parents[parents[inner]]
    return parents


def _left_of(holes: np.ndarray, index: np.ndarray, rings: _Rings) -> np.ndarray:
    """Return the ring met first on the way left from the pixel above the top left corner of each hole."""
    ring = np.repeat(np.arange(len(rings.sizes)), rings.sizes)
    wanted = np.isin(index[ring], index[holes])
    upright = np.flatnonzero(wanted & (rings.x == rings.x[rings.following]))
    low = np.minimum(rings.y[upright], rings.y[rings.following[upright]])
    length = np.abs(rings.y[upright] - rings.y[rings.following[upright]])
    edge = np.repeat(upright, length)
    row = np.repeat(low - (np.cumsum(length) - length), length) + np.arange(len(edge))
    height, width = int(rings.y.max()) + 1, int(rings.x.max()) + 1
    keys = (index[ring[edge]] * height + row) * width + rings.x[edge]
    order = np.argsort(keys, kind="stable")
    points = rings.y * width + rings.x
    corner = np.minimum.reduceat(points, rings.first)[holes]
    query = (index[holes] * height + corner // width - 1) * width + corner % width
    found = np.searchsorted(keys[order], query, "right") - 1
    return np.asarray(ring[edge[order[found]]])
