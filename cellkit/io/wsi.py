"""Whole-slide formats that tifffile does not read, through OpenSlide or TiffSlide where one is installed.

Both have the same interface: https://openslide.org/api/python, https://github.com/Bayer-Group/tiffslide.
"""

from __future__ import annotations

import importlib
import threading
from pathlib import Path
from typing import Any

import numpy as np

from cellkit.core.errors import ReadError
from cellkit.io.info import RGB, Info, decoding
from cellkit.io.tiles import Level, Tiled, level_of

__all__ = ["SUFFIXES", "WholeSlide", "open_whole_slide"]

SUFFIXES = frozenset([".svs", ".ndpi", ".scn", ".bif", ".mrxs", ".vms", ".vmu", ".svslide", ".qptiff", ".dcm"])
_TILE = 512
_READERS = (("openslide", "OpenSlide"), ("tiffslide", "TiffSlide"))


def open_whole_slide(path: str | Path, because: str = "") -> WholeSlide:
    """Open a whole-slide image by the first of the installed packages that can.

    Raises `ReadError` where none can: with the command that installs one where there is none. `because` is why it is
    not read without.
    """
    faults = [because] if because else []
    installed = False
    for module, name in _READERS:
        try:
            reader = getattr(importlib.import_module(module), name)
        except (ImportError, OSError, AttributeError):  # OSError: the package without its library
            continue
        installed = True
        try:
            with decoding(f"the slide ({name})", Exception):
                return WholeSlide(reader(str(path)))
        except ReadError as error:
            faults.append(str(error))
    if not installed:
        faults.append("a reader of whole slides is not installed: `pip install 'cellkit[slides]'`")
    raise ReadError("; ".join(faults))


class WholeSlide(Tiled):
    """A slide as OpenSlide shows it: 8-bit colours, on the slide's background where nothing was scanned.

    Pixels are always asked for in the same tiles, so that they do not hang on the window they are read for.
    """

    lossy = True

    def __init__(self, slide: Any) -> None:
        self._slide = slide
        self._lock = threading.Lock()
        properties = slide.properties
        shapes = [(int(height), int(width)) for width, height in slide.level_dimensions]
        levels: list[Level] = []
        for shape in shapes:
            chunk = (min(_TILE, shape[0]), min(_TILE, shape[1]))
            levels.append(level_of(shape, shapes[0], chunk))
        sizes = [_number(properties.get(f"{type(slide).__name__.lower()}.mpp-{axis}")) for axis in "yx"]
        size = (sizes[0], sizes[1]) if sizes[0] and sizes[1] else None
        colour = str(properties.get("openslide.background-color") or "FFFFFF")
        try:
            self._background = np.frombuffer(bytes.fromhex(colour), np.uint8).astype(np.float32)
        except ValueError:
            self._background = np.full(3, 255, np.float32)
        super().__init__(Info("slide", (*shapes[0], 3), "uint8", channels=RGB, pixel_size=size), levels)

    def tile(self, level: int, plane: int, at: tuple[int, int], indexed: bool) -> np.ndarray:  # noqa: ARG002
        """Read one tile and lay it on the background."""
        y0, x0, y1, x1 = self.extent(level, at)
        down = float(self._slide.level_downsamples[level])
        with self._lock, decoding("the slide", Exception):
            picture = self._slide.read_region((round(x0 * down), round(y0 * down)), level, (x1 - x0, y1 - y0))
            pixels = np.asarray(picture)
        colours = pixels[..., :3]
        if pixels.shape[2] == 4 and (pixels[..., 3] != 255).any():
            share = pixels[..., 3:].astype(np.float32) / 255
            colours = np.rint(colours * share + self._background[:3] * (1 - share)).astype(np.uint8)
        return np.ascontiguousarray(colours)

    def close(self) -> None:
        """Close the file."""
        self._slide.close()


def _number(text: Any) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return 0.0
    return value if 0 < value < 1e6 else 0.0
