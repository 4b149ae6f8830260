"""Zarr stores on disk: OME-Zarr pyramids of version 0.4 (Zarr v2) and 0.5 (Zarr v3), and plain arrays."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Sequence
from itertools import product
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np

from cellkit.core.errors import ReadError
from cellkit.io.info import MAX_SAMPLES, Info, Pixels, decoding, project
from cellkit.io.ngff import Axes, Multiscale, metadata, multiscale
from cellkit.io.tiles import Level, Tiles, level_of

__all__ = ["ZarrStore"]

_MOST_SIDE = 2**31
_MOST_CHUNKS = 10**9


class ZarrStore:
    """An open store: `info` and `levels` from its metadata, `decode` for its pixels.

    A chunk that is not there has the fill value, as the specification says. Nothing outside the store is read: neither
    by a path in the metadata nor through a link.
    """

    def __init__(self, path: str | Path, *, first: bool = False) -> None:
        self._tiles = Tiles()
        self._root = Path(path)
        with decoding("the Zarr store"):
            found = multiscale(self._root, first=first)
            self._notes = list(found.notes)
            self._axes = found.axes
            self._arrays = self._open(found)
        full = self._arrays[0]
        self.levels = tuple(self._level(i, found) for i in range(len(self._arrays)))
        shape = full.shape
        axes = found.axes
        channels = prod(shape[i] for i in axes.channels)
        self.info = Info(
            "zarr",
            (shape[axes.rows], shape[axes.columns], channels),
            full.dtype.name,
            channels=found.channels if len(found.channels) == channels else (),
            pixel_size=found.pixel_size,
            stack=tuple((axes.names[i], shape[i]) for i in axes.stack if shape[i] > 1),
        )

    @property
    def decoded(self) -> int:
        """How many chunks were decoded so far."""
        return self._tiles.decoded

    @property
    def divisible(self) -> bool:
        """Always."""
        return True

    @property
    def lossy(self) -> bool:
        """Whether the pixels went through JPEG."""
        return self._arrays[0].lossy

    def close(self) -> None:
        """Nothing is held open."""

    def decode(self, projection: str, crop: Sequence[int] | None, *, level: int = 0, indexed: bool = False) -> Pixels:  # noqa: ARG002
        """Decode what lies in `crop` of a level; only the chunks that meet it are read."""
        array, axes = self._arrays[level], self._axes
        y0, x0, y1, x1 = crop or (0, 0, array.shape[axes.rows], array.shape[axes.columns])
        parts = [slice(0, n) for n in array.shape]
        parts[axes.rows], parts[axes.columns] = slice(y0, y1), slice(x0, x1)
        if projection == "first":
            for axis in axes.stack:
                parts[axis] = slice(0, 1)
        values = array.part(parts, self._tiles, level)
        values = values.transpose(axes.order)
        depth = len(axes.stack)
        sides = values.shape[depth : depth + 2]
        values = values.reshape(prod(values.shape[:depth]), *sides, -1)
        plane, bits = project(values, projection, None) if self.info.stack else (values[0], None)
        info = self.info
        return Pixels(plane, bits, info.channels, info.pixel_size, tuple(self._notes))

    def _open(self, found: Multiscale) -> list[_Array]:
        arrays: list[_Array] = []
        for number, folder in enumerate(found.folders):
            try:
                array = _Array(self._root, folder)
                self._check(array, arrays, found.axes)
            except ReadError as error:
                if not arrays:
                    raise
                self._notes.append(f"level {number} of the pyramid cannot be used, nor those below: {error}")
                break
            arrays.append(array)
        return arrays

    def _check(self, array: _Array, above: Sequence[_Array], axes: Axes) -> None:
        if len(array.shape) != len(axes.names):
            raise ReadError(
                f"{array.name} has {len(array.shape)} axes, but its metadata name {len(axes.names)} "
                f"({', '.join(axes.names)})"
            )
        if above:
            sides = (axes.rows, axes.columns)
            others = [i for i in range(len(array.shape)) if i not in sides and array.shape[i] != above[0].shape[i]]
            larger = any(array.shape[i] > above[-1].shape[i] for i in sides)
            if others or larger or array.dtype != above[0].dtype:
                raise ReadError(f"{array.name} has shape {array.shape}, {array.dtype}, unlike the level above it")

    def _level(self, number: int, found: Multiscale) -> Level:
        axes, array = found.axes, self._arrays[number]
        shape, chunk = ((a[axes.rows], a[axes.columns]) for a in (array.shape, array.chunk))
        full = self._arrays[0].shape
        chunk = (min(chunk[0], shape[0]), min(chunk[1], shape[1]))
        level = level_of(shape, (full[axes.rows], full[axes.columns]), chunk)
        step = found.steps[number]
        return level if step is None else Level(shape, step, chunk)


class _Array:
    """One array of a store."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder = folder
        self.name = folder.relative_to(root).as_posix() if folder != root else folder.name
        self._root = os.path.realpath(root)
        if not _within(os.path.realpath(folder), self._root):
            raise ReadError(f"{self.name} is a link that leaves the store (copy the store whole)")
        kind, data = metadata(folder)
        if kind not in ("array2", "array3"):
            raise ReadError(f"the array {self.name} is missing (the copy is incomplete: copy the store again)")
        self._data = data
        self._version = int(kind[-1])
        self._check_metadata()
        self._array = _opened(folder, self._version)
        self.shape = tuple(int(n) for n in self._array.shape)
        self.chunk = tuple(int(n) for n in self._array.chunks)
        self.shard = tuple(int(n) for n in getattr(self._array, "shards", None) or self.chunk)
        stored = np.dtype(self._array.dtype)
        if stored.kind not in "buif":
            raise ReadError(f"{self.name} holds {stored}, not plain numbers")
        self.dtype = stored.newbyteorder("=")
        text = str(data.get("compressor")) + str(data.get("filters")) + str(data.get("codecs"))
        self.lossy = "jpeg" in text.lower()
        self._blosc = _ends_in_blosc(data)
        fill = self._array.fill_value
        self._fill = 0 if fill is None else fill

    def _check_metadata(self) -> None:
        """Raise before anything is made of numbers that no image has."""
        data = self._data
        grid = data.get("chunk_grid") or {}
        if self._version == 3 and grid.get("name") != "regular":
            raise ReadError(f"{self.name} has chunks of the kind {grid.get('name')!r}, not a regular grid")
        chunk = data.get("chunks") if self._version == 2 else (grid.get("configuration") or {}).get("chunk_shape")
        shape = data.get("shape")
        for what, sides in (("shape", shape), ("chunks", chunk)):
            if not isinstance(sides, list) or not all(type(n) is int and n >= 0 for n in sides):
                raise ReadError(f"the metadata of {self.name} are damaged: {what} {str(sides)[:80]}")
        assert isinstance(shape, list)
        assert isinstance(chunk, list)
        if len(shape) != len(chunk) or 0 in chunk or 0 in shape:
            raise ReadError(f"the metadata of {self.name} are damaged: shape {shape[:8]}, chunks {chunk[:8]}")
        if max(shape) > _MOST_SIDE or prod(ceil(n / m) for n, m in zip(shape, chunk, strict=True)) > _MOST_CHUNKS:
            raise ReadError(
                f"the metadata of {self.name} announce {' x '.join(map(str, shape))} numbers in chunks of "
                f"{' x '.join(map(str, chunk))}; no image is that large (they are damaged)"
            )
        if prod(min(n, m) for n, m in zip(shape, chunk, strict=True)) > MAX_SAMPLES or prod(chunk) > 8 * MAX_SAMPLES:
            raise ReadError(
                f"{self.name} is stored in chunks of {' x '.join(map(str, chunk))} numbers, each of which must be "
                f"decoded whole; at most {MAX_SAMPLES:.3g} are (write it anew in chunks of 512 x 512)"
            )

    def part(self, parts: Sequence[slice], tiles: Tiles, number: int) -> np.ndarray:
        """Return the numbers in `parts`, one slice for each axis."""
        out = np.empty([s.stop - s.start for s in parts], self.dtype)
        grid = [range(s.start // m, ceil(s.stop / m)) for s, m in zip(parts, self.chunk, strict=True)]
        for index in product(*grid):
            chunk = tiles.get((number, index), lambda index=index: self._chunk(index))  # type: ignore[misc]
            to, of = [], []
            for at, wanted, size in zip(index, parts, self.chunk, strict=True):
                low, high = max(wanted.start, at * size), min(wanted.stop, (at + 1) * size)
                to.append(slice(low - wanted.start, high - wanted.start))
                of.append(slice(low - at * size, high - at * size))
            out[tuple(to)] = chunk[tuple(of)]
        return out

    def _chunk(self, index: tuple[int, ...]) -> np.ndarray:
        """Decode one chunk, cut at the array's edge."""
        where = tuple(
            slice(at * size, min((at + 1) * size, n)) for at, size, n in zip(index, self.chunk, self.shape, strict=True)
        )
        name = self._key(tuple(s.start // m for s, m in zip(where, self.shard, strict=True)))
        if not self._stored(name):
            return np.full([s.stop - s.start for s in where], self._fill, self.dtype)
        try:
            with decoding(f"the chunk {self.name}/{name}"):
                values = np.asarray(self._array[where])
        except ReadError as error:
            raise ReadError(f"{error} (copy the store again)") from error
        return values.astype(self.dtype, copy=False)

    def _stored(self, name: str) -> bool:
        """Tell whether a chunk is there; raise where it is no plain file of this store."""
        path = self.folder / name
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            if os.path.islink(path):
                raise ReadError(f"the chunk {self.name}/{name} is a link to nothing (copy the store whole)") from None
            return False
        except OSError as error:
            raise ReadError(f"the chunk {self.name}/{name} cannot be read: {error.strerror or error}") from error
        if not stat.S_ISREG(found.st_mode) or not _within(os.path.realpath(path), self._root):
            raise ReadError(f"the chunk {self.name}/{name} is no file of this store (copy the store whole)")
        if self._blosc:
            self._check_blosc(path, name, found.st_size)
        return True

    def _check_blosc(self, path: Path, name: str, size: int) -> None:
        """Raise where a chunk is not as long as it says: the decoder would read on beyond its end."""
        with open(path, "rb") as file:
            head = file.read(16)
        if len(head) == 16:
            raw, _, stored = struct.unpack_from("<III", head, 4)
            if stored == size and raw <= max(2 * prod(self.chunk) * self.dtype.itemsize, 2**16):
                return
        raise ReadError(f"the chunk {self.name}/{name} is damaged: it is not as long as it says (copy the store again)")

    def _key(self, index: tuple[int, ...]) -> str:
        """Return the file of a chunk or shard, from the array's folder on."""
        if self._version == 2:
            separator = self._data.get("dimension_separator", ".")
            return str(separator).join(map(str, index)) or "0"
        encoding = self._data.get("chunk_key_encoding") or {}
        settings = encoding.get("configuration") or {}
        if encoding.get("name") == "v2":
            return str(settings.get("separator", ".")).join(map(str, index)) or "0"
        return str(settings.get("separator", "/")).join(("c", *map(str, index)))


def _ends_in_blosc(data: dict[str, Any]) -> bool:
    """Tell whether the file of a chunk is one Blosc buffer."""
    if isinstance(data.get("compressor"), dict):
        return bool(data["compressor"].get("id") == "blosc")
    codecs = data.get("codecs")
    last = codecs[-1] if isinstance(codecs, list) and codecs else None
    return isinstance(last, dict) and last.get("name") == "blosc"


def _within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def _opened(folder: Path, version: int) -> Any:
    """Open an array by the library, version 2 or 3 of it."""
    import zarr

    if version == 3 and int(zarr.__version__.partition(".")[0]) < 3:
        raise ReadError(
            "is Zarr version 3, which this installation cannot read (it needs Python 3.11 or newer and "
            "`pip install 'zarr>=3'`)"
        )
    return zarr.open_array(str(folder), mode="r")
