"""Microscope makers' formats through packages that read them: CZI (pylibCZIrw), ND2 and LIF (BioIO)."""

from __future__ import annotations

import importlib
import threading
from math import prod
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from cellkit.core.errors import ReadError
from cellkit.io.info import RGB, Info, decoding, distinct
from cellkit.io.pixelsize import micrometres
from cellkit.io.tiles import Level, Tiled

__all__ = ["open_vendor"]

_PIXELS = {"Gray8": "uint8", "Gray16": "uint16", "Gray32Float": "float32", "Bgr24": "uint8", "Bgr48": "uint16"}
_TILE = 1024
_NAMES = {"czi": "a Zeiss CZI file", "nd2": "a Nikon ND2 file", "lif": "a Leica LIF file"}
_WORDS = {"T": "time", "Z": "z"}


def open_vendor(kind: str, path: str | Path, *, first: bool = False) -> Tiled:
    """Open a CZI, ND2 or LIF file; `first` takes the first of several scenes.

    Raises `ReadError`, with the command that installs it, where the package that reads it is missing.
    """
    module = {"czi": "pylibCZIrw.czi", "nd2": "bioio_nd2", "lif": "bioio_lif"}[kind]
    try:
        package = importlib.import_module(module)
        bioio = None if kind == "czi" else importlib.import_module("bioio")
    except ImportError as error:
        raise ReadError(
            f"is {_NAMES[kind]}, which another package reads: `pip install 'cellkit[bioio]'` "
            f"({error}; or export it as OME-TIFF or PNG from the program that made it)"
        ) from error
    with decoding(f"{_NAMES[kind][2:]} (export it as OME-TIFF where it is whole)", Exception):
        if bioio is None:
            return _Czi(package.CziReader(str(path)), first)
        return _BioImage(kind, bioio.BioImage(str(path), reader=package.Reader), first)


class _Czi(Tiled):
    """A CZI file: of a mosaic only the parts that meet a tile are decoded."""

    def __init__(self, reader: Any, first: bool) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        scenes = reader.scenes_bounding_rectangle
        if len(scenes) > 1 and not first:
            raise ReadError(_several(len(scenes), [f"scene {number}" for number in scenes]))
        self._scene = min(scenes) if len(scenes) > 1 else None
        area = reader.total_bounding_rectangle if self._scene is None else scenes[self._scene]
        self._corner = (int(area.y), int(area.x))
        box = {axis: (int(low), int(high)) for axis, (low, high) in reader.total_bounding_box.items()}
        count = max(box.get("C", (0, 1))[1], 1)
        kinds = {reader.pixel_types[channel] for channel in range(count)}
        if len(kinds) != 1 or next(iter(kinds)) not in _PIXELS:
            raise ReadError(f"its pixels are {', '.join(sorted(map(str, kinds)))}; wanted one of {', '.join(_PIXELS)}")
        kind = kinds.pop()
        self._colour = kind.startswith("Bgr")
        self._count = count
        self._stack = [axis for axis in box if axis not in "CYXSM" and box[axis][1] - box[axis][0] > 1]
        self._planes_of = [range(*box[axis]) for axis in self._stack]
        shape = (int(area.h), int(area.w))
        names, size = _czi_metadata(reader.raw_metadata)
        channels = count * (3 if self._colour else 1)
        if self._colour:
            names = RGB if count == 1 else ()
        info = Info(
            "czi",
            (*shape, channels),
            _PIXELS[kind],
            channels=names if len(names) == channels else (),
            pixel_size=size,
            stack=tuple((_WORDS.get(axis, f"axis {axis}"), len(n)) for axis, n in zip(self._stack, self._planes_of)),  # noqa: B905
        )
        chunk = (min(_TILE, shape[0]), min(_TILE, shape[1]))
        super().__init__(info, [Level(shape, chunk=chunk)], prod(len(n) for n in self._planes_of))

    def tile(self, level: int, plane: int, at: tuple[int, int], indexed: bool) -> np.ndarray:  # noqa: ARG002
        """Read every channel of one tile."""
        y0, x0, y1, x1 = self.extent(level, at)
        place = dict(zip(self._stack, np.unravel_index(plane, [len(n) for n in self._planes_of]), strict=True))
        wanted = {axis: int(n[place[axis]]) for axis, n in zip(self._stack, self._planes_of, strict=True)}
        roi = (self._corner[1] + x0, self._corner[0] + y0, x1 - x0, y1 - y0)
        parts = []
        with self._lock, decoding("the CZI file", Exception):
            for channel in range(self._count):
                part = np.asarray(self._reader.read(roi=roi, plane={**wanted, "C": channel}, scene=self._scene))
                part = part.reshape(y1 - y0, x1 - x0, -1)
                parts.append(part[..., ::-1] if self._colour else part)
        return np.concatenate(parts, axis=2)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._reader.close()


class _BioImage(Tiled):
    """A file that BioIO reads, as lazy arrays with the axes T, C, Z, Y, X and S for the samples of a colour."""

    def __init__(self, kind: str, image: Any, first: bool) -> None:
        self._kind = kind
        self._lock = threading.Lock()
        scenes = list(image.scenes)
        if len(scenes) > 1 and not first:
            raise ReadError(_several(len(scenes), scenes))
        self._array = image.dask_data
        order = str(image.dims.order)
        if order not in ("TCZYX", "TCZYXS"):
            raise ReadError(f"its axes are {order}; wanted TCZYX or TCZYXS")
        sizes = dict(zip(order, (int(n) for n in self._array.shape), strict=True))
        shape = (sizes["Y"], sizes["X"])
        count = sizes["C"] * sizes.get("S", 1)
        names = tuple(map(str, image.channel_names or ()))
        if sizes.get("S") == 3:
            names = RGB if sizes["C"] == 1 else ()
        pixel = image.physical_pixel_sizes
        size = [micrometres(float(value or 0), "um") for value in (pixel.Y, pixel.X)]
        dtype = np.dtype(self._array.dtype)
        if dtype.kind not in "buif":
            raise ReadError(f"holds {dtype}, not plain numbers")
        info = Info(
            kind,
            (*shape, count),
            dtype.newbyteorder("=").name,
            channels=distinct(names) if len(names) == count and all(names) else (),
            pixel_size=None if size[0] is None or size[1] is None else (size[0], size[1]),
            stack=tuple((_WORDS[axis], sizes[axis]) for axis in "TZ" if sizes[axis] > 1),
        )
        self._depth = sizes["Z"]
        chunk = tuple(int(max(self._array.chunks[order.index(axis)])) for axis in "YX")
        super().__init__(info, [Level(shape, chunk=(chunk[0], chunk[1]))], sizes["T"] * sizes["Z"])

    def tile(self, level: int, plane: int, at: tuple[int, int], indexed: bool) -> np.ndarray:  # noqa: ARG002
        """Compute one tile, in this thread."""
        y0, x0, y1, x1 = self.extent(level, at)
        time, z = divmod(plane, self._depth)
        with self._lock, decoding(f"the {self._kind.upper()} file", Exception):
            part = np.asarray(self._array[time, :, z, y0:y1, x0:x1].compute(scheduler="synchronous"))
        return np.ascontiguousarray(np.moveaxis(part, 0, 2).reshape(y1 - y0, x1 - x0, -1))


def _several(count: int, names: list[str]) -> str:
    shown = ", ".join(map(str, names[:5])) + (", ..." if count > 5 else "")
    return (
        f"holds {count} images ({shown}); which one is meant? (export each to a file of its own, or take the first: "
        "`read: {projection: first}`)"
    )


def _czi_metadata(xml: str) -> tuple[tuple[str, ...], tuple[float, float] | None]:
    """Return the names of the channels and the pixel size that the metadata say."""
    try:
        root = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, ValueError):
        return (), None
    found = root.findall("./Metadata/Information/Image/Dimensions/Channels/Channel")
    names = [(channel.get("Name") or "").strip() for channel in found]
    sizes = []
    for axis in "YX":
        text = root.findtext(f"./Metadata/Scaling/Items/Distance[@Id='{axis}']/Value")
        try:
            sizes.append(micrometres(float(text or 0), "m"))
        except ValueError:
            sizes.append(None)
    size = None if sizes[0] is None or sizes[1] is None else (sizes[0], sizes[1])
    return (distinct(names) if names and all(names) else ()), size
