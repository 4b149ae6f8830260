"""Images larger than memory: any window of them, at a level or at a number of micrometres per pixel."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from cellkit.core.errors import ReadError, UsageError
from cellkit.core.recipe import ReadOptions
from cellkit.core.sample import Sample, scale
from cellkit.grid.cover import Window
from cellkit.grid.zoom import zoom_window
from cellkit.io.info import Pixels, check_extent
from cellkit.io.medians import finite, medians
from cellkit.io.opening import naming, open_picture
from cellkit.io.reading import accept, checked_bits, count, depth_notes, merged
from cellkit.io.sources import Source, safe_stem
from cellkit.io.tiles import Level, Picture, Whole

__all__ = ["Slide", "SlideSpec", "open_slide"]

_NEAR = 0.01
"""Share by which the micrometres per pixel of a level may miss those wanted and still be taken as they are."""


def open_slide(
    source: str | Path | Source,
    options: ReadOptions | None = None,
    *,
    level: int | None = None,
    mpp: float | None = None,
) -> Slide:
    """Open an image of any size, of which windows will be read.

    `level` is which one of the pyramid (0, the default, is the full one), `mpp` the micrometres per pixel wanted: the
    coarsest level that is not coarser is read and averaged by area. A level within 1 % of `mpp` is taken as it is.
    `options.crop` counts in the pixels that come out. A file that cannot be decoded in parts (PNG, JPEG, ...) is read
    whole, once; `notes` say so.

    Raises `ReadError` as `read` does, and where there is no such level, no pixel size to reckon `mpp` by, or no level
    as fine as `mpp`; `UsageError` where both `level` and `mpp` are given.
    """
    if not isinstance(source, Source):
        source = Source(safe_stem(source), (Path(source),))
    return Slide(SlideSpec(source, options or ReadOptions(), level, mpp))


@dataclass(frozen=True)
class SlideSpec:
    """What a slide is opened by, small and to be sent to other processes; `fills` are its medians, if known."""

    source: Source
    options: ReadOptions = field(default_factory=ReadOptions)
    level: int | None = None
    mpp: float | None = None
    fills: tuple[float, ...] | None = None

    def open(self) -> Slide:
        """Open the slide."""
        return Slide(self)


class Slide:
    """An open image of any size. A context manager; threads may share it; a pickle opens the file again.

    `info` says what comes out: its shape (y, x, c), stored dtype, bits, channel names and pixel size (y, x) in
    micrometres. `levels` are the (y, x) of every level of the file, `chunk` the (y, x) of what is decoded at once in
    the pixels that come out, `notes` what was decided on opening.
    """

    def __init__(self, spec: SlideSpec) -> None:
        self.spec = spec
        self._lock = threading.Lock()
        self._fills: np.ndarray | None = None if spec.fills is None else np.asarray(spec.fills, np.float32)
        source = spec.source
        if source.fault:
            raise ReadError(source.fault)
        self._picture = _opened(source, spec.options)
        try:
            with naming(source.paths[0]):
                self._arrange()
        except BaseException:
            self._picture.close()
            raise

    def _arrange(self) -> None:
        """Find the level to read, the shape that comes out, and what is said of it."""
        spec, picture = self.spec, self._picture
        options, info = spec.options, picture.info
        accept(replace(info, whole=(1, 1)), options)  # a slide is never decoded all at once
        size = options.pixel_size or info.pixel_size
        self.levels = tuple(level.shape for level in picture.levels)
        self._level = _chosen(picture.levels, size, spec.level, spec.mpp)
        level = picture.levels[self._level]
        self._base = level.shape
        full = level.shape
        own: tuple[float, float] | None = None
        if size is not None:
            own = (size[0] * level.step[0], size[1] * level.step[1])
            if spec.mpp is not None and not _near(own, spec.mpp):
                full = (max(1, round(full[0] * own[0] / spec.mpp)), max(1, round(full[1] * own[1] / spec.mpp)))
                own = (own[0] * level.shape[0] / full[0], own[1] * level.shape[1] / full[1])
        self._full = full
        top, left, bottom, right = options.crop or (0, 0, *full)
        if not (0 <= top < bottom <= full[0] and 0 <= left < right <= full[1]):
            raise ReadError(
                f"crop {list(options.crop or ())} (y0, x0, y1, x1) does not lie within the image of "
                f"{full[0]} x {full[1]} px"
            )
        self._crop = Window(top, left, bottom, right)
        channels = options.channels or (spec.source.channels if len(spec.source.channels) == info.shape[2] else ())
        self.info = replace(
            info,
            shape=(*self._crop.shape, info.shape[2]),
            bits=options.bits or info.bits,
            channels=channels or info.channels,
            pixel_size=None if own is None else (float(own[0]), float(own[1])),
            whole=None if picture.divisible else level.shape,
        )
        sides = zip(level.chunk, level.shape, full, self._crop.shape, strict=True)
        chunk = [min(most, max(1, round(n * m / given))) for n, given, m, most in sides]
        self.chunk = (chunk[0], chunk[1])
        notes = []
        if not picture.divisible:
            notes.append("the file cannot be decoded in parts; it is read whole, once")
        if full != level.shape:
            notes.append(
                f"read at level {self._level}, {level.shape[0]} x {level.shape[1]} px, averaged to "
                f"{full[0]} x {full[1]} px"
            )
        self.notes = tuple(notes)

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        try:  # noqa: SIM105 - contextlib may be gone when the interpreter ends
            self.close()
        except Exception:
            pass

    def __reduce__(self) -> tuple[Callable[[SlideSpec], Slide], tuple[SlideSpec]]:
        fills = None if self._fills is None else tuple(float(fill) for fill in self._fills)
        return Slide, (replace(self.spec, fills=fills),)

    def __repr__(self) -> str:
        return f"Slide({self.spec.source.name!r}, {' x '.join(map(str, self.info.shape))})"

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of what comes out."""
        return self.info.shape[:2]

    @property
    def decoded(self) -> int:
        """How many tiles were decoded so far."""
        return self._picture.decoded

    def close(self) -> None:
        """Give the file back."""
        self._picture.close()

    def read(self, window: Window) -> Sample:
        """Return the pixels of `window`, as `cellkit.io.read` gives them of the whole image.

        Only the tiles that meet the window are decoded. Missing values (NaN, infinite) take the channel's median over
        the whole image, for which it is gone through once, when the first of them is met. Raises `ReadError` where the
        window is empty or leaves the image, and for what is damaged within it.
        """
        height, width = self.shape
        if not (0 <= window.top < window.bottom <= height and 0 <= window.left < window.right <= width):
            raise ReadError(
                f"{self.spec.source.paths[0]}: window {list(window)} (y0, x0, y1, x1) is empty or does not lie within "
                f"the image of {height} x {width} px"
            )
        top, left = self._crop.top, self._crop.left
        window = Window(window.top + top, window.left + left, window.bottom + top, window.right + left)
        notes: list[str] = []
        missing = 0

        def part(inner: Window) -> np.ndarray:
            nonlocal missing
            values, holes, said = self._values(inner)
            missing += holes
            notes.extend(said)
            return values

        values = zoom_window(part, self._base, self._full, window)
        return self._sample(values, missing, notes)

    def blank(self, shape: tuple[int, int]) -> Sample:
        """Return a sample as `read` gives it, of (y, x) `shape`, of zeros that take no memory."""
        sample = self._sample(np.zeros((1, 1, self.info.shape[2]), np.float32), 0, [])
        values = np.broadcast_to(np.float32(0), (*shape, self.info.shape[2]))
        layers = {name: replace(layer, value=values) for name, layer in sample.layers.items()}
        return replace(sample, layers=MappingProxyType(layers))

    def _sample(self, values: np.ndarray, missing: int, notes: list[str]) -> Sample:
        source, info = self.spec.source, self.info
        sample = Sample.of(values, name=source.name, pixel_size=info.pixel_size, channels=info.channels)
        if missing:
            notes.append(f"{missing} missing values (NaN or infinite) replaced by the channel's median")
        fields = MappingProxyType(dict(source.fields))
        return replace(sample, notes=(*self.notes, *dict.fromkeys(notes)), fields=fields, missing=missing)

    def _values(self, window: Window) -> tuple[np.ndarray, int, list[str]]:
        """Return a window of the level that is read, scaled, with nothing missing, and how many values were."""
        options, path = self.spec.options, self.spec.source.paths[0]
        pixels = self._decode(window)
        bits = checked_bits(path, pixels, options)
        array, holes = pixels.array, 0
        if array.dtype.kind == "f":
            array = finite(array)
            holes = int(np.count_nonzero(np.isnan(array)))
            if holes:
                array = np.where(np.isnan(array), self._medians(), array if array.ndim == 3 else array[..., None])
        return scale(array, bits)[0], holes, [*pixels.notes, *depth_notes(pixels, bits, options)]

    def _decode(self, window: Window) -> Pixels:
        path = self.spec.source.paths[0]
        with naming(path):
            check_extent(replace(self.info, shape=(*window.shape, self.info.shape[2]), whole=None))
            pixels = self._picture.decode(self.spec.options.projection, tuple(window), level=self._level)
            if pixels.array.shape[:2] != window.shape or count(pixels) != self.info.shape[2]:
                raise ReadError(
                    f"the file is damaged: its header says {(*window.shape, self.info.shape[2])}, "
                    f"its pixels are {pixels.array.shape}"
                )
            return pixels

    def _medians(self) -> np.ndarray:
        """Return the median of every channel's finite values, over what `read` of the whole image would take."""
        with self._lock:
            if self._fills is None:
                area = self._crop if self._full == self._base else Window(0, 0, *self._base)
                chunk = self._picture.levels[self._level].chunk
                self._fills = medians(lambda window: self._decode(window).array, area, chunk, self.info.shape[2])
            return self._fills


class _Group:
    """The channel files of a source as one picture."""

    def __init__(self, source: Source, pictures: list[Picture], options: ReadOptions) -> None:
        first = pictures[0]
        self._source, self._options = source, options
        self._pictures = pictures
        sizes = [p.info.pixel_size for p in pictures if p.info.pixel_size is not None]
        shape = (*first.info.shape[:2], len(pictures))
        self.info = replace(first.info, shape=shape, channels=(), alpha=0, pixel_size=sizes[0] if sizes else None)
        self.levels = first.levels if all(p.levels == first.levels for p in pictures) else first.levels[:1]
        self.divisible = all(picture.divisible for picture in pictures)
        self.lossy = any(picture.lossy for picture in pictures)

    @property
    def decoded(self) -> int:
        return sum(picture.decoded for picture in self._pictures)

    def decode(self, projection: str, crop: Any, *, level: int = 0, indexed: bool = False) -> Pixels:
        parts = [p.decode(projection, crop, level=level, indexed=indexed) for p in self._pictures]
        return merged(self._source, parts, self._options)

    def close(self) -> None:
        for picture in self._pictures:
            picture.close()


def _opened(source: Source, options: ReadOptions) -> Picture:
    """Open what a source stands for; what cannot be decoded in parts is kept whole."""
    pictures: list[Picture] = []
    alone = options if len(source.paths) == 1 else replace(options, channels=())
    try:
        for path in source.paths:
            with naming(path):
                picture = open_picture(path, alone)
                pictures.append(picture)
                accept(replace(picture.info, whole=(1, 1) if picture.divisible else None), alone)
                if not picture.divisible and not isinstance(picture, Whole):
                    pictures[-1] = _kept(picture)
        if len(pictures) == 1:
            return pictures[0]
        for path, picture in zip(source.paths, pictures, strict=True):
            if picture.info.shape[:2] != pictures[0].info.shape[:2]:
                sizes = [f"{p.info.shape[0]} x {p.info.shape[1]} px" for p in (picture, pictures[0])]
                raise ReadError(
                    f"{path}: is {sizes[0]}, but {source.paths[0].name} of the same group is {sizes[1]} "
                    "(export the channels of a field alike)"
                )
        if options.channels and len(options.channels) != len(pictures):
            raise ReadError(
                f"{source.name}: {len(options.channels)} channels are declared ({', '.join(options.channels)}), but "
                f"there are {len(pictures)} files ({', '.join(path.name for path in source.paths)})"
            )
        return _Group(source, pictures, options)
    except BaseException:
        for picture in pictures:
            picture.close()
        raise


def _kept(picture: Picture) -> Whole:
    def decode(projection: str, indexed: bool) -> Pixels:
        return picture.decode(projection, None, indexed=indexed)

    return Whole(picture.info, decode, lossy=picture.lossy, close=picture.close)


def _chosen(levels: tuple[Level, ...], size: tuple[float, ...] | None, level: int | None, mpp: float | None) -> int:
    """Return the number of the level to read."""
    if level is not None and mpp is not None:
        raise UsageError(f"level {level} and {mpp:g} um per pixel are both asked for; give one")
    if level is not None:
        if not 0 <= level < len(levels):
            shapes = ", ".join(f"{i}: {at.shape[0]} x {at.shape[1]} px" for i, at in enumerate(levels))
            raise ReadError(f"there is no level {level}; the image has {shapes}")
        return level
    if mpp is None:
        return 0
    if not 0 < mpp < float("inf"):
        raise UsageError(f"{mpp} um per pixel are asked for; wanted a positive number")
    if size is None:
        raise ReadError(
            f"does not say its pixel size, so that {mpp:g} um per pixel cannot be read "
            "(say it: `read: {pixel_size: 0.25}`, in um of the full resolution)"
        )
    sizes = [(size[0] * at.step[0], size[1] * at.step[1]) for at in levels]
    for number in reversed(range(len(levels))):
        if max(sizes[number]) <= mpp * (1 + _NEAR):
            return number
    raise ReadError(
        f"has {max(sizes[0]):.4g} um per pixel at its finest; {mpp:g} is finer, and nothing is made up in between "
        f"(ask for {max(sizes[0]):.4g} or more)"
    )


def _near(size: tuple[float, float], mpp: float) -> bool:
    return all(abs(one / mpp - 1) <= _NEAR for one in size)
