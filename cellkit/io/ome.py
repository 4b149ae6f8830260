"""What OME-XML says of a picture: pixel size, channel names, bit depth, and whether it spans several files."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from xml.etree import ElementTree

from cellkit.core.errors import ReadError
from cellkit.io.info import MAX_SAMPLES
from cellkit.io.pixelsize import micrometres

__all__ = ["Ome", "parse"]


@dataclass(frozen=True)
class Ome:
    """The first image of an OME-XML; `images` how many there are, `other_files` whether planes lie elsewhere."""

    channels: tuple[str, ...] = ()
    pixel_size: tuple[float, float] | None = None
    bits: int | None = None
    images: int = 0
    planes: int = 0
    other_files: bool = False


def parse(xml: str) -> Ome:
    """Read OME-XML. Raises `ReadError` where it is no XML or announces what no file holds."""
    try:
        root = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, ValueError) as error:
        raise ReadError(f"the OME-XML is damaged: {error}") from error
    images = [element for element in root if _tag(element) == "Image"]
    elsewhere = any(_tag(element) == "BinaryOnly" for element in root)
    uuids = {text for element in root.iter() if _tag(element) == "UUID" and (text := (element.text or "").strip())}
    own = root.get("UUID", "").strip()
    # Without a UUID of its own the one file that is named is this one.
    elsewhere |= bool(uuids - {own}) if own else len(uuids) > 1
    pixels = [[element for element in image if _tag(element) == "Pixels"] for image in images]
    if not pixels or not pixels[0]:
        return Ome(images=len(images), other_files=elsewhere)
    for group in pixels:
        for element in group:
            sizes = [_whole(element.get(f"Size{axis}")) for axis in "XYZCT"]
            if prod(sizes) > MAX_SAMPLES * 1024 or prod(sizes[2:]) > 10_000_000:
                raise ReadError(f"the OME-XML announces {' x '.join(map(str, sizes))} numbers (it is damaged)")
    first = pixels[0][0]
    channels = [element for element in first if _tag(element) == "Channel"]
    x = _size(first, "X")
    y = _size(first, "Y")
    return Ome(
        _names([element.get("Name", "").strip() for element in channels]),
        None if x is None or y is None else (y, x),
        _whole(first.get("SignificantBits")) or None,
        len(images),
        prod(_whole(first.get(f"Size{axis}")) for axis in "ZCT"),
        elsewhere,
    )


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _whole(text: str | None) -> int:
    try:
        return max(int(text or 0), 0)
    except ValueError:
        return 0


def _size(pixels: ElementTree.Element, axis: str) -> float | None:
    try:
        value = float(pixels.get(f"PhysicalSize{axis}", ""))
    except ValueError:
        return None
    return micrometres(value, pixels.get(f"PhysicalSize{axis}Unit", "µm"))


def _names(names: list[str]) -> tuple[str, ...]:
    """Return every channel's name; one without a name is called by its number, none at all where no one has."""
    if not any(names):
        return ()
    return tuple(name or f"channel{number}" for number, name in enumerate(names, 1))
