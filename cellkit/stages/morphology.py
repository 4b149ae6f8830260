"""Shape of the foreground: holes, specks, discs, and what the image's edge cuts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np

from cellkit.core.kinds import Labels, Mask
from cellkit.core.stage import OBJECT, WHOLE, Span, stage

__all__ = ["drop_large", "drop_small", "fill_holes"]

_AREA = Span(0, 1_000_000_000, "px", log=True)


@stage(reach=lambda p: p["area"] or WHOLE)
def fill_holes(mask: Mask, /, *, area: Annotated[int, _AREA] = 0) -> Mask:
    """Fill the holes in the foreground: all of them, or those of up to `area` px where that is not 0.

    A hole is a piece of background, joined along sides (4 neighbours), that does not touch the edge of the image.

    Source: scipy/ndimage/_morphology.py, `binary_fill_holes` with its default structure.
    """
    from cellkit.stages import _paint, _runs

    runs, piece, count = _runs.pieces(~mask, 4)
    height, width = mask.shape
    edge = (runs[:, 0] == 0) | (runs[:, 0] == height - 1) | (runs[:, 1] == 0) | (runs[:, 2] == width)
    hole = np.ones(count, bool)
    hole[piece[edge]] = False
    if area:
        hole &= _areas(runs, piece, count) <= area
    result = mask.copy()
    _paint.paint(result, runs, hole[piece], True)
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


def _chosen(mask: np.ndarray, wanted: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Keep the objects whose areas are `wanted`."""
    from cellkit.stages import _paint, _runs

    if mask.dtype != bool:
        ids, dense = _dense(mask)
        kept = _paint.keep(dense, wanted(_paint.areas(dense, len(ids) - 1)))
        return kept if dense is mask else ids[kept]
    runs, piece, count = _runs.pieces(mask, 8)
    result = np.zeros(mask.shape, bool)
    _paint.paint(result, runs, wanted(_areas(runs, piece, count))[piece], True)
    return result


def _areas(runs: np.ndarray, piece: np.ndarray, count: int) -> np.ndarray:
    return np.bincount(piece, runs[:, 2] - runs[:, 1], minlength=count)


def _dense(labels: np.ndarray) -> tuple[Any, np.ndarray]:
    """Return ids and labels that index them: the labels themselves where their ids are few enough for a table."""
    most = int(labels.max(initial=0))
    if most <= max(labels.size, 1 << 20):
        return range(most + 1), labels
    ids, index = np.unique(np.maximum(labels, 0), return_inverse=True)
    if ids[0] != 0:
        ids, index = np.concatenate([[0], ids]), index + 1
    return ids.astype(np.int32), index.reshape(labels.shape).astype(np.int32)
