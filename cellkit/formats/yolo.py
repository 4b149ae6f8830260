"""YOLO boxes: a line ``class x y width height`` an object, centre and size as shares of the image, maybe a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cellkit.core.errors import FormatError
from cellkit.formats.objects import ObjectSet, named

__all__ = ["decode", "encode"]

_DECIMALS = 6  # of a pixel, when read: far below what boxes mean, far above what the division lost
_TOLERANCE = 1e-4


def encode(objects: ObjectSet, numbers: Mapping[str, int]) -> str:
    """Return one image's boxes as text; `numbers` maps class names to numbers from 0."""
    height, width = objects.size
    lines = []
    for i, (x0, y0, x1, y1) in enumerate(objects.boxes.tolist()):
        name = objects.classes[i] if objects.classes is not None else ""
        if name not in numbers:
            raise FormatError(f"image {objects.name!r}, object {objects.ids[i]}: class {name!r} has no number")
        values = [(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height]
        values += [] if objects.scores is None else [float(objects.scores[i])]
        lines.append(f"{numbers[name]} {' '.join(map(repr, values))}\n")
    return "".join(lines)


def decode(text: str, size: tuple[int, int], *, names: Sequence[str] = (), name: str = "image") -> ObjectSet:
    """Return one image's objects, boxes without masks; `names` are those of the classes, else their numbers are.

    Boxes are rounded to a millionth of a pixel. Raises `FormatError` for lines of other than 5 or 6 numbers (outlines
    of YOLO segmentation among them) and boxes outside the image.
    """
    boxes: list[list[float]] = []
    classes: list[str] = []
    scores: list[float | None] = []
    height, width = size
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        where = f"image {name!r}, line {number}"
        values = _numbers(words, where)
        if scores and len(words) - 5 != (scores[-1] is not None):
            raise FormatError(f"{where}: {'no score' if len(words) == 5 else 'a score'}, unlike the lines before")
        label, (x, y, w, h) = int(values[0]), values[1:5]
        if label != values[0] or label < 0 or (names and label >= len(names)):
            known = f"0 to {len(names) - 1}" if names else "0 or more"
            raise FormatError(f"{where}: wanted a class number of {known}, got {words[0][:20]}")
        box = [(x - w / 2), (y - h / 2), (x + w / 2), (y + h / 2)]
        if w < 0 or h < 0 or min(box) < -_TOLERANCE or max(box) > 1 + _TOLERANCE:
            raise FormatError(f"{where}: the box leaves the image; wanted centre and size as shares of it, 0 to 1")
        boxes.append([box[0] * width, box[1] * height, box[2] * width, box[3] * height])
        classes.append(names[label] if names else str(label))
        scores.append(values[5] if len(values) > 5 else None)
    made = ObjectSet.of_boxes(np.round(np.array(boxes).reshape(-1, 4), _DECIMALS), size, name)
    return made.with_(
        classes=named(classes),
        scores=np.array(scores, np.float64) if scores and scores[0] is not None else None,
        categories={label: i + 1 for i, label in enumerate(names)},
    )


def _numbers(words: list[str], where: str) -> list[float]:
    if len(words) not in (5, 6):
        what = " (outlines are not read: convert them from their source)" if len(words) > 6 else ""
        raise FormatError(f"{where}: wanted class x y width height, maybe a score; got {len(words)} words{what}")
    try:
        values = [float(word) for word in words]
    except ValueError:
        raise FormatError(f"{where}: wanted numbers, got {' '.join(words)[:60]!r}") from None
    if not all(-1e9 < value < 1e9 for value in values):
        raise FormatError(f"{where}: wanted finite numbers, got {' '.join(words)[:60]!r}")
    return values
