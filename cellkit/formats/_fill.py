"""Fill polygons: a pixel belongs to a polygon that holds its centre. Exact for outlines along pixel edges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from cellkit.core.errors import FormatError
from cellkit.formats._runs import Runs, merged

__all__ = ["fill"]

_AT_ONCE = 2**21
_MOST_CROSSINGS = 2**22
_MOST_IN_ALL = 2**28


def fill(
    objects: Sequence[Sequence[Sequence[np.ndarray]]],
    size: tuple[int, int],
    names: Sequence[str],
    image: str = "",
    *,
    even_odd: bool = False,
) -> Runs:
    """Return the pixels of each object, given as polygons of rings of points (k, 2) x, y: outer ring, then holes.

    What lies outside the image of `size` is cut off. `names` say in messages which object it is. With `even_odd`, rings
    come in any order and may cross: inside is what an odd number of them surrounds. Raises `FormatError` for a ring
    that else crosses itself or a hole outside its polygon, where pixels show it, and for a polygon of absurd length.
    """
    parts = [(owner, rings, _crossings(rings, size[1])) for owner, polygons in enumerate(objects) for rings in polygons]
    for owner, _, crossings in parts:
        if crossings > _MOST_CROSSINGS:
            raise FormatError(f"{image}{names[owner]}: the polygon is too long: it crosses {crossings:.3g} columns")
    if sum(part[2] for part in parts) > _MOST_IN_ALL:
        raise FormatError(f"{image}all polygons together are too long to be of one image")
    found = [_filled(chunk, size, names if not even_odd else None, image) for chunk in _chunks(parts)]
    empty = np.zeros(0, np.int64)
    return merged(*(np.concatenate([f[i] for f in found] or [empty]) for i in range(3)))


_Part = tuple[int, Sequence[np.ndarray], int]


def _chunks(parts: Sequence[_Part]) -> Iterator[list[_Part]]:
    chunk: list[_Part] = []
    total = 0
    for part in parts:
        if chunk and total + part[2] > _AT_ONCE:
            yield chunk
            chunk, total = [], 0
        chunk.append(part)
        total += part[2]
    if chunk:
        yield chunk


def _columns(x0: np.ndarray, x1: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first column, and the one behind the last, whose centres lie from the lesser x up to the greater."""
    low, high = np.minimum(x0, x1), np.maximum(x0, x1)
    first = np.ceil(np.clip(low, -1, width + 1) - 0.5)
    last = np.ceil(np.clip(high, -1, width + 1) - 0.5)
    return np.clip(first, 0, width).astype(np.int64), np.clip(last, 0, width).astype(np.int64)


def _crossings(rings: Sequence[np.ndarray], width: int) -> int:
    total = 0
    for ring in rings:
        first, last = _columns(ring[:, 0], np.roll(ring[:, 0], -1), width)
        total += int((last - first).sum())
    return total


def _filled(
    parts: list[_Part], size: tuple[int, int], names: Sequence[str] | None, image: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    height, width = size
    rings = [ring for _, polygon, _ in parts for ring in polygon]
    part = np.repeat(np.arange(len(parts)), [len(polygon) for _, polygon, _ in parts])
    hole = np.concatenate([np.arange(len(polygon)) > 0 for _, polygon, _ in parts])
    sizes = np.array([len(ring) for ring in rings])
    first_point = np.cumsum(sizes) - sizes
    x, y = np.concatenate(rings).astype(np.float64).T
    following = np.arange(len(x)) + 1
    following[first_point + sizes - 1] = first_point
    area = np.add.reduceat(x * y[following] - x[following] * y, first_point)
    # Whichever way a ring runs, an outer one is to count as +1 inside and a hole as -1.
    turn = np.where(area < 0, -1, 1) * np.where(hole, -1, 1)
    first, last = _columns(x, x[following], width)
    edge = np.repeat(np.arange(len(x)), last - first)
    column = np.arange(len(edge)) - np.repeat(np.cumsum(last - first) - (last - first), last - first) + first[edge]
    ring = np.repeat(np.arange(len(rings)), sizes)[edge]
    rightward = x[following[edge]] > x[edge]
    left = np.where(rightward, edge, following[edge])
    right = np.where(rightward, following[edge], edge)
    share = (column + 0.5 - x[left]) / (x[right] - x[left])
    crossing = y[left] + share * (y[right] - y[left])
    row = np.clip(np.ceil(np.clip(crossing, -1, height + 1) - 0.5), 0, height).astype(np.int64)
    key = (part[ring] * width + column) * (height + 1) + row
    order = np.argsort(key, kind="stable")
    key = key[order]
    depth = np.cumsum((turn[ring] * np.where(rightward, 1, -1))[order])
    # Only what is left where all crossings of one pixel edge are counted shows in pixels.
    done = np.append(key[1:] != key[:-1], np.ones(min(1, len(key)), bool))
    key, depth = key[done], depth[done]
    if names is None:  # even and odd alone count
        depth = depth % 2
    wrong = np.flatnonzero((depth != 0) & (depth != 1))
    if len(wrong):
        owner = parts[int(key[wrong[0]] // (height + 1) // width)][0]
        raise FormatError(
            f"{image}{names[owner] if names else ''}: the polygon crosses itself, or a hole lies outside it; "
            "wanted simple rings, the outer one first, then holes inside it"
        )
    before = np.append(0, depth[:-1]) if len(depth) else depth
    opens, closes = (depth == 1) & (before == 0), (depth == 0) & (before == 1)
    at, row = np.divmod(key, height + 1)
    position = at % width * height + row
    owners = np.array([owner for owner, _, _ in parts], np.int64)
    return position[opens], position[closes], owners[(at // width)[opens]]
