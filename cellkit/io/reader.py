"""Read an image, a group of channel files or a label image."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import BinaryIO

import numpy as np

from cellkit.core.errors import ReadError, suggest
from cellkit.core.recipe import ReadOptions
from cellkit.core.sample import Sample
from cellkit.io import magic
from cellkit.io.info import Info, Pixels, check_extent, natural_bits
from cellkit.io.sources import Source, safe_stem

__all__ = ["probe", "read", "read_labels"]

_DEFAULT = ReadOptions()


def read(path: str | Path | Source, options: ReadOptions | None = None) -> Sample:
    """Read an image file, or the channel files that `find` has grouped, as a sample.

    The format is told by the content, never by the name: PNG, JPEG, BMP, GIF, WebP, TIFF, .npy. Integers are scaled
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
    bits = _checked_bits(source.paths[0], pixels, options)
    declared = options.channels or (source.channels if len(source.channels) == _count(pixels) else ())
    sample = Sample.of(
        pixels.array,
        name=source.name,
        pixel_size=options.pixel_size or pixels.pixel_size,
        channels=declared or pixels.names,
        bits=bits,
    )
    notes = (*pixels.notes, *_depth_notes(pixels, bits, options), *sample.notes)
    return replace(sample, notes=notes, fields=MappingProxyType(dict(source.fields)))


def read_labels(path: str | Path) -> np.ndarray:
    """Read a label image as int32 (y, x): PNG, TIFF, BMP, GIF, lossless WebP or .npy.

    Colours whose channels are all equal count as that grey value; a palette image gives its indices unless its palette
    is grey. Raises `ReadError` for what cannot be labels: negative, fractional or too large values, colours, stacks,
    and files that went through JPEG, which changes values.
    """
    array = _load(path, _DEFAULT, labels=True).array
    with _naming(path):
        if array.ndim == 3:
            if not all(np.array_equal(array[..., 0], array[..., i]) for i in range(1, array.shape[2])):
                raise ReadError(
                    "the colours of this picture are no label numbers (save labels as 16-bit grey PNG or TIFF)"
                )
            array = array[..., 0]
        if array.dtype.kind == "f":
            whole = np.isfinite(array) & (array == np.floor(array))
            if not whole.all():
                bad = float(array[~whole][0])
                raise ReadError(f"labels are whole numbers, but the file holds {bad:g} (save labels as integers)")
        if array.size and array.dtype.kind != "b":
            low, high = array.min(), array.max()
            if low < 0 or high > 2**31 - 1:
                raise ReadError(f"labels lie in 0 to 2147483647, but the file holds {low if low < 0 else high}")
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
    with _naming(path), _open(path) as (file, kind):
        if kind == "tiff":
            from cellkit.io import tiff

            with tiff.opened(file, options.channels, first=options.projection == "first") as picture:
                info = _cropped(picture.info, options, picture.divisible)
                _accept(info, options)
                if labels and picture.lossy:
                    raise _lossy("TIFF")
                pixels = picture.decode(options.projection, options.crop, indexed=labels)
        else:
            data = file.read()
            codec = _codec(kind)
            header = codec.header(data)
            info = _cropped(header, options, False)
            _accept(info, options)
            if labels and (kind == "jpeg" or (kind == "webp" and codec.lossy(data))):
                raise _lossy(kind.upper())
            pixels = codec.decode(data, header, options.projection, indexed=labels)
            if options.crop is not None:
                y0, x0, y1, x1 = options.crop
                pixels = replace(pixels, array=pixels.array[y0:y1, x0:x1])
        if pixels.array.shape[:2] != info.shape[:2] or not (labels or _count(pixels) == info.shape[2]):
            raise ReadError(f"the file is damaged: its header says {info.shape}, its pixels are {pixels.array.shape}")
        return pixels


def _header(path: str | Path, options: ReadOptions) -> Info:
    with _naming(path), _open(path) as (file, kind):
        if kind == "tiff":
            from cellkit.io import tiff

            with tiff.opened(file, options.channels, first=options.projection == "first") as picture:
                info = _cropped(picture.info, options, picture.divisible)
        else:
            info = _cropped(_codec(kind).header(file.read()), options, False)
        _accept(info, options)
        return info


def _codec(kind: str) -> ModuleType:
    from cellkit.io import jpeg, npy, pillow, png, webp

    return {"png": png, "jpeg": jpeg, "webp": webp, "npy": npy, "bmp": pillow, "gif": pillow}[kind]


@contextlib.contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Put the path in front of what a decoder found."""
    try:
        yield
    except ReadError as error:
        raise ReadError(f"{path}: {error}") from error


@contextlib.contextmanager
def _open(path: str | Path) -> Iterator[tuple[BinaryIO, str]]:
    """Open a file and tell its format; say what is the matter where it has none."""
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            folder = stat.S_ISDIR(mode)
            fix = (
                "give `find` or `cellkit run` the folder, `read` a file in it" if folder else "copy it to a file first"
            )
            raise ReadError(f"is {'a folder' if folder else 'a device or pipe'}, not a file ({fix})")
        file = open(path, "rb")  # noqa: SIM115 - closed below, when opening has not failed
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:  # a null character in the path
        raise ReadError(f"is no path: {error}") from error
    with file:
        try:
            head = file.read(magic.HEAD)
            file.seek(0)
        except OSError as error:
            raise _unreadable(path, error) from error
        kind = magic.sniff(head)
        if not head:
            raise ReadError("the file is empty (copy it again)")
        if not kind:
            what, fix = magic.describe(head)
            raise ReadError(f"is no image that can be read: it looks like {what} ({fix})")
        yield file, kind


def _unreadable(path: str | Path, error: OSError) -> ReadError:
    if isinstance(error, FileNotFoundError):
        if re.match(r"[A-Za-z]{2,}:/", str(path)):  # one letter is a drive
            return ReadError("is an address, not a file (download it first)")
        folder = Path(path).parent
        try:
            close = suggest(Path(path).name, os.listdir(folder))
        except OSError:
            return ReadError(f"no such file: there is no folder {folder}")
        return ReadError(f"no such file{f' ({close})' if close else ''}")
    if isinstance(error, PermissionError):
        return ReadError("no permission to read it (ask its owner, or copy it where you may)")
    return ReadError(f"cannot be opened: {error.strerror or error}")


def _cropped(info: Info, options: ReadOptions, divisible: bool) -> Info:
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


def _accept(info: Info, options: ReadOptions) -> None:
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


def _group(source: Source, options: ReadOptions) -> Pixels:
    """Read one channel from each file of a source."""
    alone = replace(options, channels=())
    parts = [_single(path, _load(path, alone)) for path in source.paths]
    first = parts[0]
    for path, part in zip(source.paths, parts, strict=True):
        alike = part.array.shape == first.array.shape and part.array.dtype.name == first.array.dtype.name
        if not alike or (part.bits != first.bits and options.bits is None):
            raise ReadError(
                f"{path}: is {_format(part)}, but {source.paths[0].name} of the same group is {_format(first)} "
                "(export the channels of a field alike)"
            )
    if options.channels and len(options.channels) != len(parts):
        raise ReadError(
            f"{source.name}: {len(options.channels)} channels are declared ({', '.join(options.channels)}), but "
            f"there are {len(parts)} files ({', '.join(path.name for path in source.paths)})"
        )
    sizes = list(dict.fromkeys(p.pixel_size for p in parts if p.pixel_size is not None))
    notes = [note for p in parts for note in p.notes]
    if len(sizes) > 1 and options.pixel_size is None:
        notes.append("the channel files say different pixel sizes; the first was taken")
    array = np.stack([p.array for p in parts], axis=-1)
    return Pixels(array, first.bits, (), sizes[0] if sizes else None, tuple(dict.fromkeys(notes)))


def _single(path: Path, pixels: Pixels) -> Pixels:
    array = pixels.array if pixels.array.ndim == 2 else pixels.array[..., 0]
    for channel in range(1, _count(pixels)):
        if not np.array_equal(array, pixels.array[..., channel]):
            raise ReadError(
                f"{path}: has {_count(pixels)} channels, but a file of a group is one channel (export it as grey, or "
                "leave `{channel}` out of the pattern)"
            )
    return replace(pixels, array=array)


def _checked_bits(path: str | Path, pixels: Pixels, options: ReadOptions) -> int | None:
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


def _depth_notes(pixels: Pixels, bits: int | None, options: ReadOptions) -> Sequence[str]:
    dtype = pixels.array.dtype
    natural = natural_bits(dtype)
    if natural is None:
        return ()
    if options.bits is not None and options.bits > 8 * dtype.itemsize:
        return (f"{options.bits} bits are declared, but the file stores {8 * dtype.itemsize}",)
    if bits is None and dtype.itemsize >= 4 and 0 < (top := int(pixels.array.max())) < 2**16:
        return (f"stored in {8 * dtype.itemsize} bits, but the largest value is {top}: declare `bits`",)
    return ()


def _count(pixels: Pixels) -> int:
    return 1 if pixels.array.ndim == 2 else int(pixels.array.shape[2])


def _format(pixels: Pixels) -> str:
    height, width = pixels.array.shape[:2]
    depth = f" of {pixels.bits} bits" if pixels.bits else ""
    return f"{height} x {width} px {pixels.array.dtype.name}{depth}"


def _lossy(name: str) -> ReadError:
    return ReadError(f"a {name} compressed with loss does not keep label numbers (save labels as PNG or TIFF)")
