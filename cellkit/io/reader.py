"""Read an image, a group of channel files or a label image."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from cellkit.core.errors import ReadError
from cellkit.core.recipe import ReadOptions
from cellkit.core.sample import Sample
from cellkit.io.info import Info, Pixels
from cellkit.io.labelfile import as_labels, lossy
from cellkit.io.opening import naming, open_picture
from cellkit.io.reading import accept, checked_bits, count, cropped, depth_notes, merged
from cellkit.io.sources import Source, safe_stem

__all__ = ["probe", "read", "read_labels"]

_DEFAULT = ReadOptions()


def read(path: str | Path | Source, options: ReadOptions | None = None) -> Sample:
    """Read an image file, or the channel files that `find` has grouped, as a sample.

    The format is told by the content, never by the name: PNG, JPEG, BMP, GIF, WebP, TIFF, .npy, OME-Zarr stores and
    Zarr arrays, Deep Zoom; slides and microscope formats where another package reads them (the extras `slides` and
    `bioio`). What does not fit in memory is for `open_slide`. Integers are scaled
    once, by the declared bit depth (`options.bits`, else what the file declares, else the range of its type). Stacks
    over z, time, frames or unexplained pages need `options.projection`. Of a resolution pyramid the full resolution is
    read. Alpha is dropped, palettes become RGB, an EXIF orientation is not applied: pixels lie as they are stored.
    `notes` of the sample say what was decided.

    Raises `ReadError`, which names the path, for a file that is missing, no image, truncated, damaged, too large, or
    that contradicts `options`.
    """
    options = options or _DEFAULT
    source = path if isinstance(path, Source) else Source(safe_stem(path), (Path(path),))
    if source.fault:
        raise ReadError(source.fault)
    pixels = _load(source.paths[0], options) if len(source.paths) == 1 else _group(source, options)
    bits = checked_bits(source.paths[0], pixels, options)
    declared = options.channels or (source.channels if len(source.channels) == count(pixels) else ())
    sample = Sample.of(
        pixels.array,
        name=source.name,
        pixel_size=options.pixel_size or pixels.pixel_size,
        channels=declared or pixels.names,
        bits=bits,
    )
    notes = (*pixels.notes, *depth_notes(pixels, bits, options), *sample.notes)
    return replace(sample, notes=notes, fields=MappingProxyType(dict(source.fields)))


def read_labels(path: str | Path) -> np.ndarray:
    """Read a label image as int32 (y, x): PNG, TIFF, BMP, GIF, lossless WebP or .npy.

    Colours whose channels are all equal count as that grey value; a palette image gives its indices unless its palette
    is grey. Raises `ReadError` for what cannot be labels: negative, fractional or too large values, colours, stacks,
    and files that went through JPEG, which changes values.
    """
    array = _load(path, _DEFAULT, labels=True).array
    with naming(path):
        array = as_labels(array)
        if array.size and array.max() > 2**31 - 1:
            raise ReadError(f"labels lie in 0 to 2147483647, but the file holds {array.max()}")
        return np.ascontiguousarray(array, np.int32)


def probe(path: str | Path | Source, options: ReadOptions | None = None) -> Info:
    """Return what the header says of an image, decoding no pixels: its shape, depth, channels, memory.

    What `options` declare overrides the file. Raises the `ReadError` that `read` would, as far as the header tells.
    """
    options = options or _DEFAULT
    source = path if isinstance(path, Source) else Source(safe_stem(path), (Path(path),))
    if source.fault:
        raise ReadError(source.fault)
    if len(source.paths) == 1:
        info = _header(source.paths[0], options)
    else:
        infos = [_header(path, replace(options, channels=())) for path in source.paths]
        info = replace(infos[0], shape=(*infos[0].shape[:2], len(infos)), channels=())
    declared = options.channels or (source.channels if len(source.channels) == info.shape[2] else ())
    return replace(
        info,
        channels=declared or info.channels,
        bits=options.bits or info.bits,
        pixel_size=options.pixel_size or info.pixel_size,  # type: ignore[arg-type]
    )


def _load(path: str | Path, options: ReadOptions, *, labels: bool = False) -> Pixels:
    with naming(path), closing(open_picture(path, options)) as picture:
        info = cropped(picture.info, options, options.crop is None or picture.divisible)
        accept(info, options)
        if labels and picture.lossy:
            raise lossy(info.format)
        pixels = picture.decode(options.projection, options.crop, indexed=labels)
        if pixels.array.shape[:2] != info.shape[:2] or not (labels or count(pixels) == info.shape[2]):
            raise ReadError(f"the file is damaged: its header says {info.shape}, its pixels are {pixels.array.shape}")
        return pixels


def _header(path: str | Path, options: ReadOptions) -> Info:
    with naming(path), closing(open_picture(path, options)) as picture:
        info = cropped(picture.info, options, options.crop is None or picture.divisible)
        accept(info, options)
        return info


def _group(source: Source, options: ReadOptions) -> Pixels:
    """Read one channel from each file of a source."""
    alone = replace(options, channels=())
    pixels = merged(source, [_load(path, alone) for path in source.paths], options)
    if options.channels and len(options.channels) != len(source.paths):
        raise ReadError(
            f"{source.name}: {len(options.channels)} channels are declared ({', '.join(options.channels)}), but "
            f"there are {len(source.paths)} files ({', '.join(path.name for path in source.paths)})"
        )
    return pixels
