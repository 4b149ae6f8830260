"""One resampling of a picture, its labels and its boxes, whatever movements it is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from cellkit.core import Boxes
from cellkit.grid.cover import Window
from cellkit.grid.fill import cut

__all__ = ["Mirrored", "Warp", "as_float"]

Mirrored = Literal["objects", "same", "unknown"]

_NO_FIELD = np.zeros((0, 0, 2), np.float32)
_MARGIN = 3  # what cubic interpolation reads beside a place, and one for rounding
_ENOUGH = 1.15
"""Source pixels per pixel up to which nothing is averaged before the picture is made smaller."""
_ROUNDS = 30
_CIRCLE = np.linspace(0, 2 * np.pi, 32, endpoint=False)


def as_float(image: np.ndarray) -> np.ndarray:
    """Return stored values as float32, an array of its own: whole numbers stand for shares of their type's largest."""
    if image.dtype.kind == "u":
        return np.multiply(image, np.float32(1 / np.iinfo(image.dtype).max), dtype=np.float32)
    return np.array(image, np.float32, order="C")


@dataclass(frozen=True)
class Warp:
    """Where each pixel of a crop `size` comes from in a source `shape`, both (height, width).

    `matrix`, float64 (3, 3), maps (x, y, 1) counted from the middle of the crop to (x, y) counted from the middle of
    the plain crop, whose first pixel is the source's `corner`; `moved`, float32 (y, x, 2), is added to (x, y) before.
    """

    shape: tuple[int, int]
    size: tuple[int, int]
    corner: tuple[int, int]
    matrix: np.ndarray
    moved: np.ndarray | None = None

    @cached_property
    def _centre(self) -> np.ndarray:
        """The (x, y) in the source of the middle of the crop."""
        middle = [self.corner[1 - axis] + (self.size[1 - axis] - 1) / 2 for axis in range(2)]
        return np.array(middle) + self.matrix[:2, 2]

    @cached_property
    def _whole_pixels(self) -> Window | None:
        """The window that only has to be flipped or turned; None where values lie between pixels."""
        turn = self.matrix[:2, :2]
        if self.moved is not None or not (np.isin(turn, (-1, 0, 1)).all() and abs(round(np.linalg.det(turn))) == 1):
            return None
        height, width = self.size if turn[0, 0] else self.size[::-1]
        # Half pixels, of a turn of unequal sides or a shift, are rounded: nothing need be interpolated.
        left, top = (math.floor(c - (n - 1) / 2 + 0.5) for c, n in zip(self._centre, (width, height), strict=True))
        return Window(top, left, top + height, left + width)

    @cached_property
    def _anchor(self) -> tuple[int, int]:
        """The pixel (row, column) that `_places` are counted from, so that float32 holds them well."""
        return math.floor(self._centre[1]), math.floor(self._centre[0])

    @cached_property
    def _places(self) -> np.ndarray:
        from cellkit.train._sampling import coordinates

        matrix = self.matrix[:2].astype(np.float64)
        window = self._whole_pixels
        centre = self._centre
        if window is not None:
            centre = np.array([(window.left + window.right - 1) / 2, (window.top + window.bottom - 1) / 2])
        matrix[:, 2] = centre - self._anchor[::-1]
        moved = _NO_FIELD if self.moved is None else self.moved
        return coordinates(np.ascontiguousarray(matrix), moved, *self.size)

    @cached_property
    def _bounds(self) -> Window:
        """The pixels of the source, and beyond its edge, that places lie among."""
        if self._whole_pixels is not None:
            return self._whole_pixels
        ends = []
        for axis, first in enumerate(self._anchor):
            at = self._places[axis]
            ends.append((first + math.floor(at.min()), first + math.ceil(at.max()) + 1))
        return Window(ends[0][0], ends[1][0], ends[0][1], ends[1][1])

    def _inside(self, window: Window) -> bool:
        return window.clipped(Window(0, 0, *self.shape)) == window

    def image(self, image: np.ndarray, *, cubic: bool = False) -> np.ndarray:
        """Return the crop of `image` (y, x, c), float32, mirrored beyond its edge; see `as_float` for other types.

        Linear or cubic between pixels. A picture that is made smaller is averaged before, so that it does not alias.
        """
        import cv2

        if self._whole_pixels is not None:
            return as_float(self._turned(cut(image, self._whole_pixels, "reflect")))
        low, high = self._bounds[:2], self._bounds[2:]
        window = Window(*(n - _MARGIN for n in low), *(n + _MARGIN for n in high))
        source = as_float(cut(image, window, "reflect"))
        rows = self._places[0] + np.float32(self._anchor[0] - window.top)
        columns = self._places[1] + np.float32(self._anchor[1] - window.left)
        shrink = math.sqrt(abs(float(np.linalg.det(self.matrix[:2, :2]))))
        if shrink > _ENOUGH:
            source, times = _averaged(source, shrink)
            offset = np.float32((times - 1) / 2)
            rows, columns = (rows - offset) / np.float32(times), (columns - offset) / np.float32(times)
        how = cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR
        out = np.empty((*self.size, image.shape[2]), np.float32)
        for first in range(0, image.shape[2], 4):
            block = source[..., first : first + 4]
            done = cv2.remap(block, columns, rows, how, borderMode=cv2.BORDER_REFLECT_101)
            out[..., first : first + 4] = done.reshape(*self.size, -1)
        return out

    def labels(self, labels: np.ndarray, mirrored: Mirrored, first: int = 0) -> tuple[np.ndarray, dict[int, int]]:
        """Return the crop of `labels` (y, x), whole numbers, as int32, and where new numbers come from.

        The nearest pixel counts. Beyond the edge labels are mirrored: ``"objects"``: what lies there are objects of
        their own, with new numbers above `first` and those of the crop; ``"same"``: it keeps its number; ``"unknown"``:
        it is -1.
        """
        from cellkit.train._sampling import gather

        if self._whole_pixels is not None and self._inside(self._whole_pixels):
            out = self._turned(labels[self._whole_pixels.slices])
            return np.array(out, np.int32, order="C"), {}
        if labels.dtype not in (np.uint8, np.uint16, np.int32):
            labels = labels.astype(np.int32)
        out, mirror = gather(np.ascontiguousarray(labels), self._places, *self._anchor)
        if mirrored == "same" or self._inside(self._bounds):
            return out, {}
        if mirrored == "unknown":
            out[mirror != 0] = -1
            return out, {}
        return out, _renumbered(out, mirror, first)

    def boxes(self, boxes: Boxes, visible: float) -> Boxes:
        """Return the boxes of what `boxes` hold, cut to the crop; those less than a share `visible` in it are left out.

        An object is taken for the ellipse in its box, whose box after any turn is near the object's, as that of the
        corners is not. What the edge of the source mirrors has boxes too.
        """
        copies = self._mirror_images(boxes)
        middle = (copies.xyxy[:, :2] + copies.xyxy[:, 2:]) / 2 - 0.5
        half = (copies.xyxy[:, 2:] - copies.xyxy[:, :2]) / 2
        ring = np.stack([np.cos(_CIRCLE), np.sin(_CIRCLE)], axis=1)
        points = self._forward(middle[:, None] + half[:, None] * ring) + 0.5
        whole = np.concatenate([points.min(axis=1, initial=np.inf), points.max(axis=1, initial=-np.inf)], axis=1)
        limits = np.array([*self.size[::-1], *self.size[::-1]], np.float64)
        cropped = np.clip(whole, 0, limits)
        area, left = _area(whole), _area(cropped)
        kept = np.flatnonzero((left >= visible * area) & (left > 0))
        return Boxes(cropped[kept].astype(np.float32), copies.scores[kept], copies.classes[kept])

    def _turned(self, window: np.ndarray) -> np.ndarray:
        turn = self.matrix[:2, :2]
        if not turn[0, 0]:
            window = window.swapaxes(0, 1)
            x, y = turn[1, 0], turn[0, 1]  # the source's row follows the crop's column, and the other way round
        else:
            x, y = turn[0, 0], turn[1, 1]
        return window[:: 1 if y > 0 else -1, :: 1 if x > 0 else -1]

    def _forward(self, points: np.ndarray) -> np.ndarray:
        """Return where in the crop the (x, y) `points` (..., 2) of the source lie, between pixel centres."""
        window = self._whole_pixels
        centre = self._centre
        if window is not None:
            centre = np.array([(window.left + window.right - 1) / 2, (window.top + window.bottom - 1) / 2])
        wanted = (points - centre) @ np.linalg.inv(self.matrix[:2, :2]).T
        middle = (np.array(self.size[::-1]) - 1) / 2
        if self.moved is None or not points.size:
            return wanted + middle
        at = wanted
        for _ in range(_ROUNDS):  # the movement is a contraction (see `elastic`): this closes in on the one solution
            at = wanted - _bilinear(self.moved, at + middle)
        return at + middle

    def _mirror_images(self, boxes: Boxes) -> Boxes:
        """Return `boxes` and their mirror images beyond the edges, as far as the crop reaches."""
        ends = self._bounds
        xyxy, index = boxes.xyxy.astype(np.float64), np.arange(len(boxes))
        for axis, low, high in ((1, ends.top, ends.bottom), (0, ends.left, ends.right)):
            parts = [_mirrored(xyxy, axis, times, first, stop) for times, first, stop in
                     _mirrors(self.shape[1 - axis], low, high)]  # fmt: skip
            index = np.concatenate([index[kept] for _, kept in parts]) if parts else index[:0]
            xyxy = np.concatenate([moved for moved, _ in parts]) if parts else xyxy[:0]
        return Boxes(xyxy, boxes.scores[index], boxes.classes[index])


def _mirrors(length: int, low: int, high: int) -> list[tuple[int, int, int]]:
    """Return the mirror images of a side that meet pixels `low` to `high`: their number, first pixel and stop."""
    period = length - 1
    if period == 0:
        return [(0, 0, 1)]
    spans = []
    for times in range(min(0, low // period), max(0, -(-high // period)) + 1):
        first = 0 if times == 0 else times * period + (times > 0)
        stop = length if times == 0 else first + period
        if first < high and stop > low:
            spans.append((times, first, stop))
    return spans


def _mirrored(xyxy: np.ndarray, axis: int, times: int, first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what of boxes lies in one mirror image of a side, which begins at `first`, and their places."""
    moved = xyxy.copy()
    if times == 0:
        return moved, np.arange(len(moved))
    # Pixel i is mirrored to (times + 1) * period - i, or moved by times * period; edges lie half a pixel off.
    period = stop - first
    if times % 2:
        moved[:, [axis, axis + 2]] = (times + 1) * period + 1 - xyxy[:, [axis + 2, axis]]
    else:
        moved[:, [axis, axis + 2]] += times * period
    moved[:, [axis, axis + 2]] = np.clip(moved[:, [axis, axis + 2]], first, stop)
    kept = np.flatnonzero(moved[:, axis] < moved[:, axis + 2])
    return moved[kept], kept


def _averaged(image: np.ndarray, shrink: float) -> tuple[np.ndarray, int]:
    """Return `image` averaged for being made smaller by `shrink`, and by how much it is smaller already."""
    import cv2

    times = max(1, int(shrink))
    height, width = (side // times for side in image.shape[:2])
    planes = []
    for first in range(0, image.shape[2], 4):
        block = np.ascontiguousarray(image[: height * times, : width * times, first : first + 4])
        if times > 1:
            block = cv2.resize(block, (width, height), interpolation=cv2.INTER_AREA)
        rest = shrink / times
        if rest > _ENOUGH:
            block = cv2.GaussianBlur(block, (0, 0), (rest - 1) / 2, borderType=cv2.BORDER_REFLECT_101)
        planes.append(block.reshape(height, width, -1))
    return np.concatenate(planes, axis=2) if len(planes) > 1 else planes[0], times


def _renumbered(labels: np.ndarray, mirror: np.ndarray, first: int) -> dict[int, int]:
    """Give objects in mirror images new numbers, in place; return the old number of each."""
    from cellkit.metrics.contingency import renumbered

    at = np.flatnonzero((mirror.ravel() != 0) & (labels.ravel() > 0))
    if not len(at):
        return {}
    flat = labels.reshape(-1)
    _, kind = renumbered(mirror.ravel()[at])
    numbers, number = renumbered(flat[at])
    pieces, piece = renumbered(kind * len(numbers) + number)
    first = max(first, int(labels.max()))
    flat[at] = first + 1 + piece
    old = numbers[(pieces % np.uint64(len(numbers))).astype(np.intp)]
    return {first + 1 + i: int(number) for i, number in enumerate(old)}


def _bilinear(field: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return `field` (y, x, 2) at the (x, y) `points` (..., 2); beyond its edge the nearest value."""
    height, width = field.shape[:2]
    x = np.clip(points[..., 0], 0, width - 1)
    y = np.clip(points[..., 1], 0, height - 1)
    left, top = np.minimum(x.astype(np.intp), max(0, width - 2)), np.minimum(y.astype(np.intp), max(0, height - 2))
    right, below = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    u, v = (x - left)[..., None], (y - top)[..., None]
    upper = field[top, left] * (1 - u) + field[top, right] * u
    return upper * (1 - v) + (field[below, left] * (1 - u) + field[below, right] * u) * v


def _area(xyxy: Sequence[Any] | np.ndarray) -> np.ndarray:
    xyxy = np.asarray(xyxy)
    return np.prod(np.maximum(xyxy[:, 2:] - xyxy[:, :2], 0), axis=1)
