"""WebP: its header and its pixels."""

from __future__ import annotations

import struct
from typing import Any

from cellkit.core.errors import ReadError
from cellkit.io.info import RGB, Info, Pixels, decoding, drop_alpha
from cellkit.io.pillow import project_frames

__all__ = ["decode", "header", "lossy"]

_ANIMATED, _ALPHA = 0x02, 0x10


def header(data: Any) -> Info:
    """Read a WebP's header from its bytes."""
    if len(data) < 30 or struct.unpack_from("<I", data, 4)[0] + 8 > len(data):
        raise ReadError("the WebP is truncated: it is shorter than its header says (copy it again)")
    kind = bytes(data[12:16])
    frames, alpha = 1, False
    if kind == b"VP8X":
        alpha = bool(data[20] & _ALPHA)
        width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (24, 27))
        if data[20] & _ANIMATED:
            frames = sum(k == b"ANMF" for k, _ in _chunks(data))
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    elif kind == b"VP8L":
        packed = struct.unpack_from("<I", data, 21)[0]
        width, height, alpha = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1, bool(packed >> 28 & 1)
    else:
        raise ReadError(f"the WebP is damaged: it begins with a chunk {kind!r}")
    stack = (("frames", frames),) if frames > 1 else ()
    return Info("webp", (height, width, 3), "uint8", channels=RGB, stack=stack, alpha=int(alpha))


def decode(data: bytes, info: Info, projection: str = "none", *, indexed: bool = False) -> Pixels:  # noqa: ARG001
    """Decode a WebP."""
    if info.stack:
        from PIL.WebPImagePlugin import WebPImageFile

        return project_frames(WebPImageFile, data, info, projection)
    import imagecodecs

    with decoding("the WebP"):
        array = imagecodecs.webp_decode(data)
    if array.shape[2] == 4:
        array, notes = drop_alpha(array, (3,), 255)
        return Pixels(array, None, info.channels, None, notes)
    return Pixels(array, None, info.channels)


def lossy(data: Any) -> bool:
    """Return whether any part of the WebP is coded with loss."""
    return any(kind == b"VP8 " for kind, _ in _chunks(data))


def _chunks(data: Any) -> list[tuple[bytes, int]]:
    """Return (kind, offset) of every chunk, those inside the frames of an animation among them."""
    found, at = [], 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        found.append((kind, at))
        at += 8 + 16 if kind == b"ANMF" else 8 + length + (length & 1)
    return found
