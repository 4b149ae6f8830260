"""Pictures and label images of any size on disk, read window by window as they are stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from cellkit.core.errors import ReadError
from cellkit.core.recipe import ReadOptions
from cellkit.grid.cover import Window, cover
from cellkit.io.opening import naming, open_picture
from cellkit.io.reading import accept

__all__ = ["LabelFile", "RasterFile", "as_labels", "lossy"]

_R = TypeVar("_R", bound="RasterFile")
_PLAIN = ReadOptions()

_SIDE = 2048
_MOST = 4 * _SIDE * _SIDE
"""Pixels of a window at most, where strips as wide as the image allow it."""


class RasterFile:
    """An open picture of any size, read window by window as it is stored. A context manager.

    `shape` and `chunk`, (y, x), are the size of the image and of what is decoded at once. Only what can be decoded in
    parts is; a PNG is read whole, once. Raises `ReadError` where the file is no picture of one plane.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with naming(path):
            self._picture = open_picture(path, _PLAIN)
            try:
                info = self._picture.info
                accept(replace(info, whole=(1, 1)) if self._picture.divisible else info, _PLAIN)
            except BaseException:
                self._picture.close()
                raise
        self.shape: tuple[int, int] = (int(info.shape[0]), int(info.shape[1]))
        self.chunk: tuple[int, int] = self._picture.levels[0].chunk

    def __enter__(self: _R) -> _R:
        return self

    def __exit__(self, *_: object) -> None:
        self._picture.close()

    def read(self, window: Window) -> np.ndarray:
        """Return the stored values of a window, (y, x) or (y, x, c)."""
        with naming(self.path):
            return self._picture.decode("none", tuple(window), indexed=True).array

    def windows(self, other: RasterFile | None = None) -> tuple[Window, ...]:
        """Return windows of some 2,048 px that cover the image and cut few chunks, of `other` too."""
        chunks = [self.chunk, *([other.chunk] if other is not None else [])]
        wide = min(self.shape[1], _upto(max(chunk[1] for chunk in chunks), _SIDE))
        tall = min(self.shape[0], _upto(max(chunk[0] for chunk in chunks), max(1, min(_SIDE, _MOST // wide))))
        return tuple(tile.core for tile in cover(self.shape, (tall, wide), 0, clip=True))


class LabelFile(RasterFile):
    """A label image on disk, (y, x): TIFF, OME-Zarr, PNG and what else `read_labels` reads, ids of up to 64 bits.

    Raises `ReadError` for a file that was compressed with loss, and on reading for what are no labels.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        if self._picture.lossy:
            self._picture.close()
            with naming(path):
                raise lossy(self._picture.info.format)

    def read(self, window: Window) -> np.ndarray:
        """Return the labels of a window, whole numbers (y, x) of the file's own dtype."""
        array = super().read(window)
        with naming(self.path):
            return as_labels(array)


def as_labels(array: np.ndarray) -> np.ndarray:
    """Return a decoded picture as whole numbers (y, x); of a bool array 0 and 1.

    Channels that are all equal count as one. Raises `ReadError` for colours, and for fractions and negative numbers.
    """
    if array.ndim == 3:
        if not all(np.array_equal(array[..., 0], array[..., i]) for i in range(1, array.shape[2])):
            raise ReadError("the colours of this picture are no label numbers (save labels as 16-bit grey PNG or TIFF)")
        array = array[..., 0]
    if array.dtype.kind == "f":
        whole = np.isfinite(array) & (array == np.floor(array))
        if not whole.all():
            bad = float(array[~whole][0])
            raise ReadError(f"labels are whole numbers, but the file holds {bad:g} (save labels as integers)")
        if array.size and np.abs(array).max() >= 2.0**63:
            raise ReadError(f"labels have at most 64 bits, but the file holds {np.abs(array).max():g}")
        array = array.astype(np.int64)
    if array.dtype.kind == "b":
        return array.view(np.uint8)
    if array.dtype.kind == "i" and array.size and array.min() < 0:
        raise ReadError(f"labels are not negative, but the file holds {array.min()}")
    return array


def lossy(form: str) -> ReadError:
    """Return the error of labels in a file of the format `form` that is compressed with loss."""
    return ReadError(f"a {form.upper()} compressed with loss does not keep label numbers (save labels as PNG or TIFF)")


def _upto(chunk: int, side: int) -> int:
    """Return the largest multiple of a chunk's side that is no more than `side`, at least one chunk."""
    return chunk * max(1, side // chunk)
