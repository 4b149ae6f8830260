"""ImageJ ROI zips: an area ROI for each object, along the edges of its pixels.

An object in one piece without holes is a traced ROI (what the wand makes), any other a composite one. A ROI's
properties hold ``label``, and where known ``class`` and ``score``; the zip's comment keeps the image's name, size and
pixel size, which ImageJ passes over.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import IO, Any

import numpy as np

from cellkit.core.errors import FormatError
from cellkit.formats import _json
from cellkit.formats._fill import fill
from cellkit.formats._roi import MAX_COORDINATE, Roi, read_roi, write_roi
from cellkit.formats._runs import Runs, merged
from cellkit.formats.objects import ObjectSet, named
from cellkit.formats.outlines import outlines

__all__ = ["MAX_COORDINATE", "archive", "decode", "encode"]

_NONE: Mapping[str, str] = MappingProxyType({})
_MOST_ROIS = 2**22
_MOST_BYTES = 2**30
_MOST_OF_ONE = 2**25
_PLAIN_BYTES = 2**24
_MOST_RATIO = 200


def encode(objects: ObjectSet) -> bytes:
    """Return one image's objects as the bytes of a zip of ROIs, the same every time.

    Raises `FormatError` for objects without masks, and for those beyond 60,535 px.
    """
    buffer = io.BytesIO()
    with archive(buffer, objects, int(objects.ids.max(initial=1))) as add:
        for i, polygons in enumerate(outlines(objects)):
            add(int(objects.ids[i]), polygons, _properties(objects, i))
    return buffer.getvalue()


@contextmanager
def archive(stream: IO[bytes], image: ObjectSet, most: int) -> Iterator[Callable[..., None]]:
    """Write a zip of ROIs into `stream`, object by object, by the function that is given: (number, polygons).

    `image` says of what image; `most` is the largest number there will be. Raises as `encode`.
    """
    head: dict[str, Any] = {"cellkit": 1, "name": image.name, "size": list(image.size)}
    if image.pixel_size is not None:
        head["pixel_size_um"] = list(image.pixel_size)
    width = len(str(most))
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        file.comment = _json.dumps(head).encode()[:65535]

        def add(number: int, polygons: Sequence[Sequence[np.ndarray]], properties: Mapping[str, str] = _NONE) -> None:
            where = f"image {image.name!r}, object {number}"
            rings = [ring for polygon in polygons for ring in polygon]
            if not rings:
                raise FormatError(f"{where}: has no pixels; a ROI needs some")
            name = f"{number:0{width}d}"
            entry = zipfile.ZipInfo(f"{name}.roi", (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.create_system = zipfile.ZIP_DEFLATED, 3
            file.writestr(entry, write_roi(rings, name, dict(properties) or {"label": str(number)}, where))

        yield add


def decode(data: bytes, *, size: tuple[int, int] | None = None, name: str = "") -> ObjectSet:
    """Return the objects of a zip of ROIs, or of one ROI, in the order of the file.

    A pixel belongs to the ROI that holds its centre; of several rings the even-odd rule decides, as in ImageJ. `size`
    is needed where the file does not say it. Raises `FormatError` for lines and points,
    entries with paths that leave a folder, and zips that are damaged or grow beyond reason.
    """
    where = f"image {name!r}" if name else "ROIs"
    head, rois = ({}, [("ROI", read_roi(data, where))]) if data[:4] == b"Iout" else _unzipped(data, where)
    own_name = head.get("name")
    name = name or (own_name if isinstance(own_name, str) else "") or "image"
    own = _json.sides(head["size"], f"{where}, size") if "size" in head else None
    if size is not None and own is not None and own != tuple(size):
        raise FormatError(f"{where}: the ROIs are of {own[0]} x {own[1]} px, the image has {size[0]} x {size[1]}")
    shape = own or size
    if shape is None:
        raise FormatError(f"{where}: ROIs of other programs do not say the image's size; give its image")
    made = _drawn(rois, (shape[0], shape[1]), name)
    ids, notes = _ids(rois)
    classes = [roi.properties.get("class") for _, roi in rois]
    return made.with_(
        ids=ids,
        classes=named([c or "" for c in classes]),
        scores=_scores(rois),
        pixel_size=_json.pixel_size(head.get("pixel_size_um"), f"{where}, pixel_size_um"),
        notes=notes,
    )


def _properties(objects: ObjectSet, index: int) -> dict[str, str]:
    found = {"label": str(int(objects.ids[index]))}
    if objects.classes is not None and objects.classes[index]:
        name = objects.classes[index]
        if name.splitlines() != [name] or name != name.strip():
            raise FormatError(f"image {objects.name!r}, object {found['label']}: a ROI cannot hold the class {name!r}")
        found["class"] = name
    if objects.scores is not None:
        found["score"] = repr(float(objects.scores[index]))
    return found


def _unzipped(data: bytes, where: str) -> tuple[dict[str, Any], list[tuple[str, Roi]]]:
    """Return what the comment says and every ROI with its entry's name; no more is inflated than is reasonable."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [entry for entry in archive.infolist() if not _passed_over(entry, where)]
            total = sum(entry.file_size for entry in entries)
            most = min(_MOST_BYTES, max(_PLAIN_BYTES, _MOST_RATIO * len(data)))
            if len(entries) > _MOST_ROIS or total > most:
                raise FormatError(
                    f"{where}: {len(data)} bytes announce {len(entries)} ROIs of {total} bytes; this is no zip of ROIs"
                )
            rois = []
            for entry in entries:
                with archive.open(entry) as stream:
                    content = stream.read(min(_MOST_OF_ONE, total) + 1)
                if len(content) > min(_MOST_OF_ONE, total):
                    raise FormatError(f"{where}, {entry.filename[:80]!r}: larger than it says, or than any ROI is")
                rois.append((entry.filename, read_roi(content, f"{where}, ROI {entry.filename[:80]!r}")))
            return _head(archive.comment, where), rois
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError) as error:
        raise FormatError(f"{where}: the zip is damaged or of a variant that is not read: {error}") from error


def _passed_over(entry: zipfile.ZipInfo, where: str) -> bool:
    parts = entry.filename.replace("\\", "/").split("/")
    if ".." in parts or not parts[0] or ":" in parts[0]:
        raise FormatError(f"{where}: the entry {entry.filename[:80]!r} leaves its folder; this is no zip of ImageJ's")
    return entry.is_dir() or parts[0] == "__MACOSX"


def _head(comment: bytes, where: str) -> dict[str, Any]:
    if not comment.startswith(b'{"cellkit":'):
        return {}
    return _json.entry(_json.parse(comment, f"{where}, comment"), f"{where}, comment")


def _drawn(rois: list[tuple[str, Roi]], size: tuple[int, int], name: str) -> ObjectSet:
    names = [f"ROI {entry[:80]!r}" for entry, _ in rois]
    runs = [
        fill([[roi.rings] if roi.rings else [] for _, roi in rois], size, names, f"image {name!r}, ", even_odd=True)
    ]
    runs += [_oval(roi.oval, i, size) for i, (_, roi) in enumerate(rois) if roi.oval is not None]
    parts = [(r.starts, r.ends, r.owner) for r in runs]
    joined = merged(*(np.concatenate([part[k] for part in parts]) for k in range(3)))
    return ObjectSet.of_runs(joined, size, np.arange(1, len(rois) + 1), name)


def _oval(box: tuple[float, float, float, float], owner: int, size: tuple[int, int]) -> Runs:
    """Return the pixels whose centres lie in the ellipse that fills a box x, y, width, height."""
    height, width = size
    radius_x, radius_y = box[2] / 2, box[3] / 2
    x, y = box[0] + radius_x, box[1] + radius_y
    first = int(np.clip(np.floor(box[0]), 0, width))
    columns = np.arange(first, int(np.clip(np.ceil(box[0] + box[2]), first, width)))
    inside = 1 - ((columns + 0.5 - x) / radius_x) ** 2
    columns, inside = columns[inside >= 0], inside[inside >= 0]
    half = radius_y * np.sqrt(inside)
    top = np.clip(np.ceil(y - half - 0.5), 0, height).astype(np.int64)
    bottom = np.clip(np.floor(y + half - 0.5) + 1, 0, height).astype(np.int64)
    return merged(columns * height + top, columns * height + bottom, np.full(len(columns), owner))


def _ids(rois: list[tuple[str, Roi]]) -> tuple[np.ndarray, tuple[str, ...]]:
    texts = [roi.properties.get("label", roi.name) for _, roi in rois]
    numbers = [int(t) for t in texts if t.isascii() and t.isdecimal() and len(t) < 11 and 0 < int(t) < 2**31]
    if len(set(numbers)) == len(rois):
        return np.array(numbers, np.int64), ()
    notes = ("objects were numbered anew: their names are no different numbers",)
    return np.arange(1, len(rois) + 1, dtype=np.int64), notes


def _scores(rois: list[tuple[str, Roi]]) -> np.ndarray | None:
    texts = [roi.properties.get("score") for _, roi in rois]
    if not any(text is not None for text in texts):
        return None
    values = []
    for (entry, _), text in zip(rois, texts, strict=True):
        try:
            values.append(float(text or ""))
        except ValueError:
            raise FormatError(f"ROI {entry[:80]!r}: wanted a score, as others have; got {text!r}") from None
    return np.array(values)
