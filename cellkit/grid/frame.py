"""Frames: what a bracket puts around its inner steps, and how layers enter and leave it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from cellkit.core import KINDS, Kind, KindError, StageError
from cellkit.core.kinds import validate
from cellkit.grid import resample
from cellkit.grid.blend import axis_weights
from cellkit.grid.cover import Tile, Window, columns_of
from cellkit.grid.fill import Fill, cut
from cellkit.grid.owners import enter_boxes, enter_instances, own_boxes, own_instances
from cellkit.grid.seams import join_labels
from cellkit.grid.zoom import held_by, zoom_window

__all__ = ["Frame", "Part", "ScaledFrame", "ScaledPart", "WindowFrame", "WindowPart"]

_CONTINUOUS = ("image", "prob", "field")
_ARRAYS = (*_CONTINUOUS, "mask", "classes", "labels")


class Part(Protocol):
    """One inner frame: the inner steps run once in each."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width inside."""

    @property
    def core(self) -> tuple[slice, slice]:
        """The pixels inside that are this part's own, real ones: no halo, no padding."""

    def enter(self, kind: Kind, value: Any) -> Any:
        """Return a layer of the outer frame as it looks inside. Raises `StageError` where its kind cannot enter."""


class Frame(Protocol):
    """What a bracket makes of the outer shape: its parts, and the way back.

    `scale` is how many inner pixels stand for one outer pixel, (y, x).
    """

    @property
    def parts(self) -> Sequence[Part]:
        """The inner frames; their cores together are the outer frame."""

    @property
    def scale(self) -> tuple[float, float]:
        """Inner pixels per outer pixel, (y, x)."""

    def leave(self, kind: Kind, values: Iterable[Any]) -> Any:
        """Return one outer layer from the inner ones, given in the order of `parts` and read once.

        Raises `StageError` where the kind cannot leave, `KindError` where a value does not fit its part.
        """


@dataclass(frozen=True)
class WindowPart:
    """A part that sees `tile.window` of an outer frame of shape `outer`; beyond its edge stands what `fill` says."""

    outer: tuple[int, int]
    tile: Tile
    fill: Fill

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width inside."""
        return self.tile.window.shape

    @property
    def core(self) -> tuple[slice, slice]:
        """The pixels inside that are this part's own: no halo, no padding."""
        return self.tile.core.within(self.tile.window).slices

    def enter(self, kind: Kind, value: Any) -> Any:
        """Return the window's pixels, or the objects that reach into it."""
        if kind.name in _ARRAYS:
            return cut(value, self.tile.window, self.fill)
        if kind.name == "boxes":
            return enter_boxes(value, self.tile, self.outer)
        if kind.name == "instances":
            return enter_instances(value, self.tile, self.outer)
        raise _refused(kind)


@dataclass(frozen=True)
class WindowFrame:
    """Parts that are windows of the outer frame, one (`pad`) or many (`tile`)."""

    outer: tuple[int, int]
    parts: tuple[WindowPart, ...]
    halo: int = 0
    blend: Literal["crop", "weighted"] = "crop"

    @property
    def scale(self) -> tuple[float, float]:
        """Windows do not change the size of a pixel."""
        return 1.0, 1.0

    def leave(self, kind: Kind, values: Iterable[Any]) -> Any:
        """Put the parts' layers together: crop or blend, join labels at the seams, give each object one owner."""
        checked = _checked(self.parts, kind, values)
        if kind.name in _CONTINUOUS and self.blend == "weighted":
            return self._blended(kind, checked)
        if kind.name == "labels" and len(self.parts) > 1:
            crops = (_visible(part, value) for part, value in zip(self.parts, checked, strict=True))
            return join_labels(self.outer, self._tiles, crops)
        if kind.name in _ARRAYS:
            return self._cropped(checked)
        if kind.name == "boxes":
            return own_boxes(list(checked), self._tiles, self.outer)
        if kind.name == "instances":
            return own_instances(list(checked), self._tiles, self.outer)
        raise _refused(kind)

    @property
    def _tiles(self) -> tuple[Tile, ...]:
        return tuple(part.tile for part in self.parts)

    def _cropped(self, values: Iterator[np.ndarray]) -> np.ndarray:
        out = np.empty(0)
        for part, value in zip(self.parts, values, strict=True):
            if part.tile.window == part.tile.core and len(self.parts) == 1:  # nothing to cut off
                out = value
                continue
            if part is self.parts[0]:
                out = np.empty((*self.outer, *value.shape[2:]), value.dtype)
            out[part.tile.core.slices] = value[part.core]
        return out

    def _blended(self, kind: Kind, values: Iterator[np.ndarray]) -> np.ndarray:
        rows, columns = self._weights()
        out = np.empty(0)
        for index, (part, value) in enumerate(zip(self.parts, values, strict=True)):
            if index == 0:
                out = np.zeros((*self.outer, *value.shape[2:]), np.float32)
            weight = np.outer(rows[index // len(columns)], columns[index % len(columns)])
            weight = weight.reshape(weight.shape + (1,) * (value.ndim - 2))
            out[_seen(part).slices] += weight * _visible(part, value)
        if kind.name == "prob":
            np.minimum(out, 1.0, out=out)  # weights add up to 1 only to within rounding
        return out

    def _weights(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        tiles = self._tiles
        across = columns_of(tiles)
        # Windows as they would be without clipping: the weight must not depend on `pad`.
        size = tiles[0].core.shape
        rows = [(t.core.top - self.halo, t.core.top + size[0] + self.halo) for t in tiles[::across]]
        columns = [(t.core.left - self.halo, t.core.left + size[1] + self.halo) for t in tiles[:across]]
        return axis_weights(rows, self.outer[0], self.halo), axis_weights(columns, self.outer[1], self.halo)


@dataclass(frozen=True)
class ScaledPart:
    """The outer frame at another size, or the `window` of it that the outer pixels `seen` are enough for."""

    outer: tuple[int, int]
    inner: tuple[int, int]
    seen: Window
    window: Window

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width inside."""
        return self.window.shape

    @property
    def core(self) -> tuple[slice, slice]:
        """Everything: nothing is padding."""
        return slice(0, self.shape[0]), slice(0, self.shape[1])

    def enter(self, kind: Kind, value: Any) -> Any:
        """Return the layer resampled to the inner size, each kind in its own way."""
        return _resampled(kind, value, (self.outer, self.inner), self.seen, self.window)


@dataclass(frozen=True)
class ScaledFrame:
    """One part: the outer frame resampled to `inner`.

    `seen`: the layers are but this window of the outer frame. Outside of what its pixels are enough for, layers leave
    as 0. The inner window then begins on a multiple of `grid`.
    """

    outer: tuple[int, int]
    inner: tuple[int, int]
    seen: Window | None = None
    grid: int = 1

    @property
    def scale(self) -> tuple[float, float]:
        """Inner pixels per outer pixel, (y, x)."""
        return self.inner[0] / self.outer[0], self.inner[1] / self.outer[1]

    @property
    def parts(self) -> tuple[ScaledPart, ...]:
        """The one part. Raises `StageError` where `seen` is too small for a pixel inside."""
        if self.seen is None:
            whole = Window(0, 0, *self.outer), Window(0, 0, *self.inner)
            return (ScaledPart(self.outer, self.inner, *whole),)
        held = held_by(self.outer, self.inner, self.seen)
        top, left = (-(-start // self.grid) * self.grid for start in held[:2])
        if top >= held.bottom or left >= held.right:
            raise StageError(f"a window of {self.seen.shape[0]} x {self.seen.shape[1]} px is too small to be resized")
        return (ScaledPart(self.outer, self.inner, self.seen, Window(top, left, held.bottom, held.right)),)

    def leave(self, kind: Kind, values: Iterable[Any]) -> Any:
        """Return the layer at exactly the outer size."""
        (value,) = _checked(self.parts, kind, values)
        (part,) = self.parts
        sizes = (self.inner, self.outer)
        if self.seen is None:
            return _resampled(kind, value, sizes, part.window, part.seen)
        window = held_by(self.inner, self.outer, part.window).clipped(self.seen)
        out = np.zeros((*self.seen.shape, *value.shape[2:]), value.dtype)
        if window.top < window.bottom and window.left < window.right:
            out[window.within(self.seen).slices] = _resampled(kind, value, sizes, part.window, window)
        return out


def _resampled(
    kind: Kind, value: Any, sizes: tuple[tuple[int, int], tuple[int, int]], seen: Window, window: Window
) -> Any:
    """Return the pixels of `window` at the second of two sizes of a frame; `value` is what is `seen` at the first."""
    given, wanted = sizes
    if kind.name in _CONTINUOUS:
        out = zoom_window(lambda part: value[part.within(seen).slices], given, wanted, window)
        return np.minimum(out, 1.0) if kind.name == "prob" else out
    if kind.name in _ARRAYS:
        return resample.nearest(value, given, wanted, seen, window)
    scale = (wanted[0] / given[0], wanted[1] / given[1])
    if kind.name == "boxes":
        return resample.scaled_boxes(value, scale)
    if kind.name == "instances":
        return resample.scaled_instances(value, scale)
    raise _refused(kind)


def _seen(part: WindowPart) -> Window:
    """Return the part's window without padding, in outer coordinates."""
    return part.tile.window.clipped(Window(0, 0, *part.outer))


def _visible(part: WindowPart, value: np.ndarray) -> np.ndarray:
    return value[_seen(part).within(part.tile.window).slices]


def _checked(parts: Sequence[Part], kind: Kind, values: Iterable[Any]) -> Iterator[Any]:
    """Pass values on one at a time, so that the caller decides how many are held in memory."""
    count = 0
    tail: tuple[int, ...] | None = None
    for value in values:
        if count < len(parts):
            where = f"{kind} of part {count + 1} of {len(parts)}"
            validate(kind, value, where)
            if kind.dtype:
                tail = value.shape[2:] if tail is None else tail
                if value.shape != (*parts[count].shape, *tail):
                    raise KindError(f"{where}: wanted shape {(*parts[count].shape, *tail)}, got {value.shape}")
            yield value
        count += 1
    if count != len(parts):
        raise StageError(f"leave: wanted one {kind} for each of {len(parts)} parts, got {count}")


def _refused(kind: Kind) -> StageError:
    fix = (
        "move the step that makes it behind the bracket" if kind == KINDS["table"] else "the engine measures it outside"
    )
    return StageError(f"a {kind} can neither enter nor leave tile, pad or resize; {fix}")
