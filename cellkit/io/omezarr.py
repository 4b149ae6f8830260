"""Label images of any size as OME-Zarr pyramids, written block by block, by several processes at once."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cellkit.core.errors import ReadError, UsageError, WriteError
from cellkit.grid.cover import Window
from cellkit.io.chunks import Chunks
from cellkit.io.info import decoding
from cellkit.io.temporary import atomic, exchange, write_failure

__all__ = ["LabelStore"]

_MARK = "cellkit.json"
_SMALLEST = 512  # px; no level is made of one that is no larger
# Blosc is what every reader knows: Bio-Formats (QuPath, Fiji) reads zlib and Blosc and nothing else. Labels compress
# best unshuffled: 4,096 x 4,096 px of nuclei take 1.4 MB, shuffled 2.4 MB.
_BLOSC = {"cname": "lz4", "clevel": 5, "blocksize": 0}
_DTYPES = {"uint16": "<u2", "uint32": "<u4", "uint64": "<u8"}

Version = Literal["0.4", "0.5"]


class LabelStore:
    """A label image on disk, (y, x), that is written window by window and may be larger than memory.

    Until `finish` it lies in the folder ``.NAME.partial`` beside `path`, which appears under its name all at once.
    A store may be sent to other processes and written by them at the same time, each its own windows.
    """

    def __init__(
        self,
        path: str | Path,
        shape: tuple[int, int],
        dtype: Any = np.uint32,
        chunk: tuple[int, int] = (1024, 1024),
        pixel_size: Sequence[float] | None = None,
        name: str = "",
        version: Version = "0.4",
    ) -> None:
        self.path = Path(path)
        self.shape = (int(shape[0]), int(shape[1]))
        self.dtype = np.dtype(dtype)
        self.chunk = (int(chunk[0]), int(chunk[1]))
        self.pixel_size = None if pixel_size is None else (float(pixel_size[0]), float(pixel_size[1]))
        self.name = name or self.path.name.partition(".")[0] or "labels"
        self.version = version
        if self.dtype.name not in _DTYPES:
            raise UsageError(f"{path}: labels are {', '.join(_DTYPES)}; got {self.dtype}")
        if min(*self.shape, *self.chunk) < 1 or version not in ("0.4", "0.5"):
            raise UsageError(
                f"{path}: wanted a shape and chunks of at least 1 px, version 0.4 or 0.5; got {self._said}"
            )

    @classmethod
    def create(
        cls,
        path: str | Path,
        shape: tuple[int, int],
        dtype: Any = np.uint32,
        chunk: tuple[int, int] = (1024, 1024),
        pixel_size: Sequence[float] | None = None,
        name: str = "",
        version: Version = "0.4",
    ) -> LabelStore:
        """Make a store of zeros, or go on with the unfinished one of the same shape, dtype, chunks and version.

        An unfinished one that differs is thrown away. A finished one at `path` stays until `finish` replaces it.
        `pixel_size` is (y, x) in micrometres. OME-Zarr 0.4 (Zarr v2) is what napari, QuPath and Fiji all read
        (https://github.com/ome/ome-zarr-py/issues/458: "best supported by most tools"; Bio-Formats' converters do not
        write 0.5 either, https://github.com/glencoesoftware/NGFF-Converter/issues/88); 0.5 is Zarr v3.

        Raises `UsageError` for what are no labels, `WriteError` where the store cannot be made.
        """
        store = cls(path, shape, dtype, chunk, pixel_size, name, version)
        if store.version == "0.5":
            _need_three(store.path)
        with _writing(store.path):
            if not store._goes_on():
                if store._partial.exists():
                    shutil.rmtree(store._partial)
                store._partial.mkdir(parents=True)
                store._place(0, store.shape)
                _write_json(store._partial / _MARK, store._said)  # last: it says that the rest is there
        return store

    @classmethod
    def open(cls, path: str | Path) -> LabelStore:
        """Open a finished store to read from. Raises `ReadError` where there is none of cellkit's."""
        path = Path(path)
        with decoding(f"{path}: the store"):
            if (path / "0" / "zarr.json").is_file():
                data = json.loads((path / "0" / "zarr.json").read_text(encoding="utf-8"))
                chunk = data["chunk_grid"]["configuration"]["chunk_shape"]
                return cls(path, data["shape"], data["data_type"], chunk, version="0.5")
            data = json.loads((path / "0" / ".zarray").read_text(encoding="utf-8"))
            return cls(path, data["shape"], data["dtype"], data["chunks"])

    def __reduce__(self) -> tuple[Any, ...]:
        own = (self.path, self.shape, self.dtype.name, self.chunk, self.pixel_size, self.name, self.version)
        return LabelStore, own

    def __repr__(self) -> str:
        return f"LabelStore({str(self.path)!r}, {self.shape[0]} x {self.shape[1]} px, {self.dtype})"

    @property
    def levels(self) -> tuple[tuple[int, int], ...]:
        """The (y, x) of every level, each half of the one above, down to 512 px or less."""
        shapes = [self.shape]
        while max(shapes[-1]) > _SMALLEST:
            shapes.append((ceil(shapes[-1][0] / 2), ceil(shapes[-1][1] / 2)))
        return tuple(shapes)

    @property
    def finished(self) -> bool:
        """Whether the store lies under its own name, and nothing unfinished beside it."""
        return self.path.is_dir() and not self._partial.exists()

    @property
    def begun(self) -> bool:
        """Whether an unfinished store lies there, for `create` to go on with."""
        return self._partial.is_dir() and self._goes_on()

    def write(self, window: Window, labels: np.ndarray) -> None:
        """Write the labels of a window whose sides lie between chunks, or at the edge of the image.

        Raises `UsageError` where they do not, and where labels are not integers of the store's range and the window's
        shape; `WriteError` where the disk does not take them.
        """
        self._inside(window)
        aligned = all(
            start % size == 0 and (stop % size == 0 or stop == side)
            for start, stop, size, side in zip(window[:2], window[2:], self.chunk, self.shape, strict=True)
        )
        if not aligned:
            raise UsageError(f"{self.path}: window {list(window)} cuts through chunks of {list(self.chunk)} px")
        if labels.shape != window.shape or labels.dtype.kind not in "iub":
            raise UsageError(f"{self.path}: wanted integers {window.shape}, got {labels.dtype} {labels.shape}")
        if labels.dtype != self.dtype:
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high > np.iinfo(self.dtype).max:
                raise UsageError(f"{self.path}: {self.dtype} does not hold {low if low < 0 else high}")
        if not self._partial.is_dir():
            raise UsageError(f"{self.path}: is finished, or was not made with `LabelStore.create`")
        with _writing(self.path):
            self._chunks(0).write(window, labels)

    def read(self, window: Window) -> np.ndarray:
        """Return the labels of a window, (y, x) in the store's dtype; what was not written is 0."""
        self._inside(window)
        with decoding(f"{self.path}: the store"):
            return self._chunks(0).read(window)

    def read_level(self, level: int, rows: slice, columns: slice) -> np.ndarray:
        """Return a part of a level of the finished pyramid, (y, x) in the store's dtype, cut off at its edge."""
        with decoding(f"{self.path}: the store"):
            height, width = self.levels[level]
            top, left = min(rows.start, height), min(columns.start, width)
            return self._chunks(level).read(Window(top, left, min(rows.stop, height), min(columns.stop, width)))

    def finish(self) -> Path:
        """Make the pyramid, write the metadata, and give the store its name; returns its path.

        A pixel of a smaller level is the top left one of four, so that labels stay what they are. A finished store of
        that name is replaced. A call that was killed may be made again.
        """
        if self.finished:
            return self.path
        if not self._partial.is_dir():
            raise UsageError(f"{self.path}: was not made with `LabelStore.create`")
        with _writing(self.path):
            _sweep(self._partial)
            for level, shape in enumerate(self.levels[1:], 1):
                shutil.rmtree(self._partial / str(level), ignore_errors=True)
                self._place(level, shape)
                self._halve(level, shape)
            self._describe()
            exchange(self._partial, self.path)
            (self.path / _MARK).unlink(missing_ok=True)  # now, so that a kill before leaves what can be gone on with
        return self.path

    @property
    def _partial(self) -> Path:
        return self.path.with_name(f".{self.path.name}.partial")

    @property
    def _said(self) -> dict[str, Any]:
        """What two stores must share for one to go on with the other."""
        return {
            "shape": list(self.shape),
            "dtype": self.dtype.name,
            "chunk": list(self.chunk),
            "version": self.version,
        }

    def _chunks(self, level: int) -> Chunks:
        folder = (self._partial if self._partial.is_dir() else self.path) / str(level)
        if not folder.is_dir():
            raise ReadError(f"{folder}: the labels are not there")
        place = folder if self.version == "0.4" else folder / "c"
        return Chunks(place, self.levels[level], self.dtype, self.chunk, (*_BLOSC.items(), ("shuffle", 0)))

    def _goes_on(self) -> bool:
        try:
            return json.loads((self._partial / _MARK).read_text()) == self._said
        except (OSError, ValueError):
            return False

    def _inside(self, window: Window) -> None:
        height, width = self.shape
        if not (0 <= window.top < window.bottom <= height and 0 <= window.left < window.right <= width):
            raise UsageError(
                f"{self.path}: window {list(window)} (y0, x0, y1, x1) is empty or does not lie within the labels of "
                f"{height} x {width} px"
            )

    def _place(self, level: int, shape: tuple[int, int]) -> None:
        """Write the metadata of an array without chunks, all of which is 0."""
        folder = self._partial / str(level)
        folder.mkdir()
        if self.version == "0.4":
            data: dict[str, Any] = {
                "zarr_format": 2,
                "shape": list(shape),
                "chunks": list(self.chunk),
                "dtype": _DTYPES[self.dtype.name],
                "compressor": {"id": "blosc", **_BLOSC, "shuffle": 0},
                "fill_value": 0,
                "order": "C",
                "filters": None,
                "dimension_separator": "/",
            }
            _write_json(folder / ".zarray", data)
            return
        size = self.dtype.itemsize
        data = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(shape),
            "data_type": self.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self.chunk)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "blosc", "configuration": {**_BLOSC, "shuffle": "noshuffle", "typesize": size}},
            ],
            "dimension_names": ["y", "x"],
            "attributes": {},
        }
        _write_json(folder / "zarr.json", data)

    def _halve(self, level: int, shape: tuple[int, int]) -> None:
        """Fill a level from the one above it, chunk by chunk."""
        above, below = self._chunks(level - 1), self._chunks(level)
        whole = Window(0, 0, *above.shape)
        tall, wide = self.chunk
        for top in range(0, shape[0], tall):
            for left in range(0, shape[1], wide):
                large = above.read(Window(2 * top, 2 * left, 2 * (top + tall), 2 * (left + wide)).clipped(whole))
                small = large[::2, ::2]
                below.write(Window(top, left, top + small.shape[0], left + small.shape[1]), small)

    def _describe(self) -> None:
        """Write the metadata of the group: https://ngff.openmicroscopy.org/0.4/#image-layout and #label-md."""
        unit = {} if self.pixel_size is None else {"unit": "micrometer"}
        size = self.pixel_size or (1.0, 1.0)
        datasets = [
            {
                "path": str(level),
                "coordinateTransformations": [{"type": "scale", "scale": [size[0] * 2**level, size[1] * 2**level]}],
            }
            for level in range(len(self.levels))
        ]
        image: dict[str, Any] = {
            "name": self.name,
            "axes": [{"name": axis, "type": "space", **unit} for axis in ("y", "x")],
            "datasets": datasets,
            "type": "nearest",
        }
        if self.version == "0.4":
            attributes = {"multiscales": [{"version": "0.4", **image}], "image-label": {"version": "0.4"}}
            _write_json(self._partial / ".zattrs", attributes)
            _write_json(self._partial / ".zgroup", {"zarr_format": 2})
            return
        inner = {"version": "0.5", "multiscales": [image], "image-label": {}}
        group = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": inner}}
        _write_json(self._partial / "zarr.json", group)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise write_failure(path, error) from error


def _need_three(path: Path) -> None:
    import zarr

    if int(zarr.__version__.partition(".")[0]) < 3:
        raise WriteError(
            f"{path}: OME-Zarr 0.5 is Zarr version 3, which this installation cannot write (it needs Python 3.11 or "
            "newer and `pip install 'zarr>=3'`; or write 0.4)"
        )


def _write_json(path: Path, data: dict[str, Any]) -> None:
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(data, indent=1), encoding="utf-8")


def _sweep(folder: Path) -> None:
    """Remove what a writer that was killed has left among the chunks, whose names are numbers."""
    for place, _, files in os.walk(folder):
        for file in files:
            if not file.isdecimal() and file not in (".zarray", "zarr.json", _MARK):
                os.unlink(os.path.join(place, file))
