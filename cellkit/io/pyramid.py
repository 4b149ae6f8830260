"""Write a picture larger than memory as a tiled TIFF with a pyramid, strip after strip."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np

from cellkit.core.errors import UsageError
from cellkit.io.pixelsize import to_json
from cellkit.io.temporary import atomic

__all__ = ["TILE", "write_pyramid"]

TILE = 256
"""Sides of a tile, and rows of a strip."""
_SMALLEST = 1024
_QUALITY = 90
_BIG = 2**31


def write_pyramid(
    path: str | Path,
    shape: tuple[int, int],
    strips: Iterable[np.ndarray],
    pixel_size: tuple[float, float] | None = None,
    *,
    lossless: bool = False,
    scratch: str | Path | None = None,
) -> None:
    """Write a picture of `shape` given as `strips`, uint8 (256, x, 3) from the top, the last one as high as is left.

    Each level halves the one above, averaged, down to 1,024 px. Tiles are JPEG without subsampling of colours, or
    deflate with `lossless`. What is held in memory is two strips; a smaller level waits in a temporary file.

    Raises `WriteError` where the file cannot be written, `UsageError` for strips of other sizes.
    """
    import tifffile

    path = Path(path)
    sizes = [shape]
    while max(sizes[-1]) > _SMALLEST:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    settings: dict[str, Any] = {
        "tile": (TILE, TILE), "dtype": np.uint8, "photometric": "rgb", "metadata": None, "software": "cellkit",
    }  # fmt: skip
    if lossless:
        settings["compression"] = "zlib"
    else:
        settings |= {"subsampling": (1, 1), "compression": "jpeg"}
        settings["compressionargs"] = {"level": _QUALITY}
    with ExitStack() as stack:
        temporary = stack.enter_context(atomic(path, scratch))
        file = stack.enter_context(tifffile.TiffWriter(temporary, bigtiff=shape[0] * shape[1] * 3 > _BIG))
        for level, size in enumerate(sizes):
            folder = path.parent if scratch is None else Path(scratch)
            last = level + 1 == len(sizes)
            waiting = None if last else stack.enter_context(tempfile.TemporaryFile(dir=folder))
            more = dict(settings)
            if pixel_size is not None:
                across, down = (1e4 / (p * 2**level) for p in pixel_size[::-1])
                more |= {"resolution": (across, down), "resolutionunit": "CENTIMETER"}
            if level:
                more["subfiletype"] = 1
            else:
                more |= {"subifds": len(sizes) - 1, "description": to_json(pixel_size)}
            file.write(_tiles(path, strips, size, waiting), shape=(*size, 3), **more)
            if waiting is not None:
                waiting.seek(0)
                strips = _read(waiting, sizes[level + 1])


def _tiles(path: Path, strips: Iterable[np.ndarray], shape: tuple[int, int], half: IO[bytes] | None) -> Iterator[Any]:
    """Yield the tiles of a level, and write its half."""
    top = 0
    for strip in strips:
        rows = min(TILE, shape[0] - top)
        if strip.shape != (rows, shape[1], 3) or strip.dtype != np.uint8 or not rows:
            raise UsageError(f"{path}: wanted a strip of {rows} x {shape[1]} px, got {strip.dtype} {strip.shape}")
        full = np.pad(strip, ((0, TILE - rows), (0, -shape[1] % TILE), (0, 0)), "edge")
        if half is not None:  # before the tiles: nobody asks for more than the last of them
            half.write(_halved(full[: rows + rows % 2, : shape[1] + shape[1] % 2]).tobytes())
        for left in range(0, shape[1], TILE):
            yield np.ascontiguousarray(full[:, left : left + TILE])
        top += rows
    if top != shape[0]:
        raise UsageError(f"{path}: wanted strips of {shape[0]} rows, got {top}")


def _halved(strip: np.ndarray) -> np.ndarray:
    height, width = strip.shape[:2]
    total = strip.reshape(height // 2, 2, width // 2, 2, 3).sum(axis=(1, 3), dtype=np.uint16)
    return ((total + 2) // 4).astype(np.uint8)


def _read(file: IO[bytes], shape: tuple[int, int]) -> Iterator[np.ndarray]:
    for top in range(0, shape[0], TILE):
        rows = min(TILE, shape[0] - top)
        yield np.frombuffer(file.read(rows * shape[1] * 3), np.uint8).reshape(rows, shape[1], 3)
