"""The pixels behind a layer, window by window, exactly as a run reads them from a file."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cellkit.core.errors import KindError, ReadError, UsageError
from cellkit.core.recipe import ReadOptions
from cellkit.core.sample import Sample, scale
from cellkit.grid.cover import Window

__all__ = ["ArrayPixels", "FilePixels", "Pixels", "save_image"]

_CHUNK = (1024, 1024)


class Pixels(Protocol):
    """An image of which windows are read: its height and width, channels, and where it begins in its layer (y, x)."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""

    @property
    def channels(self) -> int:
        """Number of channels."""

    @property
    def origin(self) -> tuple[int, int]:
        """The pixel of the layer at which it begins: not (0, 0) where the recipe crops."""

    def read(self, window: Window) -> Sample:
        """Return the pixels of `window`. Raises `CellkitError` where they cannot be read."""


class FilePixels:
    """An image file, read as a run under `options` reads it.

    Raises `ReadError` and `UsageError` as `cellkit.io.find` and `open_slide` do.
    """

    def __init__(self, path: str | Path, options: ReadOptions) -> None:
        from cellkit.io import find, open_slide

        sources = find([path], options)
        if len(sources) != 1:
            raise UsageError(f"{path}: holds {len(sources)} images; open one of them")
        self._slide = open_slide(sources[0], options)
        self.name = sources[0].name
        self.origin = (0, 0) if options.crop is None else (options.crop[0], options.crop[1])

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self._slide.shape

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self._slide.info.shape[2]

    @property
    def pixel_size(self) -> tuple[float, float] | None:
        """Micrometres (y, x), or None."""
        return self._slide.info.pixel_size

    def read(self, window: Window) -> Sample:
        """Return the pixels of `window`."""
        return self._slide.read(window)

    def close(self) -> None:
        """Give the file back."""
        self._slide.close()


class ArrayPixels:
    """An array (y, x) or (y, x, c) of any library that slices (numpy, dask, zarr), read as a file of it would be.

    Only the windows asked for are computed. A fourth channel is taken for alpha, and dropped, where `rgb`.
    `pixel_size` is (y, x) in micrometres. Raises `KindError` and `ReadError` for what is no image under `options`.
    """

    def __init__(
        self,
        array: Any,
        options: ReadOptions,
        *,
        name: str = "image",
        rgb: bool = False,
        pixel_size: tuple[float, float] | None = None,
    ) -> None:
        if array.ndim not in (2, 3) or 0 in array.shape or np.dtype(array.dtype).kind not in "buif":
            raise KindError(f"{name}: an image is (y, x) or (y, x, c) of numbers; got {array.dtype} {array.shape}")
        height, width = array.shape[:2]
        top, left, bottom, right = options.crop or (0, 0, height, width)
        if bottom > height or right > width:
            raise ReadError(f"{name}: crop {list(options.crop or ())} does not lie within {height} x {width} px")
        channels = 1 if array.ndim == 2 else array.shape[2]
        self.channels = 3 if rgb and channels == 4 else channels
        if options.channels and len(options.channels) != self.channels:
            raise ReadError(f"{name}: {len(options.channels)} channel names for {self.channels} channels")
        self.array, self.name = array, name
        self.shape = (bottom - top, right - left)
        self.origin = (top, left)
        self.pixel_size = _pair(options.pixel_size) or pixel_size
        self.bits = options.bits
        self._options = options
        self._fills: np.ndarray | None = None
        self._lock = threading.Lock()

    def read(self, window: Window) -> Sample:
        """Return the pixels of `window`; missing values (NaN, infinite) take the channel's median over the whole."""
        part = self._cut(window)
        if part.dtype.kind == "f":
            from cellkit.io.medians import finite

            part = finite(part)
            holes = np.isnan(part)
            if holes.any():
                part = np.where(holes, self._medians() if part.ndim == 3 else self._medians()[0], part)
        options = self._options
        return Sample.of(part, name=self.name, pixel_size=self.pixel_size, channels=options.channels, bits=options.bits)

    def _cut(self, window: Window) -> np.ndarray:
        top, left = self.origin
        rows = slice(window.top + top, window.bottom + top)
        columns = slice(window.left + left, window.right + left)
        part = np.asarray(self.array[rows, columns])
        return part[..., : self.channels] if part.ndim == 3 else part

    def _medians(self) -> np.ndarray:
        from cellkit.io.medians import medians

        with self._lock:
            if self._fills is None:
                self._fills = medians(self._cut, Window(0, 0, *self.shape), _CHUNK, self.channels)
            return self._fills


def save_image(path: str | Path, pixels: ArrayPixels) -> None:
    """Write the whole array, uncropped, so that a run under the same options reads the same image from the file.

    Raises `UsageError` and `WriteError` as `cellkit.io.write_image` does.
    """
    from cellkit.io import write_image

    array = np.asarray(pixels.array)
    array = array[..., : pixels.channels] if array.ndim == 3 else array
    if array.dtype.kind == "b":
        array = array.view(np.uint8) * np.uint8(255)
    elif array.dtype.kind != "f" and array.dtype not in (np.uint8, np.uint16):
        # A file of floats is read as it is, so what a run would divide by is divided here.
        array = array.astype(np.float32) if pixels.bits is not None else scale(array)[0]
    write_image(path, array, pixels.pixel_size)


def _pair(size: Sequence[float] | None) -> tuple[float, float] | None:
    return None if size is None else (float(size[0]), float(size[1]))
