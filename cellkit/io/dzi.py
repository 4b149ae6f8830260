"""Deep Zoom pictures (DZI): a small XML file and, beside it, a folder of tiles for every level.

Source: https://learn.microsoft.com/previous-versions/windows/silverlight/dotnet-windows-silverlight/cc645077(v=vs.95)
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import replace
from math import ceil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from cellkit.core.errors import ReadError
from cellkit.io import magic
from cellkit.io.codecs import codec_of
from cellkit.io.info import Info
from cellkit.io.tiles import Level, Tiled

__all__ = ["DeepZoom"]

_MOST_BYTES = 2**16
_MOST_SIDE = 2**31
_MOST_TILE = 2**28  # bytes of a tile's file
_CODED = ("png", "jpeg", "webp", "bmp", "gif")


class DeepZoom(Tiled):
    """An open Deep Zoom picture. Its tiles overlap; what they share is taken from the one whose it is."""

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        width, height, self._size, self._overlap, self._format = _description(path)
        self._folder = path.with_name(f"{path.stem}_files")
        self._inside = os.path.realpath(self._folder) + os.sep
        if not self._folder.is_dir():
            raise ReadError(f"its tiles are missing: there is no folder {self._folder.name} beside it (copy it too)")
        self._top = (max(width, height) - 1).bit_length()
        levels = []
        for number in range(self._top + 1):
            shape = (ceil(height / 2**number), ceil(width / 2**number))
            if number and not (self._folder / str(self._top - number)).is_dir():
                break
            chunk = (min(self._size, shape[0]), min(self._size, shape[1]))
            levels.append(Level(shape, (2.0**number, 2.0**number), chunk))
            if max(shape) <= self._size:
                break
        kind, data = self._file(0, (0, 0))
        first: Info = codec_of(kind).header(data)
        self.lossy = kind == "jpeg" or (kind == "webp" and codec_of(kind).lossy(data))
        info = replace(first, format="dzi", shape=(height, width, first.shape[2]), pixel_size=None, stack=())
        super().__init__(info, levels)

    def tile(self, level: int, plane: int, at: tuple[int, int], indexed: bool) -> np.ndarray:  # noqa: ARG002
        """Decode one tile and take its overlap off."""
        y0, x0, y1, x1 = self.extent(level, at)
        above, before = (self._overlap if place else 0 for place in at)
        (height, width), overlap = self.levels[level].shape, self._overlap
        stored = (min(y1 + overlap, height) - y0 + above, min(x1 + overlap, width) - x0 + before)
        kind, data = self._file(level, at)
        name = self._name(level, at)
        try:
            codec = codec_of(kind)
            header = codec.header(data)
            if header.shape != (*stored, self.info.shape[2]) or header.dtype != self.info.dtype:
                raise ReadError(
                    f"is {' x '.join(map(str, header.shape))} {header.dtype}; wanted "
                    f"{' x '.join(map(str, (*stored, self.info.shape[2])))} {self.info.dtype}"
                )
            array: np.ndarray = codec.decode(data, header, "first", indexed=indexed).array
        except ReadError as error:
            raise ReadError(f"the tile {name}: {error}") from error
        if array.ndim == 2:
            array = array[..., None]
        return np.ascontiguousarray(array[above : above + y1 - y0, before : before + x1 - x0])

    def _name(self, level: int, at: tuple[int, int]) -> str:
        return f"{self._top - level}/{at[1]}_{at[0]}.{self._format}"

    def _file(self, level: int, at: tuple[int, int]) -> tuple[str, bytes]:
        """Return the format and the bytes of a tile."""
        name = self._name(level, at)
        path = self._folder / name
        try:
            found = os.stat(path)
            if not stat.S_ISREG(found.st_mode) or not os.path.realpath(path).startswith(self._inside):
                raise ReadError(f"the tile {name} is no file of this picture (copy the picture whole)")
            if found.st_size > _MOST_TILE:
                raise ReadError(f"the tile {name} has {found.st_size} bytes (it is damaged)")
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise ReadError(f"the tile {name} is missing (copy {self._folder.name} again)") from error
        except OSError as error:
            raise ReadError(f"the tile {name} cannot be read: {error.strerror or error}") from error
        kind = magic.sniff(data[: magic.HEAD])
        if kind not in _CODED:
            what = magic.describe(data[: magic.HEAD])[0] if data else "an empty file"
            raise ReadError(f"the tile {name} is no picture: it looks like {kind or what} (copy it again)")
        return kind, data


def _description(path: Path) -> tuple[int, int, int, int, str]:
    """Return width, height, size of a tile, overlap and the suffix of the tiles."""
    with open(path, "rb") as file:
        text = file.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES or b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise ReadError("the DZI file is damaged: it is more than a few lines that describe a picture")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise ReadError(f"the DZI file is damaged: {error}") from error
    size = next((child for child in root if child.tag.rpartition("}")[2] == "Size"), None)
    given = {**root.attrib, **(size.attrib if size is not None else {})}
    names = ("Width", "Height", "TileSize", "Overlap")
    try:
        width, height, tile, overlap = (int(given[name]) for name in names)
    except (KeyError, ValueError) as error:
        raise ReadError(f"the DZI file is damaged: wanted whole numbers for {', '.join(names)}") from error
    suffix = given.get("Format", "")
    if not re.fullmatch(r"[A-Za-z0-9]{1,8}", suffix):
        raise ReadError(f"the DZI file is damaged: tiles of the format {suffix[:40]!r}")
    if not (0 < width <= _MOST_SIDE and 0 < height <= _MOST_SIDE and 0 < tile <= 2**14 and 0 <= overlap < tile):
        raise ReadError(
            f"the DZI file is damaged: {height} x {width} px in tiles of {tile} px that overlap by {overlap}"
        )
    return width, height, tile, overlap, suffix
