"""Shape of the foreground: holes, specks, discs, and what the image's edge cuts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np

from cellkit.core.kinds import Labels, Mask
from cellkit.core.stage import OBJECT, WHOLE, Span, stage

__all__ = ["clear_border", "close", "dilate", "drop_large", "drop_small", "erode", "fill_holes", "open"]

_AREA = Span(0, 1_000_000_000, "px", log=True)


@stage(reach=lambda p: p["area"] or WHOLE)
def fill_holes(mask: Mask, /, *, area: Annotated[int, _AREA] = 0) -> Mask:
    """Fill the holes in the foreground: all of them, or those of up to `area` px where that is not 0.

    A hole is a piece of background, joined along sides (4 neighbours), that does not touch the edge of the image.

    Source: scipy/ndimage/_morphology.py, `binary_fill_holes` with its default structure.
    """
    from cellkit.formats.pieces import paint, pieces

    runs, piece, count = pieces(~mask, 4)
    height, width = mask.shape
    edge = (runs[:, 0] == 0) | (runs[:, 0] == height - 1) | (runs[:, 1] == 0) | (runs[:, 2] == width)
    hole = np.ones(count, bool)
    hole[piece[edge]] = False
    if area:
        hole &= _areas(runs, piece, count) <= area
    result = mask.copy()
    paint(result, runs, hole[piece], True)
    return result


@stage(reach=OBJECT)
def drop_small(mask: Mask | Labels, /, *, area: Annotated[int, _AREA] = 10) -> Mask | Labels:
    """Remove every object of `area` px or fewer.

    In a mask an object is a piece of foreground joined along sides or corners (8 neighbours); in labels it is an id,
    and the ids that stay keep their numbers.
    """
    return _chosen(mask, lambda size: size > area)


@stage(reach=OBJECT)
def drop_large(mask: Mask | Labels, /, *, area: Annotated[int, _AREA] = 10_000) -> Mask | Labels:
    """Remove every object of more than `area` px.

    In a mask an object is a piece of foreground joined along sides or corners (8 neighbours); in labels it is an id,
    and the ids that stay keep their numbers.
    """
    return _chosen(mask, lambda size: size <= area)


@stage(reach=OBJECT)
def clear_border(mask: Mask | Labels, /) -> Mask | Labels:
    """Remove every object that touches the edge of the image.

    In a mask an object is a piece of foreground joined along sides or corners (8 neighbours); in labels it is an id,
    and the ids that stay keep their numbers.
    """
    from cellkit.formats.pieces import paint, pieces
    from cellkit.stages import _paint

    height, width = mask.shape
    if mask.dtype == bool:
        runs, piece, count = pieces(mask, 8)
        edge = (runs[:, 0] == 0) | (runs[:, 0] == height - 1) | (runs[:, 1] == 0) | (runs[:, 2] == width)
        inside = np.ones(count, bool)
        inside[piece[edge]] = False
        result = np.zeros(mask.shape, bool)
        paint(result, runs, inside[piece], True)
        return result
    ids, dense = _dense(mask)
    inside = np.ones(len(ids), bool)
    for side in (dense[0], dense[-1], dense[:, 0], dense[:, -1]):
        inside[side[side > 0]] = False
    return _with_ids(ids, _paint.keep(dense, inside))


_RADIUS = Span(1, 200, "px", log=True)


def _disc_reach(params: Mapping[str, Any]) -> int:
    return int(params["radius"])


@stage(reach=_disc_reach)
def erode(mask: Mask, /, *, radius: Annotated[float, _RADIUS] = 1.0) -> Mask:
    """Take away what lies within `radius` of the background.

    The disc holds every pixel whose centre lies within `radius` (1: a cross, 1.5: 3 x 3). Outside the image nothing
    counts: an object is not eroded from the edge of the image.
    """
    return _eroded(mask, radius)


@stage(reach=_disc_reach)
def dilate(mask: Mask, /, *, radius: Annotated[float, _RADIUS] = 1.0) -> Mask:
    """Add what lies within `radius` of the foreground.

    The disc holds every pixel whose centre lies within `radius` (1: a cross, 1.5: 3 x 3).
    """
    return ~_eroded(~mask, radius)


@stage(reach=lambda p: 2 * int(p["radius"]))
def open(mask: Mask, /, *, radius: Annotated[float, _RADIUS] = 1.0) -> Mask:  # noqa: A001 - the field's word
    """Take away what a disc of `radius` cannot reach from inside: erode, then dilate.

    The disc holds every pixel whose centre lies within `radius` (1: a cross, 1.5: 3 x 3). Outside the image nothing
    counts: an object is not eroded from the edge of the image.

    Source: skimage/morphology/gray.py, `opening` with its mode `ignore`.
    """
    return ~_eroded(~_eroded(mask, radius), radius)


@stage(reach=lambda p: 2 * int(p["radius"]))
def close(mask: Mask, /, *, radius: Annotated[float, _RADIUS] = 1.0) -> Mask:
    """Fill what a disc of `radius` cannot reach from outside: dilate, then erode.

    The disc holds every pixel whose centre lies within `radius` (1: a cross, 1.5: 3 x 3). Outside the image nothing
    counts: a gap between an object and the edge of the image may be filled.

    Source: skimage/morphology/gray.py, `closing` with its mode `ignore`.
    """
    return _eroded(~_eroded(~mask, radius), radius)


def _eroded(mask: np.ndarray, radius: float) -> np.ndarray:
    from cellkit.stages import _disc

    return _disc.erode(mask.view(np.uint8), _disc.chords(radius), 1).view(bool)


def _chosen(mask: np.ndarray, wanted: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Keep the objects whose areas are `wanted`."""
    from cellkit.formats.pieces import paint, pieces
    from cellkit.stages import _paint

    if mask.dtype != bool:
        ids, dense = _dense(mask)
        return _with_ids(ids, _paint.keep(dense, wanted(_paint.areas(dense, len(ids) - 1))))
    runs, piece, count = pieces(mask, 8)
    result = np.zeros(mask.shape, bool)
    paint(result, runs, wanted(_areas(runs, piece, count))[piece], True)
    return result


def _areas(runs: np.ndarray, piece: np.ndarray, count: int) -> np.ndarray:
    return np.bincount(piece, runs[:, 2] - runs[:, 1], minlength=count)


def _dense(labels: np.ndarray) -> tuple[range | np.ndarray, np.ndarray]:
    """Return ids and labels that index them: the labels themselves where their ids are few enough for a table."""
    most = int(labels.max(initial=0))
    if most <= max(labels.size, 1 << 20):
        return range(most + 1), labels
    ids, index = np.unique(np.maximum(labels, 0), return_inverse=True)
    if ids[0] != 0:
        ids, index = np.concatenate([np.zeros(1, np.int32), ids]), index + 1
    return ids, index.reshape(labels.shape).astype(np.int32)


def _with_ids(ids: range | np.ndarray, dense: np.ndarray) -> np.ndarray:
    return dense if isinstance(ids, range) else ids[dense]
