"""Pascal VOC boxes: an XML file an image. Pixels are counted from 1 and both ends belong to the box.

Source: the VOC2012 development kit; detectron2/data/datasets/pascal_voc.py for the offset.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat
from xml.sax.saxutils import escape

import numpy as np

from cellkit.core.errors import FormatError
from cellkit.formats.coco import stem
from cellkit.formats.objects import UNNAMED, ObjectSet, named

__all__ = ["decode", "encode"]

_DEEPEST = 32
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def encode(objects: ObjectSet) -> str:
    """Return one image's boxes as XML; scores stand in an element of their own, which other programs pass over."""
    height, width = objects.size
    lines = [
        "<annotation>",
        f"  <filename>{_text(objects.file_name or objects.name, objects.name)}</filename>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
        "  <segmented>0</segmented>",
    ]
    for i, (x0, y0, x1, y1) in enumerate(objects.boxes.tolist()):
        name = objects.classes[i] if objects.classes is not None and objects.classes[i] else UNNAMED
        values = (x0 + 1, y0 + 1, x1, y1)
        corners = "".join(f"<{tag}>{_number(v)}</{tag}>" for tag, v in zip(_CORNERS, values, strict=True))
        score = f"<score>{float(objects.scores[i])!r}</score>" if objects.scores is not None else ""
        lines.append(
            f"  <object><name>{_text(name, objects.name)}</name><pose>Unspecified</pose><truncated>0</truncated>"
            f"<difficult>0</difficult>{score}<bndbox>{corners}</bndbox></object>"
        )
    return "\n".join([*lines, "</annotation>\n"])


def decode(data: str | bytes, *, name: str = "") -> ObjectSet:
    """Return one image's objects, boxes without masks, numbered in the order of the file.

    Raises `FormatError` for XML that is damaged, declares a document type or entities, or lacks what a box needs.
    """
    root = _parse(data, name or "VOC annotation")
    file_name = (root.findtext("filename") or "").strip()
    name = name or stem(file_name) or "image"
    where = f"image {name!r}"
    if root.tag != "annotation":
        raise FormatError(f"{where}: wanted <annotation> of Pascal VOC, got <{root.tag[:40]}>")
    size = _side(root, "height", where), _side(root, "width", where)
    boxes, classes, scores = [], [], []
    for i, element in enumerate(root.findall("object"), 1):
        label = (element.findtext("name") or "").strip()
        if not label:
            raise FormatError(f"{where}, object {i}: no <name>")
        boxes.append(_box(element, f"{where}, object {i}, {label!r}"))
        classes.append(label)
        score = element.findtext("score")
        scores.append(None if score is None else _value(score, f"{where}, object {i}, <score>"))
    if any(s is None for s in scores) and any(s is not None for s in scores):
        raise FormatError(f"{where}, object {scores.index(None) + 1}: has no <score>, others have")
    made = ObjectSet.of_boxes(np.array(boxes).reshape(-1, 4), size, name)
    given = np.array(scores, np.float64) if scores and scores[0] is not None else None
    return made.with_(classes=named(classes), scores=given, file_name=file_name)


def _box(element: Element, where: str) -> list[float]:
    found = element.find("bndbox")
    if found is None:
        raise FormatError(f"{where}: no <bndbox>")
    x0, y0, x1, y1 = (_value(found.findtext(tag), f"{where}, <{tag}>") for tag in _CORNERS)
    if x1 <= x0 - 1 or y1 <= y0 - 1:
        raise FormatError(f"{where}: the box ends before it begins: x {x0:g} to {x1:g}, y {y0:g} to {y1:g}")
    return [x0 - 1, y0 - 1, x1, y1]


def _side(root: Element, tag: str, where: str) -> int:
    value = _value(root.findtext(f"size/{tag}"), f"{where}, <{tag}>")
    if value < 1 or value != int(value):
        raise FormatError(f"{where}, <{tag}>: wanted a whole number of pixels, got {value:g}")
    return int(value)


def _value(text: str | None, where: str) -> float:
    try:
        value = float((text or "").strip())
    except ValueError:
        value = float("nan")
    if not -1e9 < value < 1e9:
        raise FormatError(f"{where}: wanted a number, got {(text or '')[:40]!r}")
    return value


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _text(text: str, image: str) -> str:
    if any(ord(c) < 32 or 0xD800 <= ord(c) <= 0xDFFF or ord(c) in (0xFFFE, 0xFFFF) for c in text):
        raise FormatError(f"image {image!r}: XML cannot hold the name {text!r}")
    return escape(text)


def _parse(data: str | bytes, where: str) -> Element:
    """Return the root of XML that declares nothing: without entities of its own, text cannot grow when read."""
    builder = TreeBuilder()
    depth = 0

    def refuse(*_: object) -> int:
        raise FormatError(f"{where}: the XML declares a document type or entities, which annotations do not need")

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise FormatError(f"{where}: the XML nests more than {_DEEPEST} deep")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = parser.ExternalEntityRefHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise FormatError(f"{where}: no valid XML: {error}") from error
    except (UnicodeError, ValueError) as error:
        raise FormatError(f"{where}: no valid XML: {error}") from error
    return builder.close()
