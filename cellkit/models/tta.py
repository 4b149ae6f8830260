"""Test-time augmentation: the views of a tile, and the exact way back from each."""

from __future__ import annotations

from typing import Literal

import numpy as np

__all__ = ["Augmentation", "Tta", "views"]

Tta = Literal["none", "flips", "d4"]
Augmentation = tuple[int, bool]
"""Quarter turns, then whether the columns are mirrored."""


def views(tta: Tta) -> tuple[Augmentation, ...]:
    """Return the views that `tta` averages over: 1 (none), 4 (flips: both axes, each and together) or 8 (d4)."""
    if tta == "none":
        return ((0, False),)
    if tta == "flips":
        return ((0, False), (0, True), (2, False), (2, True))
    return tuple((turns, mirrored) for turns in range(4) for mirrored in (False, True))


def see(tile: np.ndarray, view: Augmentation) -> np.ndarray:
    """Return `tile`, (..., y, x), as `view` shows it; height and width change places at an odd number of turns."""
    turned = np.rot90(tile, view[0], axes=(-2, -1))
    return np.ascontiguousarray(turned[..., ::-1] if view[1] else turned)


def undo(tile: np.ndarray, view: Augmentation) -> np.ndarray:
    """Return what `see` made its view of: ``undo(see(tile, view), view)`` equals `tile`."""
    mirrored = tile[..., ::-1] if view[1] else tile
    return np.rot90(mirrored, -view[0], axes=(-2, -1))
