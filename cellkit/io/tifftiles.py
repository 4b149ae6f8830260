"""Which pages of a TIFF hold a picture at one resolution, and how any part of it is decoded."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, prod
from typing import Any

import numpy as np

from cellkit.core.errors import ReadError
from cellkit.io.tiffchain import truncated
from cellkit.io.tiles import Tiles, paste

__all__ = ["Layout", "Resolution", "layout_of"]

_MOST_SEGMENT = 2**28
_NATURAL = 512  # px; of pictures that lie in the file row by row any part is as good as another
_WITH_TABLES = (6, 7, 33007, 34892)


@dataclass(frozen=True)
class Layout:
    """Which pages hold the picture, and which of their axes are what."""

    level: Any
    page: Any
    stack: tuple[int, ...]
    rows: int
    columns: int
    channels: tuple[int, ...]

    @property
    def order(self) -> tuple[int, ...]:
        """The axes as stack, y, x, channels."""
        return (*self.stack, self.rows, self.columns, *self.channels)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return int(self.level.shape[self.rows]), int(self.level.shape[self.columns])


def layout_of(level: Any, names: Sequence[str]) -> Layout:
    """Tell the axes of a series of pages; `names` are the declared channels."""
    axes, shape = level.axes, level.shape
    if axes.count("Y") != 1 or axes.count("X") != 1:
        raise ReadError(f"the TIFF has axes {axes}, not y and x")
    rest = [i for i, axis in enumerate(axes) if axis not in "YXS"]
    unknown = [i for i in rest if axes[i] not in "CZT"]
    channels = [i for i in rest if axes[i] == "C"]
    samples = [i for i, axis in enumerate(axes) if axis == "S"]
    # Pages that no metadata explains are channels where as many are declared.
    if names and len(unknown) == 1 and not channels and not samples and shape[unknown[0]] == len(names):
        channels, unknown = unknown, []
    stack = [i for i in rest if i not in channels]
    return Layout(level, level.keyframe, tuple(stack), axes.index("Y"), axes.index("X"), (*channels, *samples))


class Resolution:
    """One resolution of an open TIFF; `number` tells its tiles from those of the others."""

    def __init__(self, layout: Layout, number: int, tiles: Tiles, lock: threading.RLock) -> None:
        self.layout = layout
        self._number = number
        self._tiles = tiles
        self._lock = lock
        self._frames: dict[int, Any] = {}

    @cached_property
    def divisible(self) -> bool:
        """Whether a part can be decoded without the rest."""
        return self._contiguous or self._paged

    @cached_property
    def chunk(self) -> tuple[int, int]:
        """Height and width of what is decoded at once."""
        height, width = self.layout.shape
        if self._contiguous:
            return min(height, _NATURAL), min(width, _NATURAL)
        if not self._paged:
            return height, width
        tall, wide = self._grid
        return min(tall, height), min(wide, width)

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What is odd about the tiles. Raises where data are missing: decoders leave such parts black or undefined."""
        level, page = self.layout.level, self.layout.page
        with self._lock:
            size = page.parent.filehandle.size
            if level.dataoffset is not None:
                if level.dataoffset + level.nbytes > size:
                    raise truncated("its pixels")
                return ()
            tall, wide = self._grid
            depth = page.tiledepth if page.is_tiled else 1
            if 0 in (depth, tall, wide) or depth * tall * wide > _MOST_SEGMENT:
                raise ReadError(f"the TIFF is damaged: its tiles measure {depth} x {tall} x {wide}")
            separate, deep, height, width = page.shaped[:4]
            wanted = separate * ceil(deep / depth) * ceil(height / tall) * ceil(width / wide)
            notes = []
            for number, frame in enumerate(level):
                if frame is None:
                    raise ReadError(f"the TIFF is incomplete: plane {number + 1} of {len(level)} is missing")
                offsets, counts = frame.dataoffsets, frame.databytecounts
                if len(offsets) != len(counts) or (len(offsets) < wanted and not page.is_contiguous):
                    raise ReadError("the TIFF is damaged: parts of its picture are missing")
                if any(offset + count > size for offset, count in zip(offsets, counts, strict=True)):
                    raise truncated("its pixels")
                if not all(counts):
                    notes.append(f"{sum(not count for count in counts)} empty tiles were read as 0")
            return tuple(notes)

    def region(self, crop: Sequence[int], *, first: bool = False) -> np.ndarray:
        """Decode the tiles or strips that meet `crop` and return what lies in it, with the axes of the level.

        With `first`, axes that need a projection have length one: of a stack the first plane is decoded alone.
        """
        _ = self.notes
        layout = self.layout
        shape = list(layout.level.shape)
        lead = layout.rows if self._contiguous else len(shape) - len(layout.page.shape)
        taken = [slice(0, 1) if first and axis in layout.stack else slice(None) for axis in range(lead)]
        planes = np.arange(prod(shape[:lead])).reshape(shape[:lead])[tuple(taken)]
        cut = self._rows if self._contiguous else self._plane
        parts = [cut(int(plane), crop) for plane in planes.ravel()]
        return np.stack(parts).reshape(*planes.shape, *parts[0].shape)

    @cached_property
    def _contiguous(self) -> bool:
        """Whether the numbers lie in the file in the order of the array, uncompressed."""
        level, layout = self.layout.level, self.layout
        return level.dataoffset is not None and layout.columns == layout.rows + 1 and not _transformed(level)

    @cached_property
    def _paged(self) -> bool:
        """Whether the level is its pages, one behind another."""
        level, page = self.layout.level, self.layout.page
        shape, own = tuple(level.shape), tuple(page.shape)
        lead = shape[: len(shape) - len(own)]
        return page.imagedepth == 1 and lead + own == shape and prod(lead) == len(level) and not _transformed(level)

    @cached_property
    def _grid(self) -> tuple[int, int]:
        page = self.layout.page
        if page.is_tiled:
            return page.tilelength, page.tilewidth
        return min(page.rowsperstrip, page.imagelength), page.imagewidth

    def _rows(self, plane: int, crop: Sequence[int]) -> np.ndarray:
        """Read one plane's part of numbers that lie in the file as they are."""
        layout = self.layout
        level, page = layout.level, layout.page
        height, width = layout.shape
        y0, x0, y1, x1 = crop
        file = page.parent.filehandle
        dtype = page.dtype.newbyteorder(page.parent.byteorder)
        after = level.shape[layout.columns + 1 :]
        pixel = dtype.itemsize * prod(after)
        if x1 - x0 == width:
            runs, length = [y0 * width], (y1 - y0) * width * pixel
        else:
            runs, length = [y * width + x0 for y in range(y0, y1)], (x1 - x0) * pixel
        data = bytearray()
        with self._lock:
            for run in runs:
                file.seek(level.dataoffset + (plane * height * width + run) * pixel)
                data += file.read(length)
        if len(data) != (y1 - y0) * (x1 - x0) * pixel:
            raise truncated("its pixels")
        array = np.frombuffer(data, dtype).reshape(y1 - y0, x1 - x0, *after)
        return array.astype(dtype.newbyteorder("="), copy=False)

    def _plane(self, number: int, crop: Sequence[int]) -> np.ndarray:
        """Decode the tiles or strips of one page, with the axes of `page.shape`."""
        page = self.layout.page
        with self._lock:  # a page's directory may have to be read
            if number not in self._frames:
                self._frames[number] = self.layout.level[number]
            frame = self._frames[number]
        y0, x0, y1, x1 = crop
        separate, _, height, width, contiguous = page.shaped
        tall, wide = self._grid
        down, across = ceil(height / tall), ceil(width / wide)
        out = np.full((separate, y1 - y0, x1 - x0, contiguous), page.nodata, page.dtype)
        for sample in range(separate):

            def tile(row: int, column: int, sample: int = sample) -> np.ndarray | None:
                index = (sample * down + row) * across + column
                if not frame.databytecounts[index]:
                    return None
                return self._tiles.get((self._number, number, index), lambda: self._segment(frame, index))

            paste(out[sample], (y0, x0), (tall, wide), tile)
        shape = tuple({"Y": y1 - y0, "X": x1 - x0}.get(axis, n) for axis, n in zip(page.axes, page.shape, strict=True))
        return out.reshape(shape)

    def _segment(self, frame: Any, index: int) -> np.ndarray:
        page = self.layout.page
        file = page.parent.filehandle
        with self._lock:
            file.seek(frame.dataoffsets[index])
            data = file.read(frame.databytecounts[index])
            decode, tables = page.decode, self._tables  # which may look up tags
        if len(data) != frame.databytecounts[index]:
            raise truncated("a tile")
        segment = decode(data, index, **tables)[0]
        if segment is None:
            raise ReadError(f"the TIFF is damaged: tile {index} cannot be decoded")
        return segment[0]

    @cached_property
    def _tables(self) -> dict[str, Any]:
        page = self.layout.page
        if int(page.compression) not in _WITH_TABLES:
            return {}
        return {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}


def _transformed(level: Any) -> bool:
    return getattr(level, "transform", None) is not None
