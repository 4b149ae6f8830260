"""What is asked of every picture, read whole or in parts: its extent, its stack, its channels, its bit depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cellkit.core.errors import ReadError
from cellkit.core.recipe import ReadOptions
from cellkit.io.info import Info, Pixels, check_extent, natural_bits
from cellkit.io.sources import Source

__all__ = ["accept", "checked_bits", "count", "cropped", "depth_notes", "merged"]


def cropped(info: Info, options: ReadOptions, divisible: bool) -> Info:
    """Return `info` of the part that is wanted."""
    if options.crop is None:
        return info
    height, width, channels = info.shape
    y0, x0, y1, x1 = options.crop
    if not (0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width):
        raise ReadError(
            f"crop [{y0}, {x0}, {y1}, {x1}] (y0, x0, y1, x1) does not lie within the image of {height} x {width} px"
        )
    return replace(info, shape=(y1 - y0, x1 - x0, channels), whole=None if divisible else (height, width))


def accept(info: Info, options: ReadOptions) -> None:
    """Raise where the header alone shows that the image cannot be read, or not without a word in `read:`."""
    check_extent(info)
    names, count = options.channels, info.shape[2]
    if info.stack and options.projection == "none":
        what = " and ".join(f"{length} {axis}" for axis, length in info.stack)
        kinds = [axis for axis, _ in info.stack]
        if "pages" in kinds:
            raise ReadError(
                f"holds {what} and does not say what they are (if channels, name them: `read: {{channels: [...]}}`; "
                "if a stack, say how to flatten it: `read: {projection: max}`)"
            )
        noun = "an animation" if kinds == ["frames"] else "a stack"
        raise ReadError(f"is {noun} of {what} (say how to flatten it: `read: {{projection: max}}`, or mean, first ...)")
    if names and len(names) != count:
        raise ReadError(f"{len(names)} channels are declared ({', '.join(names)}), but the image has {count}")


def _single(path: Path, pixels: Pixels) -> Pixels:
    array = pixels.array if pixels.array.ndim == 2 else pixels.array[..., 0]
    for channel in range(1, count(pixels)):
        if not np.array_equal(array, pixels.array[..., channel]):
            raise ReadError(
                f"{path}: has {count(pixels)} channels, but a file of a group is one channel (export it as grey, or "
                "leave `{channel}` out of the pattern)"
            )
    return replace(pixels, array=array)


def checked_bits(path: str | Path, pixels: Pixels, options: ReadOptions) -> int | None:
    """Return the depth to scale by; raise `ReadError` where values exceed it."""
    bits = options.bits if options.bits is not None else pixels.bits
    if bits is None or options.projection == "sum":
        return bits
    array = pixels.array
    top = np.max(array, where=np.isfinite(array), initial=0.0) if array.dtype.kind == "f" else array.max()
    if top > 2**bits - 1:
        who = "are declared" if options.bits is not None else "are declared by the file"
        least = int(np.ceil(np.log2(float(top) + 1)))
        raise ReadError(
            f"{path}: {bits} bits {who}, but the largest value is {top:g} (declare `bits: {least}` or more)"
        )
    return bits


def depth_notes(pixels: Pixels, bits: int | None, options: ReadOptions) -> Sequence[str]:
    """Return what should be said of the depth that values were scaled by."""
    dtype = pixels.array.dtype
    natural = natural_bits(dtype)
    if natural is None:
        return ()
    if options.bits is not None and options.bits > 8 * dtype.itemsize:
        return (f"{options.bits} bits are declared, but the file stores {8 * dtype.itemsize}",)
    if bits is None and dtype.itemsize >= 4 and 0 < (top := int(pixels.array.max())) < 2**16:
        return (f"stored in {8 * dtype.itemsize} bits, but the largest value is {top}: declare `bits`",)
    return ()


def count(pixels: Pixels) -> int:
    """Return how many channels there are."""
    return 1 if pixels.array.ndim == 2 else int(pixels.array.shape[2])


def merged(source: Source, files: Sequence[Pixels], options: ReadOptions) -> Pixels:
    """Return the channel files of a source as one picture. Raises `ReadError` where they are not alike."""
    parts = [_single(path, part) for path, part in zip(source.paths, files, strict=True)]
    first = parts[0]
    for path, part in zip(source.paths, parts, strict=True):
        alike = part.array.shape == first.array.shape and part.array.dtype.name == first.array.dtype.name
        if not alike or (part.bits != first.bits and options.bits is None):
            raise ReadError(
                f"{path}: is {_format(part)}, but {source.paths[0].name} of the same group is {_format(first)} "
                "(export the channels of a field alike)"
            )
    sizes = list(dict.fromkeys(p.pixel_size for p in parts if p.pixel_size is not None))
    notes = [note for p in parts for note in p.notes]
    if len(sizes) > 1 and options.pixel_size is None:
        notes.append("the channel files say different pixel sizes; the first was taken")
    array = np.stack([p.array for p in parts], axis=-1)
    return Pixels(array, first.bits, (), sizes[0] if sizes else None, tuple(dict.fromkeys(notes)))


def _format(pixels: Pixels) -> str:
    height, width = pixels.array.shape[:2]
    depth = f" of {pixels.bits} bits" if pixels.bits else ""
    return f"{height} x {width} px {pixels.array.dtype.name}{depth}"
