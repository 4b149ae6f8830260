"""What pictures that can be read in parts have in common: their levels, and the tiles that were decoded last."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Protocol

import numpy as np

from cellkit.core.errors import ReadError
from cellkit.io.info import Info, Pixels, project

__all__ = ["CACHE", "Level", "Picture", "Tiled", "Tiles", "Whole", "level_of", "paste"]

CACHE = 2**26
"""Bytes of decoded tiles that an open picture keeps, so that windows which share tiles decode them once."""


@dataclass(frozen=True)
class Level:
    """One resolution: its (y, x), how many pixels of the full one a pixel spans (y, x), and the size of its tiles."""

    shape: tuple[int, int]
    step: tuple[float, float] = (1.0, 1.0)
    chunk: tuple[int, int] = (512, 512)


class Picture(Protocol):
    """An open file or store. `info` and `levels` come from its headers; pixels are decoded when asked for.

    `divisible` tells whether a part can be decoded without the rest, `lossy` whether the pixels went through a codec
    that changes values. `decode` may be called from several threads at once.
    """

    info: Info

    @property
    def levels(self) -> tuple[Level, ...]:
        """Every resolution, the full one first."""

    @property
    def decoded(self) -> int:
        """How many tiles were decoded so far."""

    @property
    def divisible(self) -> bool:
        """Whether a part of the picture can be decoded without the rest."""

    @property
    def lossy(self) -> bool:
        """Whether the pixels went through a codec that changes values."""

    def decode(self, projection: str, crop: Sequence[int] | None, *, level: int = 0, indexed: bool = False) -> Pixels:
        """Decode what lies in `crop` (y0, x0, y1, x1) of a level."""

    def close(self) -> None:
        """Give the file back."""


class Tiles:
    """The decoded tiles used last, up to `most` bytes and always the very last; `decoded` counts what was decoded."""

    def __init__(self, most: int = CACHE) -> None:
        self.decoded = 0
        self._most = most
        self._held = 0
        self._kept: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the tile `key`; where it is not at hand, what `decode` returns."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        tile = decode()
        with self._lock:
            self.decoded += 1
            if key not in self._kept:
                self._kept[key] = tile
                self._held += tile.nbytes
            while self._held > self._most and len(self._kept) > 1:
                self._held -= self._kept.popitem(last=False)[1].nbytes
        return tile


class Whole:
    """A picture that cannot be decoded in parts: decoded once, when first asked for, and kept."""

    def __init__(
        self,
        info: Info,
        decode: Callable[[str, bool], Pixels],
        *,
        lossy: bool = False,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.info = info
        self.levels: tuple[Level, ...] = (Level(info.shape[:2], chunk=info.shape[:2]),)
        self.decoded = 0
        self.lossy = lossy
        self.close = close
        self._decode = decode
        self._kept: dict[tuple[str, bool], Pixels] = {}
        self._lock = threading.Lock()

    @property
    def divisible(self) -> bool:
        """Never."""
        return False

    def decode(self, projection: str, crop: Sequence[int] | None, *, level: int = 0, indexed: bool = False) -> Pixels:
        """Decode the picture, unless it has been, and cut `crop` out of it."""
        if level:
            raise ReadError(f"has one level, not a level {level}")
        with self._lock:
            pixels = self._kept.get((projection, indexed))
            if pixels is None:
                pixels = self._decode(projection, indexed)
                self.decoded += 1
                if pixels.array.shape[:2] == self.info.shape[:2]:
                    self._kept = {(projection, indexed): pixels}
        if crop is None:
            return pixels
        return replace(pixels, array=pixels.array[crop[0] : crop[2], crop[1] : crop[3]])


class Tiled:
    """A picture on a grid of tiles, each of which another library or codec decodes: subclasses say how, in `tile`."""

    lossy = False
    divisible = True

    def __init__(self, info: Info, levels: Sequence[Level], planes: int = 1) -> None:
        self.info = info
        self.levels = tuple(levels)
        self.notes: list[str] = []
        self._planes = planes
        self._tiles = Tiles()

    @property
    def decoded(self) -> int:
        """How many tiles were decoded so far."""
        return self._tiles.decoded

    def tile(self, level: int, plane: int, at: tuple[int, int], indexed: bool) -> np.ndarray:
        """Return the pixels (y, x, c) of the tile at (row, column) of a plane of the stack, cut at the far edges."""
        raise NotImplementedError

    def decode(self, projection: str, crop: Sequence[int] | None, *, level: int = 0, indexed: bool = False) -> Pixels:
        """Decode what lies in `crop` of a level; only the tiles that meet it are read."""
        info, found = self.info, self.levels[level]
        y0, x0, y1, x1 = crop or (0, 0, *found.shape)
        out = np.empty((1 if projection == "first" else self._planes, y1 - y0, x1 - x0, info.shape[2]), info.dtype)
        for plane in range(len(out)):

            def tile(row: int, column: int, plane: int = plane) -> np.ndarray:
                key = (level, plane, row, column, indexed)
                return self._tiles.get(key, lambda: self.tile(level, plane, (row, column), indexed))

            paste(out[plane], (y0, x0), found.chunk, tile)
        pixels, bits = project(out, projection, info.bits) if info.stack else (out[0], info.bits)
        return Pixels(pixels, bits, info.channels, info.pixel_size, tuple(self.notes))

    def extent(self, level: int, at: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return (y0, x0, y1, x1) of the tile at (row, column) of a level."""
        (height, width), (tall, wide) = self.levels[level].shape, self.levels[level].chunk
        top, left = at[0] * tall, at[1] * wide
        return top, left, min(top + tall, height), min(left + wide, width)

    def close(self) -> None:
        """Nothing is held open, unless a subclass does."""


def level_of(shape: tuple[int, int], full: tuple[int, int], chunk: tuple[int, int]) -> Level:
    """Return the level of `shape` in a pyramid whose full size is `full`.

    A step is the whole number that `shape` was rounded from, up or down, where there is one.
    """
    steps = []
    for small, large in zip(shape, full, strict=True):
        step = large / small
        whole = max(round(step), 1)
        # One pixel more or less: some writers round up, some down, some to even sizes.
        steps.append(float(whole) if abs(large / whole - small) <= 1 else step)
    return Level(shape, (steps[0], steps[1]), chunk)


def paste(
    out: np.ndarray, origin: tuple[int, int], chunk: tuple[int, int], tile: Callable[[int, int], np.ndarray | None]
) -> None:
    """Fill `out`, (y, x, ...) with its corner at `origin`, from the tiles (row, column) of a grid of `chunk` px.

    A tile may be smaller than the grid's step at the far edges; where `tile` returns None, `out` stays as it is.
    """
    y0, x0 = origin
    y1, x1 = y0 + out.shape[0], x0 + out.shape[1]
    for row in range(y0 // chunk[0], ceil(y1 / chunk[0])):
        for column in range(x0 // chunk[1], ceil(x1 / chunk[1])):
            pixels = tile(row, column)
            if pixels is None:
                continue
            top, left = row * chunk[0], column * chunk[1]
            a, b = max(y0, top), max(x0, left)
            part = pixels[a - top : y1 - top, b - left : x1 - left]
            out[a - y0 : a - y0 + part.shape[0], b - x0 : b - x0 + part.shape[1]] = part
