"""Movements of a crop: flips, turns, scaling, deformations.

Each function draws one movement: a float64 (3, 3) matrix that maps (x, y, 1), counted from the middle of the crop, from
the new picture to the old one, or a float32 (y, x, 2) of how far, as (x, y), each pixel looks aside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from cellkit.core import Span

__all__ = ["MOVEMENTS", "Frame"]


@dataclass(frozen=True)
class Frame:
    """The crop that is moved, and what random numbers are drawn from."""

    rng: np.random.Generator
    height: int
    width: int


def flip_horizontal(_: Frame, /) -> np.ndarray:
    """Swap left and right."""
    return np.diag([-1.0, 1.0, 1.0])


def flip_vertical(_: Frame, /) -> np.ndarray:
    """Swap top and bottom."""
    return np.diag([1.0, -1.0, 1.0])


def quarter_turn(frame: Frame, /) -> np.ndarray:
    """Turn by 90, 180 or 270 degrees, each as often."""
    cosine, sine = ((0, 1), (-1, 0), (0, -1))[frame.rng.integers(3)]
    return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]], np.float64)


def rotate(frame: Frame, /, *, degrees: Annotated[float, Span(0, 180, "degrees")] = 180.0) -> np.ndarray:
    """Turn by any angle up to `degrees` to either side."""
    angle = math.radians(frame.rng.uniform(-degrees, degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])


def scale(
    frame: Frame,
    /,
    *,
    low: Annotated[float, Span(0.05, 1)] = 0.7,
    high: Annotated[float, Span(1, 20)] = 1.4,
    stretch: Annotated[float, Span(1, 3)] = 1.0,
) -> np.ndarray:
    """Make objects larger by a factor from `low` to `high`, evenly by its logarithm; a small one sees more image.

    `stretch`: by how much at most one axis grows more than the other.
    """
    factor = math.exp(frame.rng.uniform(math.log(low), math.log(high)))
    aside = math.exp(0.5 * frame.rng.uniform(-math.log(stretch), math.log(stretch)))
    return np.diag([1 / (factor * aside), aside / factor, 1.0])


def shift(frame: Frame, /, *, share: Annotated[float, Span(0, 1)] = 0.1) -> np.ndarray:
    """Move by up to this share of the crop's sides."""
    x, y = frame.rng.uniform(-share, share, 2) * (frame.width, frame.height)
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])


def crop(frame: Frame, /, *, share: Annotated[float, Span(0.1, 1)] = 0.75) -> np.ndarray:
    """Take a part with this share of the crop's sides, anywhere in it, at the size of the whole."""
    x, y = frame.rng.uniform(-0.5, 0.5, 2) * (1 - share) * (frame.width, frame.height)
    return np.array([[share, 0, x], [0, share, y], [0, 0, 1]])


def shear(frame: Frame, /, *, degrees: Annotated[float, Span(0, 60, "degrees")] = 10.0) -> np.ndarray:
    """Slant upright lines by up to `degrees`."""
    return np.array([[1, math.tan(math.radians(frame.rng.uniform(-degrees, degrees))), 0], [0, 1, 0], [0, 0, 1]])


def elastic(
    frame: Frame,
    /,
    *,
    strength: Annotated[float, Span(0, 0.25)] = 0.2,
    spacing: Annotated[float, Span(4, 1000, "px")] = 48.0,
) -> np.ndarray:
    """Deform smoothly: random vectors on a grid `spacing` apart, blended by cubic B-splines.

    The vectors' parts reach up to `strength` times `spacing`; up to 0.25 nothing folds over itself.

    Source: Ronneberger et al. (2015), U-Net, section 3.1 (random vectors on a coarse grid, cubic in between).
    """
    from cellkit.train._sampling import waves

    count = [math.ceil(side / spacing) + 4 for side in (frame.height, frame.width)]
    nodes = frame.rng.uniform(-1, 1, (*count, 2)) * (strength * spacing)
    top, left = frame.rng.uniform(0, 1, 2)
    return waves(nodes, spacing, top, left, frame.height, frame.width)


def piecewise_affine(
    frame: Frame,
    /,
    *,
    strength: Annotated[float, Span(0, 0.25)] = 0.1,
    spacing: Annotated[float, Span(4, 1000, "px")] = 64.0,
) -> np.ndarray:
    """Deform triangle by triangle: random vectors on a grid `spacing` apart, affine between three of them.

    The vectors' parts reach up to `strength` times `spacing`; up to 0.25 nothing folds over itself.
    """
    from cellkit.train._sampling import bends

    count = [math.ceil(side / spacing) + 2 for side in (frame.height, frame.width)]
    nodes = frame.rng.uniform(-1, 1, (*count, 2)) * (strength * spacing)
    top, left = frame.rng.uniform(0, 1, 2)
    return bends(nodes, spacing, top, left, frame.height, frame.width)


MOVEMENTS: Mapping[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        flip_horizontal, flip_vertical, quarter_turn, rotate, scale, shift, crop, shear, elastic, piecewise_affine
    )
}  # fmt: skip
"""By name."""
