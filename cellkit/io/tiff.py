"""TIFF of all kinds: plain, OME, ImageJ, tiled, planar, pyramids, stacks."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cached_property
from math import prod
from typing import Any, BinaryIO

import numpy as np

from cellkit.core.errors import ReadError
from cellkit.io import ome
from cellkit.io.info import RGB, Info, Pixels, decoding, distinct, drop_alpha, project
from cellkit.io.pixelsize import from_json, from_resolution
from cellkit.io.tiffchain import check_chain
from cellkit.io.tifftiles import Layout, Resolution, layout_of
from cellkit.io.tiles import Level, Tiles, level_of

__all__ = ["Tiff", "listening"]

_MINISWHITE, _RGB, _PALETTE, _YCBCR = 0, 2, 3, 6
_REFUSED = {
    5: "CMYK inks (convert it to RGB)",
    8: "CIELAB colours (convert it to RGB)",
    9: "ICCLAB colours (convert it to RGB)",
    10: "ITULAB colours (convert it to RGB)",
    32803: "raw camera data with a colour filter array (develop it to RGB)",
    32844: "LogL data (convert it to float32)",
    32845: "LogLuv data (convert it to RGB)",
}
_JPEGS = (6, 7, 33007, 34712, 34933, 50001)
_STACKS = {"Z": "z", "T": "time", "I": "pages", "Q": "pages"}
_SLIDES = ("svs", "scn", "ndpi", "qpi", "philips", "bif", "avs")
_UNITS = {2: "inch", 3: "cm"}


class _Captured(logging.Filter):
    """Keeps tifffile's log records of this thread for the notes while a file is open here; lets others through."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        kept: list[str] | None = getattr(self.thread, "kept", None)
        if kept is None:
            return True
        if record.levelno >= logging.WARNING:
            kept.append(" ".join(record.getMessage().split())[:200])
        return False


_log = _Captured()
logging.getLogger("tifffile").addFilter(_log)


@contextmanager
def listening(kept: list[str]) -> Iterator[None]:
    """Put what tifffile logs in this thread into `kept`, and nowhere else."""
    before = getattr(_log.thread, "kept", None)
    _log.thread.kept = kept
    try:
        yield
    finally:
        _log.thread.kept = before


class Tiff:
    """An open TIFF: `info` and `levels` from its headers, `decode` for its pixels. It closes the file it is given.

    `names` are the declared channels, `first` takes the first of several images.
    """

    def __init__(self, file: BinaryIO, names: Sequence[str] = (), *, first: bool = False) -> None:
        import tifffile

        self._tiles = Tiles()
        self._file = file
        self._kept: list[str] = []
        self._notes: list[str] = []
        with listening(self._kept), _decoding():
            self._tif = tifffile.TiffFile(file, _multifile=False)
            check_chain(self._tif.filehandle, self._tif.filehandle.size)
            if not len(self._tif.pages):
                raise ReadError("the TIFF is truncated: it has no page (copy it again)")
            self._ome = self._read_ome()
            main = self._series(first)
            self._layout = layout_of(main.levels[0], tuple(names))
            self._check_page()
            self.info = self._read_info(tuple(names))
            self._levels = self._resolutions(main, tuple(names))

    def close(self) -> None:
        """Close the file."""
        self._tif.close()
        self._file.close()

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """Every resolution, the full one first. Looks at all pages of the picture."""
        full = self._layout.shape
        with listening(self._kept), _decoding():
            return tuple(level_of(found.layout.shape, full, found.chunk) for found in self._levels)

    @property
    def decoded(self) -> int:
        """How many tiles were decoded so far."""
        return self._tiles.decoded

    @property
    def divisible(self) -> bool:
        """Whether a part of the picture can be decoded without the rest."""
        return self._levels[0].divisible

    @property
    def lossy(self) -> bool:
        """Whether the pixels went through JPEG."""
        return int(self._layout.page.compression) in (6, 7, 33007)

    def decode(self, projection: str, crop: Sequence[int] | None, *, level: int = 0, indexed: bool = False) -> Pixels:
        """Decode what lies in `crop` of a level; no more than that is read where the picture is divisible."""
        found, info = self._levels[level], self.info
        layout = found.layout
        part = crop is not None and found.divisible
        with listening(self._kept), _decoding():
            notes = found.notes
            if part and crop is not None:
                array = found.region(crop, first=projection == "first")
            else:
                array = layout.level.asarray(maxworkers=1)
            array = array.transpose(layout.order)
            sides = array.shape[len(layout.stack) : len(layout.stack) + 2]
            array = array.reshape(prod(array.shape[: len(layout.stack)]), *sides, -1)
            if crop is not None and not part:
                array = array[:, crop[0] : crop[2], crop[1] : crop[3]]
            array, more = self._values(array, indexed)
        if layout.stack:
            plane, bits = project(array, projection, info.bits)
        else:
            plane, bits = array[0], info.bits
        messages = tuple(dict.fromkeys(self._kept))[:3]
        return Pixels(plane, bits, info.channels, info.pixel_size, (*self._notes, *notes, *more, *messages))

    def _resolutions(self, main: Any, names: tuple[str, ...]) -> list[Resolution]:
        """Return the full resolution and those below it that are like it."""
        lock = threading.RLock()
        found = [Resolution(self._layout, 0, self._tiles, lock)]
        for number, level in enumerate(main.levels[1:], 1):
            layout = layout_of(level, names)
            same = [
                (at.page.dtype, at.page.photometric, at.order, at.page.extrasamples, _without_sides(at))
                for at in (layout, self._layout)
            ]
            if same[0] != same[1] or not Resolution(layout, number, self._tiles, lock).divisible:
                self._notes.append(
                    f"level {number} of the pyramid is unlike the others; it and those below are not used"
                )
                break
            found.append(Resolution(layout, number, self._tiles, lock))
        return found

    def _read_ome(self) -> ome.Ome | None:
        if not self._tif.is_ome:
            return None
        try:
            found = ome.parse(self._tif.ome_metadata)
        except ReadError as error:
            self._notes.append(f"{error}; it was not used")
            return None
        if found.other_files:
            self._notes.append("the OME set spans several files; only the planes of this one were read")
        return found

    def _series(self, first: bool) -> Any:
        tif = self._tif
        series = tif.series
        if not series:
            raise ReadError("the TIFF holds no image (it is damaged)")
        main = series[0]
        if tif.is_imagej and main.kind == "generic" and (tif.imagej_metadata or {}).get("images", 1) > 1:
            raise ReadError("the ImageJ stack is truncated: it holds fewer planes than announced (copy it again)")
        found = self._ome
        if found is not None and found.images and not found.other_files and main.kind not in ("ome", "imagej"):
            raise ReadError("the OME-XML does not fit the file's pages (it is truncated or damaged: export it again)")
        others = [s for s in series[1:] if not (s.keyframe.is_reduced or s.keyframe.is_mask)]
        if others and not first and not any(getattr(tif, f"is_{kind}", False) for kind in _SLIDES):
            sizes = ", ".join("x".join(map(str, s.shape)) for s in [main, *others][:4]) + (
                ", ..." if others[3:] else ""
            )
            raise ReadError(
                f"the TIFF holds {1 + len(others)} images of different kinds ({sizes}); "
                "which one is meant? (save each to a file of its own, or take the first: `read: {projection: first}`)"
            )
        return main

    def _check_page(self) -> None:
        page = self._layout.page
        photometric = int(page.photometric) if page.photometric is not None else 1
        if photometric == _PALETTE:
            _ = page.colormap  # read now: later several threads may be at the file
        if photometric in _REFUSED:
            raise ReadError(f"the TIFF holds {_REFUSED[photometric]}")
        if photometric == _YCBCR and int(page.compression) not in _JPEGS:
            raise ReadError("the TIFF holds YCbCr colours (convert it to RGB)")
        if page.dtype is None or page.dtype.kind not in "buif":
            raise ReadError(f"the TIFF holds {page.dtype or 'a data type that is not known'}, not plain numbers")

    def _read_info(self, names: tuple[str, ...]) -> Info:
        layout, page = self._layout, self._layout.page
        shape, dtype = layout.level.shape, page.dtype
        channels = prod(shape[i] for i in layout.channels)
        coloured = channels == 1 and page.photometric == _PALETTE and not self._display_only
        alpha = len(self._alpha)
        info = Info(
            "tiff",
            (shape[layout.rows], shape[layout.columns], 3 if coloured else channels - alpha),
            "uint8" if coloured else dtype.newbyteorder("=").name,
            bits=None if coloured else self._bits(),
            pixel_size=self._pixel_size(),
            stack=tuple((_axis_name(layout.level.axes[i]), shape[i]) for i in layout.stack),
            alpha=alpha,
        )
        return replace(info, channels=self._names(info, names, coloured))

    @property
    def _display_only(self) -> bool:
        """A colour map that says how to show intensities, as ImageJ's lookup tables do, not what they are."""
        return bool(self._tif.is_imagej or self._ome is not None)

    @property
    def _alpha(self) -> tuple[int, ...]:
        """Positions of the alpha samples of a pixel."""
        page = self._layout.page
        extras = tuple(page.extrasamples or ())
        start = page.samplesperpixel - len(extras)
        if len(self._layout.channels) != 1 or start < 1 or "S" not in self._layout.level.axes:
            return ()
        return tuple(start + i for i, extra in enumerate(extras) if extra in (1, 2))

    def _bits(self) -> int | None:
        stored, dtype = self._layout.page.bitspersample, self._layout.page.dtype
        if dtype.kind not in "ui":
            return None
        declared = self._ome.bits if self._ome is not None else None
        if declared and 1 < declared < stored:
            return declared
        return stored if stored < 8 * dtype.itemsize else None

    def _names(self, info: Info, declared: tuple[str, ...], coloured: bool) -> tuple[str, ...]:
        count = info.shape[2]
        if len(declared) == count:
            return declared
        found: Sequence[str] = ()
        if self._ome is not None:
            found = self._ome.channels
        elif self._tif.is_imagej:
            found = [str(label).strip() for label in (self._tif.imagej_metadata or {}).get("Labels") or ()]
        if len(found) == count and all(found) and count == prod((count, *(n for _, n in info.stack))):
            return distinct(found)
        if count == 3 and (coloured or self._layout.page.photometric in (_RGB, _YCBCR)):
            return RGB
        return ()

    def _pixel_size(self) -> tuple[float, float] | None:
        page = self._tif.pages[0]
        if self._ome is not None and self._ome.pixel_size is not None:
            return self._ome.pixel_size
        text = page.description or ""
        if text.startswith('{"cellkit"'):
            return from_json(text)
        if text.startswith("Aperio") and "|MPP =" in text.replace("| MPP", "|MPP"):
            value = text.replace("| MPP", "|MPP").split("|MPP =")[1].split("|")[0]
            return from_resolution(1 / float(value), 1 / float(value), "um")
        unit = _UNITS.get(int(page.tags.valueof(296) or 2), "")
        if self._tif.is_imagej:
            unit = str((self._tif.imagej_metadata or {}).get("unit", unit))
        x, y = (_rational(page.tags.valueof(code)) for code in (282, 283))
        return from_resolution(y, x, unit)

    def _values(self, array: np.ndarray, indexed: bool) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return the values (n, y, x, c) that pixels mean: colours of a palette, bright as bright, no alpha."""
        page = self._layout.page
        notes: tuple[str, ...] = ()
        if page.photometric == _MINISWHITE and not indexed:  # a label is a number, not a brightness
            if array.dtype.kind in "bu":
                top = True if array.dtype.kind == "b" else array.dtype.type(2**page.bitspersample - 1)
                array = array ^ top
                notes = ("the file stores white as 0; it was inverted so that bright is bright",)
            else:
                notes = ("the file says that white is 0, which means nothing for signed or float values; kept",)
        if page.photometric == _PALETTE and array.shape[3] == 1:
            array, notes = self._palette(array, indexed)
        if self._alpha:
            opaque = 1.0 if array.dtype.kind == "f" else float(np.iinfo(array.dtype).max)
            height = array.shape[0] * array.shape[1]
            flat, clear = drop_alpha(array.reshape(height, *array.shape[2:]), self._alpha, opaque)
            array, notes = flat.reshape(*array.shape[:3], -1), (*notes, *clear)
        return array, notes

    def _palette(self, array: np.ndarray, indexed: bool) -> tuple[np.ndarray, tuple[str, ...]]:
        if self._display_only:
            return array, ("the file's colour map only says how to show it and was not applied",)
        colours = self._layout.page.colormap
        if colours is None or colours.ndim != 2 or len(colours) != 3:
            raise ReadError("the TIFF is damaged: it has a palette image without a palette")
        grey = (colours == colours[0]).all()
        if indexed and not grey:
            return array, ()
        # Entries have 16 bits, the upper 8 of which count; some writers forget to shift.
        eight = (colours if colours.max() < 256 else colours >> 8).astype(np.uint8)
        return eight.T[array[..., 0]], ()


def _decoding() -> AbstractContextManager[None]:
    from tifffile import TiffFileError  # an exception without a base in older releases

    return decoding("the TIFF", TiffFileError)


def _without_sides(layout: Layout) -> tuple[int, ...]:
    return tuple(n for i, n in enumerate(layout.level.shape) if i not in (layout.rows, layout.columns))


def _axis_name(axis: str) -> str:
    return _STACKS.get(axis, f"axis {axis}")


def _rational(value: Any) -> float:
    if isinstance(value, tuple) and len(value) == 2 and value[1]:
        return float(value[0] / value[1])
    return float(value) if isinstance(value, (int, float)) else 0.0
