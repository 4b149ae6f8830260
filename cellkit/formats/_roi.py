"""One ImageJ ROI: its bytes, its outlines, its name and its properties.

Source: ij/io/RoiDecoder.java and RoiEncoder.java of ImageJ 1.54.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

from cellkit.core.errors import FormatError

__all__ = ["MAX_COORDINATE", "Roi", "read_roi", "write_roi"]

MAX_COORDINATE = 60_535
"""ImageJ takes what lies below -5000 as 16-bit integer for a coordinate from 60,536 up."""

_HEADER = struct.Struct(">4shBxhhhhH16xhiiihhBBhii")
_HEADER2 = struct.Struct(">4xiiiiiihBBifiii12x")
_VERSION = 228
_POLYGON, _RECT, _OVAL, _FREEHAND, _TRACED = 0, 1, 2, 7, 8
_OTHERS = {3: "line", 4: "freehand line", 5: "segmented line", 6: "empty", 9: "angle", 10: "point"}
_SUBPIXEL = 128
_MOVE, _LINE, _CLOSE = 0, 1, 4
_MOST_POINTS = 2**22


@dataclass(frozen=True, eq=False)
class Roi:
    """Rings of points (k, 2) x, y, not closed, or the box of an oval, x, y, width, height; name and properties."""

    rings: list[np.ndarray]
    name: str = ""
    properties: dict[str, str] = field(default_factory=dict)
    oval: tuple[float, float, float, float] | None = None


def write_roi(rings: list[np.ndarray], name: str, properties: dict[str, str], where: str) -> bytes:
    """Return the bytes of an outline along pixel edges: one ring as a traced ROI, several as a composite one."""
    points = np.concatenate(rings)
    left, top = (int(v) for v in points.min(axis=0))
    right, bottom = (int(v) for v in points.max(axis=0))
    if left < 0 or top < 0 or max(right, bottom) > MAX_COORDINATE:
        raise FormatError(
            f"{where}: reaches to x {right}, y {bottom}; ImageJ's ROIs reach to {MAX_COORDINATE} px (use GeoJSON)"
        )
    single = len(rings) == 1 and len(points) <= 65535
    if single:
        body = (points - [left, top]).T.astype(">u2").tobytes()
    else:
        body = np.concatenate([_path(ring) for ring in rings]).astype(">f4").tobytes()
    kind, count = (_TRACED, len(points)) if single else (_RECT, 0)
    edges = (_signed(v) for v in (top, left, bottom, right))
    shape = 0 if single else len(body) // 4
    at = _HEADER.size + len(body)
    head = _HEADER.pack(b"Iout", _VERSION, kind, *edges, count, 0, shape, 0, 0, 0, 0, 0, 0, 0, 0, at)
    texts = [name.encode("utf-16-be"), "".join(f"{k}: {v}\n" for k, v in properties.items()).encode("utf-16-be")]
    first = at + _HEADER2.size
    second = first + len(texts[0])
    sizes = [len(text) // 2 for text in texts]
    offsets = [first if sizes[0] else 0, second if sizes[1] else 0]
    tail = _HEADER2.pack(0, 0, 0, offsets[0], sizes[0], 0, 0, 0, 0, 0, 0.0, offsets[1], sizes[1], 0)
    return head + body + tail + b"".join(texts)


def read_roi(data: bytes, where: str) -> Roi:
    """Return what the bytes of an area ROI say. Raises `FormatError` for lines, points, and what is no ROI."""
    if len(data) < _HEADER.size or data[:4] != b"Iout":
        raise FormatError(f"{where}: no ImageJ ROI (it begins with {data[:4]!r})")
    head = _HEADER.unpack_from(data)
    _, version, kind, top, left, bottom, right, count, _, shape, _, _, subtype, options, _, _, arc, _, at = head
    if kind in _OTHERS or kind not in (_POLYGON, _RECT, _OVAL, _FREEHAND, _TRACED):
        raise FormatError(f"{where}: wanted an area, got a ROI of type {_OTHERS.get(kind, kind)}")
    if subtype:
        raise FormatError(
            f"{where}: subtype {subtype} (text, arrow, ellipse, image) is not read; make it a polygon in ImageJ"
        )
    name, properties = _texts(data, at, where)
    top, left, bottom, right = (v + 65536 if v < -5000 else v for v in (top, left, bottom, right))
    subpixel = bool(options & _SUBPIXEL) and version >= 222
    if shape:
        return Roi(_composite(data, shape, where), name, properties)
    if kind in (_RECT, _OVAL):
        box = (float(left), float(top), float(right - left), float(bottom - top))
        if subpixel and version >= 223:
            box = struct.unpack_from(">4f", data, 18)
        if not all(abs(v) < 2**31 for v in box) or box[2] <= 0 or box[3] <= 0:
            raise FormatError(f"{where}: its box has no area")
        if arc and kind == _RECT:
            raise FormatError(f"{where}: rounded rectangles are not read; make it a polygon in ImageJ")
        x, y, w, h = box
        if kind == _OVAL:
            return Roi([], name, properties, (x, y, w, h))
        return Roi([np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]])], name, properties)
    number = count or int.from_bytes(data[18:22], "big", signed=True)
    return Roi([_points(data, number, (left, top), subpixel, where)], name, properties)


def _signed(value: int) -> int:
    return value - 65536 if value > 32767 else value


def _path(ring: np.ndarray) -> np.ndarray:
    steps = np.empty((len(ring), 3))
    steps[:, 0] = _LINE
    steps[0, 0] = _MOVE
    steps[:, 1:] = ring
    return np.append(steps.ravel(), _CLOSE)


def _points(data: bytes, number: int, origin: tuple[int, int], subpixel: bool, where: str) -> np.ndarray:
    need = _HEADER.size + number * (12 if subpixel else 4)
    if not 3 <= number <= _MOST_POINTS or need > len(data):
        raise FormatError(f"{where}: announces {number} points, which {len(data)} bytes do not hold")
    if subpixel:
        points = np.frombuffer(data, ">f4", 2 * number, _HEADER.size + 4 * number).reshape(2, -1).T.astype(np.float64)
        if not (np.abs(points) < 2**31).all():
            raise FormatError(f"{where}: its points are no finite numbers")
        return points
    whole = np.frombuffer(data, ">i2", 2 * number, _HEADER.size).reshape(2, -1).T.astype(np.float64)
    return np.where(whole < -5000, whole + 65536, whole) + np.array(origin)


def _composite(data: bytes, number: int, where: str) -> list[np.ndarray]:
    if not 0 < number <= 3 * _MOST_POINTS or _HEADER.size + 4 * number > len(data):
        raise FormatError(f"{where}: announces a path of {number} numbers, which {len(data)} bytes do not hold")
    with np.errstate(invalid="ignore"):  # a NaN is refused below
        path = np.frombuffer(data, ">f4", number, _HEADER.size).astype(np.float64)
    if not (np.abs(path) < 2**31).all():
        raise FormatError(f"{where}: its path holds what is no finite number")
    values, at = path.tolist(), 0
    rings: list[list[list[float]]] = []
    while at < number:
        step = values[at]
        if step == _CLOSE:
            at += 1
            continue
        if step not in (_MOVE, _LINE) or at + 3 > number or (step == _LINE and not rings):
            raise FormatError(f"{where}: wanted a path of straight lines; step {step:g} is none")
        if step == _MOVE:
            rings.append([])
        rings[-1].append(values[at + 1 : at + 3])
        at += 3
    if any(len(ring) < 3 for ring in rings):
        raise FormatError(f"{where}: a part of its path has fewer than 3 points")
    return [np.array(ring) for ring in rings]


def _texts(data: bytes, at: int, where: str) -> tuple[str, dict[str, str]]:
    """Return the name and the properties, which older files lack."""
    if not 0 < at <= len(data) - 52:
        return "", {}
    fields = _HEADER2.unpack_from(data.ljust(at + _HEADER2.size, b"\0"), at)
    found = []
    for offset, length in ((fields[3], fields[4]), (fields[11], fields[12])):
        if length and not (offset > 0 and length > 0 and offset + 2 * length <= len(data)):
            raise FormatError(f"{where}: its name or properties lie outside its {len(data)} bytes")
        found.append(data[offset : offset + 2 * length].decode("utf-16-be", "replace") if length else "")
    lines = (line.partition(":") for line in found[1].splitlines())
    return found[0], {key.strip(): value.strip() for key, colon, value in lines if colon}
