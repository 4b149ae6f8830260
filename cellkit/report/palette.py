"""Colours that stay apart for colour-blind eyes, and which object gets which."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from cellkit.metrics.contingency import renumbered

__all__ = ["BRIGHT", "FAR", "STRONG", "assigned", "colored", "edges"]

# Chosen for the largest smallest distance in CIELAB under normal vision, deutan, protan and tritan simulation
# (Machado 2009): at least 30 between any two, against 16 for the palette of Okabe and Ito. Those of STRONG are also at
# least 55 away from white and from the purples and pinks of stained tissue.
BRIGHT: np.ndarray = np.array(
    [(255, 233, 0), (26, 246, 255), (235, 108, 0), (196, 255, 165), (171, 130, 246), (23, 165, 110)], np.uint8
)
"""RGB colours for dark pictures, uint8 (6, 3)."""
STRONG: np.ndarray = np.array(
    [(9, 254, 195), (252, 234, 13), (0, 163, 255), (181, 129, 0), (0, 115, 62), (181, 243, 130)], np.uint8
)
"""RGB colours for bright pictures such as stained tissue, uint8 (6, 3)."""

_NONE: Mapping[int, int] = MappingProxyType({})

# Steps (rows, columns) to the pixels that make two objects neighbours: touching ones, and ones a few pixels apart.
_TOUCHING = ((0, 1), (1, 0), (1, 1), (1, -1))
_NEAR = ((0, 3), (3, 0), (2, 2), (2, -2), (0, 6), (6, 0), (4, 4), (4, -4))
_NEAR_EVERY = 4
FAR = 6
"""Pixels, the most that objects may be apart to have a say in each other's colours."""


def edges(labels: np.ndarray) -> np.ndarray:
    """Return the inner outline of every object, bool (y, x): pixels with another id above, below, left or right.

    The edge of the image is no outline: the object goes on beyond it.
    """
    edge = np.zeros(labels.shape, bool)
    down = labels[1:] != labels[:-1]
    edge[1:] |= down
    edge[:-1] |= down
    right = labels[:, 1:] != labels[:, :-1]
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    edge &= labels > 0
    return edge


def assigned(
    labels: np.ndarray, edge: np.ndarray, colors: int, known: Mapping[int, int] = _NONE
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids that occur on the outline `edge`, ascending, and a colour number for each, intp (n,).

    Objects that touch get different numbers out of `colors`; so do those up to some six pixels apart, as far as the
    numbers reach. The same labels always get the same colours. `known` are the numbers that ids have already.
    """
    at = np.flatnonzero(edge)
    ids, place = renumbered(labels.ravel()[at])
    touching = _neighbours(labels, ids, place, at, _TOUCHING)
    # Objects that are merely near share many such pixels: a part of them tells as much.
    near = _neighbours(labels, ids, place[::_NEAR_EVERY], at[::_NEAR_EVERY], _NEAR)
    return ids, _greedy(touching, near, colors, [known.get(i, -1) for i in ids.tolist()])


def colored(values: np.ndarray, ids: np.ndarray, numbers: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Return the colour of each of `values` (ids, any shape), uint8 (..., c); what is not in `ids` is 0.

    `numbers`: one for each of `ids`. `palette`: uint8 (n, c).
    """
    if not len(ids):
        return np.zeros((*values.shape, palette.shape[1]), np.uint8)
    colors = palette[numbers % len(palette)]
    place = np.minimum(np.searchsorted(ids.astype(np.int64), values), len(ids) - 1)
    found = ids.astype(np.int64)[place] == values
    return np.where(found[..., None], colors[place], np.uint8(0))


Neighbours = tuple[np.ndarray, np.ndarray]
"""Whose neighbours start where, intp (n + 1,), and the neighbours, intp (k,)."""


def _neighbours(
    labels: np.ndarray, ids: np.ndarray, place: np.ndarray, at: np.ndarray, steps: tuple[tuple[int, int], ...]
) -> Neighbours:
    """Return which objects lie one of `steps` away from each other, seen from the pixels `at` of objects `place`."""
    width, flat = labels.shape[1], labels.ravel()
    known = ids.astype(np.int64)
    columns, mine = at % width, flat[at]
    keys = []
    for down, right in steps:
        other = flat.take(at + (down * width + right), mode="clip")
        differs = (other != mine) & (other > 0) & (columns < width - right) & (columns >= -right)
        differs &= at < flat.size - down * width
        match = np.minimum(np.searchsorted(known, other[differs]), len(known) - 1)
        real = known[match] == other[differs]
        keys.append(np.unique(place[differs][real] * len(ids) + match[real]))
    pairs = np.unique(np.concatenate(keys))
    one, two = np.divmod(pairs, max(1, len(ids)))
    source, target = np.concatenate([one, two]), np.concatenate([two, one])
    order = np.argsort(source, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(source, minlength=len(ids)))])
    return starts, target[order]


def _greedy(touching: Neighbours, near: Neighbours, colors: int, chosen: list[int]) -> np.ndarray:
    """Colour the objects with the most touching neighbours first; being merely near yields where colours run out.

    `chosen` holds the numbers of those that have one, -1 for the others.
    """
    starts, targets = (part.tolist() for part in touching)
    near_starts, near_targets = (part.tolist() for part in near)
    for i in np.argsort(-np.diff(touching[0]), kind="stable").tolist():
        if chosen[i] >= 0:
            continue
        hard = [chosen[j] for j in targets[starts[i] : starts[i + 1]]]
        soft = [chosen[j] for j in near_targets[near_starts[i] : near_starts[i + 1]]]
        # Starting at another colour for each object spreads the palette over objects without neighbours.
        order = [(i + k) % colors for k in range(colors)]
        chosen[i] = min(order, key=lambda c: (hard.count(c), soft.count(c)))
    return np.array(chosen, np.intp)
