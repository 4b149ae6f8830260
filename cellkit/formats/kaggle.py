"""Kaggle submission files: a CSV of ``ImageId,EncodedPixels``, one row an object, an empty one for an image without."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from cellkit.core.errors import FormatError
from cellkit.formats import rle
from cellkit.formats._runs import merged
from cellkit.formats.objects import ObjectSet

__all__ = ["HEADER", "check_submission", "decode", "encode", "rows"]

HEADER = "ImageId,EncodedPixels"
_CELL = re.compile(r'(?:"((?:[^"]|"")*)"|([^",]*))(,|$)')
_SHOWN = 5


def encode(objects: ObjectSet) -> Iterator[str]:
    """Yield the rows of one image, without the header. Raises `FormatError` where objects overlap or have no masks."""
    if objects.runs is None:
        raise FormatError(f"image {objects.name!r}: its objects are boxes without masks; RLE needs masks")
    shared = objects.overlap()
    if shared:
        raise FormatError(f"image {objects.name!r}: {shared}; a submission has no pixel in two masks")
    name = objects.name
    if name.splitlines() != [name]:
        raise FormatError(f"image {name!r}: a submission cannot hold this name")
    if '"' in name or "," in name:
        name = '"' + name.replace('"', '""') + '"'
    numbers = np.stack([objects.runs.starts + 1, objects.runs.ends - objects.runs.starts], axis=1).ravel()
    ends = 2 * np.searchsorted(objects.runs.owner, np.arange(len(objects)), "right")
    words = list(map(str, numbers.tolist()))
    texts = [" ".join(words[a:b]) for a, b in zip([0, *ends.tolist()], ends.tolist(), strict=False)]
    for text in [text for text in texts if text] or [""]:
        yield f"{name},{text}\n"


def rows(text: str, name: str = "submission") -> dict[str, list[tuple[int, str]]]:
    """Return the encoded masks of each image with the lines they stand in, images by first appearance.

    `name` says in messages which file it is. Other columns than the two are passed over. Raises `FormatError` for a
    missing column and for lines of another number of cells.
    """
    lines = text.removeprefix("\ufeff").splitlines()
    header = _cells(lines[0], f"{name}, line 1") if lines else []
    if not {"ImageId", "EncodedPixels"} <= set(header) or len(set(header)) != len(header):
        raise FormatError(f"{name}: wanted the header {HEADER}, got {','.join(header)[:80]!r}")
    image_at, code_at = header.index("ImageId"), header.index("EncodedPixels")
    found: dict[str, list[tuple[int, str]]] = {}
    for number, line in enumerate(lines[1:], 2):
        if not line:
            continue
        cells = _cells(line, f"{name}, line {number}")
        if len(cells) != len(header):
            raise FormatError(f"{name}, line {number}: wanted {len(header)} cells, got {len(cells)}")
        if not cells[image_at]:
            raise FormatError(f"{name}, line {number}: the ImageId is empty")
        found.setdefault(cells[image_at], []).append((number, cells[code_at].strip()))
    return found


def decode(text: str, sizes: Mapping[str, tuple[int, int]], name: str = "submission") -> list[ObjectSet]:
    """Return the objects of every image of a submission; `sizes` gives each one's (height, width).

    Raises `FormatError` for damaged rows, images without a size, and masks that share pixels.
    """
    return [_decoded(image, given, sizes, name) for image, given in rows(text, name).items()]


def check_submission(text: str, sizes: Mapping[str, tuple[int, int]]) -> list[str]:
    """Return every fault of a submission for the images of `sizes`; an empty list where it can be handed in.

    Faults are: images that are missing, unknown, or both empty and not; masks that are damaged, leave their image, or
    share a pixel with another of their image.
    """
    try:
        given = rows(text)
    except FormatError as error:
        return [str(error)]
    faults = []
    missing = [image for image in sizes if image not in given]
    if missing:
        faults.append(
            f"{len(missing)} of {len(sizes)} images are missing: {_some(missing)} "
            "(an image without objects needs an empty row)"
        )
    unknown = [image for image in given if image not in sizes]
    if unknown:
        faults.append(f"{len(unknown)} images are unknown: {_some(unknown)}")
    for image, codes in given.items():
        if image in sizes:
            try:
                _decoded(image, codes, sizes, "submission")
            except FormatError as error:
                faults.append(str(error))
    return faults


def _decoded(image: str, given: list[tuple[int, str]], sizes: Mapping[str, tuple[int, int]], name: str) -> ObjectSet:
    if image not in sizes:
        raise FormatError(f"{name}: the size of image {image!r} is not known; is its image there?")
    empty = [line for line, code in given if not code]
    if empty and len(given) > 1:
        raise FormatError(f"image {image!r}: line {empty[0]} says it has no objects, but it has {len(given)} lines")
    texts = [code for _, code in given if code]
    starts, ends, owner = rle.decode_runs(texts, sizes[image], name=image)
    made = ObjectSet.of_runs(merged(starts, ends, owner), sizes[image], np.arange(1, len(texts) + 1), image)
    shared = made.overlap()
    if shared:
        raise FormatError(f"image {image!r}: {shared}; a submission has no pixel in two masks")
    return made


def _cells(line: str, where: str) -> list[str]:
    if '"' not in line:
        return line.split(",")
    cells, at = [], 0
    while True:
        match = _CELL.match(line, at)
        if match is None:
            raise FormatError(f"{where}: a quotation mark in the wrong place")
        cells.append(match[1].replace('""', '"') if match[1] is not None else match[2])
        at = match.end()
        if not match[3]:
            return cells


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")
