"""BMP and GIF, and the frames of animations, by Pillow.

The plug-ins are called directly: `PIL.Image.open` warns of every image that is merely large, and the limit that holds
here is `check_extent`'s.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np

from cellkit.core.errors import ReadError
from cellkit.io.info import RGB, Info, Pixels, check_extent, decoding, drop_alpha, project

__all__ = ["decode", "header", "project_frames"]

_MOST_GIF = 2**26  # pixels; beyond 2**26.4 Pillow warns on its own account
_FRAME, _EXTENSION, _TRAILER = 0x2C, 0x21, 0x3B


def header(data: Any) -> Info:
    """Read the header of a BMP or a GIF from its bytes."""
    name, frames = "BMP", 1
    if data[:3] == b"GIF":
        name = "GIF"
        width, height, frames = _walk_gif(data)
        check_extent(Info("gif", (height, width, 1), "uint8"), _MOST_GIF)
    with decoding(f"the {name}"), _no_bomb():
        picture = _plugin(name)(BytesIO(data))
        mode, (width, height) = picture.mode, picture.size
    grey = mode in ("1", "L")
    return Info(
        name.lower(),
        (height, width, 1 if grey else 3),
        "bool" if mode == "1" else "uint8",
        channels=() if grey else RGB,
        stack=(("frames", frames),) if frames > 1 else (),
        alpha=int(mode == "RGBA"),
    )


def decode(data: bytes, info: Info, projection: str = "none", *, indexed: bool = False) -> Pixels:
    """Decode a BMP or a GIF; `indexed` gives the indices of a palette image in place of its colours."""
    plugin = _plugin(info.format.upper())
    if info.stack and projection != "first":
        return project_frames(plugin, data, info, projection)
    with decoding(f"the {info.format.upper()}"), _no_bomb():
        picture = plugin(BytesIO(data))
        picture.load()
        if indexed and picture.mode == "P":
            return Pixels(np.asarray(picture))
        return _pixels(picture, info)


def project_frames(plugin: Any, data: bytes, info: Info, projection: str) -> Pixels:
    """Decode every frame of an animation and project them to one."""
    check_extent(info)
    with decoding(f"the {info.format.upper()}"), _no_bomb():
        picture = plugin(BytesIO(data))
        frames = np.empty((info.stack[0][1], *info.shape), np.uint8)
        for number in range(len(frames)):
            picture.seek(number)
            frames[number] = np.asarray(picture.convert("RGB" if info.shape[2] == 3 else "L")).reshape(info.shape)
    array, bits = project(frames, projection, None)
    return Pixels(array, bits, info.channels, info.pixel_size)


@contextlib.contextmanager
def _no_bomb() -> Iterator[None]:
    """Give Pillow's own refusal of a large frame a base that decoders' other exceptions have."""
    from PIL.Image import DecompressionBombError

    try:
        yield
    except DecompressionBombError as error:
        raise ValueError(str(error)) from error


def _walk_gif(data: Any) -> tuple[int, int, int]:
    """Return the width and height that a GIF's frames reach, and how many frames there are."""
    with decoding("the GIF"):
        width, height, flags = struct.unpack_from("<HHB", data, 6)
        at, frames = 13 + _colours(flags), 0
        while at < len(data) and data[at] != _TRAILER:
            if data[at] == _FRAME:
                left, top, wide, tall, flags = struct.unpack_from("<HHHHB", data, at + 1)
                width, height, frames = max(width, left + wide), max(height, top + tall), frames + 1
                at += 11 + _colours(flags)
            elif data[at] == _EXTENSION:
                at += 2
            else:
                raise ReadError("the GIF is damaged: there is a block of an unknown kind")
            while at < len(data) and data[at]:
                at += 1 + data[at]
            at += 1
    if at >= len(data):
        raise ReadError("the GIF is truncated: it ends before its end marker (copy it again)")
    return width, height, frames


def _colours(flags: int) -> int:
    """Return the bytes of a colour table with these flags."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _plugin(name: str) -> Any:
    if name == "GIF":
        from PIL.GifImagePlugin import GifImageFile

        return GifImageFile
    from PIL.BmpImagePlugin import BmpImageFile

    return BmpImageFile


def _pixels(picture: Any, info: Info) -> Pixels:
    notes: tuple[str, ...] = ()
    if "transparency" in picture.info or picture.mode == "RGBA":
        array, notes = drop_alpha(np.asarray(picture.convert("RGBA")), (3,), 255)
        if info.shape[2] == 1:
            array = array[..., :1]
    else:
        array = np.asarray(picture if picture.mode in ("1", "L", "RGB") else picture.convert("RGB"))
    return Pixels(array, None, info.channels, None, notes)
