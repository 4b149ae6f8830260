"""JPEG: its header, and its pixels unless it ends early."""

from __future__ import annotations

import struct
from typing import Any

from cellkit.core.errors import ReadError
from cellkit.io.info import RGB, Info, Pixels, decoding

__all__ = ["decode", "header"]

_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset((0x01, *range(0xD0, 0xD9)))
_SOS, _EOI = 0xDA, b"\xff\xd9"
_MOST = 4096  # pixels of a byte of entropy-coded data: a progressive file codes long runs of empty blocks in a few bits


def header(data: Any) -> Info:
    """Read a JPEG's header from its bytes."""
    frame, _ = _walk(data)
    if frame is None:
        raise ReadError("the JPEG is truncated or damaged: its header says no size (copy it again)")
    precision, height, width, channels = frame
    if channels == 4:
        raise ReadError("the JPEG holds CMYK inks, not light (convert it to RGB)")
    if channels not in (1, 3):
        raise ReadError(f"the JPEG's header is damaged: {channels} components")
    return Info(
        "jpeg",
        (height, width, channels),
        "uint8" if precision == 8 else "uint16",
        bits=None if precision == 8 else precision,
        channels=RGB if channels == 3 else (),
    )


def decode(data: bytes, info: Info, projection: str = "none", *, indexed: bool = False) -> Pixels:  # noqa: ARG001
    """Decode a JPEG. A file without its end marker is refused: decoders fill what is missing with grey."""
    _, scan = _walk(data)
    if not scan or data.find(_EOI, scan) < 0:
        raise ReadError("the JPEG is truncated: it ends before its end marker (copy it again)")
    if info.shape[0] * info.shape[1] // len(data) > _MOST:
        raise ReadError("the JPEG holds far less data than its header announces (it is damaged)")
    import imagecodecs

    with decoding("the JPEG"):
        array = (imagecodecs.jpeg8_decode if info.bits is None else imagecodecs.jpeg_decode)(data)
    return Pixels(array, info.bits, info.channels)


def _walk(data: Any) -> tuple[tuple[int, int, int, int] | None, int]:
    """Return the frame header (precision, height, width, components) and where the first scan's data begin."""
    at, frame, size = 2, None, len(data)
    while at + 4 <= size:
        if data[at] != 0xFF:
            return frame, 0
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in _BARE:
            at += 2
            continue
        length = struct.unpack_from(">H", data, at + 2)[0]
        if marker in _SOF and at + 10 <= size and frame is None:
            frame = struct.unpack_from(">BHHB", data, at + 4)
        if marker == _SOS:
            return frame, at + 2 + length
        at += 2 + length
    return frame, 0
