"""COCO JSON: data sets and results, with masks as RLE (compressed or plain) or polygons, or boxes alone.

Written are compressed RLE, and beside what COCO defines: ``pixel_size_um`` (y, x) of an image, ``label``, an object's
number where it is not the annotation's id, and, only for images too large for 32-bit counts, ``offset``: the (row,
column) of a cropped ``segmentation``.

Source: cocodataset.org/#format-data and #format-results; pycocotools.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PureWindowsPath
from typing import Any

import numpy as np

from cellkit.core.errors import FormatError
from cellkit.formats import _json
from cellkit.formats._json import dumps
from cellkit.formats._runs import runs_of
from cellkit.formats._segmentation import Named, masks_of
from cellkit.formats.coco_rle import MAX_COUNT, encode_runs
from cellkit.formats.objects import UNNAMED, ObjectSet, Runs, check_size, named

__all__ = [
    "Numbering",
    "decode_dataset",
    "decode_results",
    "document",
    "dumps",
    "encode_dataset",
    "encode_results",
    "entries",
    "results_document",
    "stem",
]


class _Taken:
    """Numbers given out, as ranges: a billion in a row take no more memory than one."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.stops: list[int] = []

    def take(self, wanted: int | None) -> int:
        """Return `wanted` where it is free, else the least free number from 1."""
        at = -1 if wanted is None else bisect_right(self.starts, wanted) - 1
        if wanted is None or (at >= 0 and wanted < self.stops[at]):
            wanted = self.stops[0] if self.starts and self.starts[0] <= 1 else 1
            at = bisect_right(self.starts, wanted) - 1
        if at >= 0 and self.stops[at] == wanted:
            self.stops[at] += 1
        else:
            at += 1
            self.starts.insert(at, wanted)
            self.stops.insert(at, wanted + 1)
        if at + 1 < len(self.starts) and self.stops[at] == self.starts[at + 1]:
            self.stops[at] = self.stops.pop(at + 1)
            self.starts.pop(at + 1)
        return wanted


@dataclass
class Numbering:
    """The numbers given out so far to images, annotations and categories of one file; those a source has are kept.

    `image` is the number of the last image.
    """

    images: _Taken = field(default_factory=_Taken)
    annotations: _Taken = field(default_factory=_Taken)
    categories: dict[str, int] = field(default_factory=dict)
    image: int = 0

    def category(self, name: str, known: Mapping[str, int]) -> int:
        """Return the number of a class."""
        name = name or UNNAMED
        if name not in self.categories:
            taken = set(self.categories.values())
            number = known.get(name) or (int(name) if name.isascii() and name.isdecimal() and len(name) < 10 else 0)
            if number in taken or number < 1:
                reserved = taken | set(known.values())
                number = next(n for n in range(1, len(reserved) + 2) if n not in reserved)
            self.categories[name] = number
        return self.categories[name]


def entries(objects: ObjectSet, numbering: Numbering, *, results: bool = False) -> tuple[dict[str, Any], Iterator[str]]:
    """Return one image's entry, and the JSON of each of its annotations (or `results`), numbered by `numbering`.

    Raises `FormatError` for results without scores.
    """
    if results and objects.scores is None and len(objects):
        raise FormatError(f"image {objects.name!r}: COCO results need a score for every object")
    number = numbering.image if objects.continued else numbering.images.take(objects.image_id)
    numbering.image = number
    height, width = objects.size
    file_name = objects.file_name or objects.name
    image: dict[str, Any] = {"id": number, "file_name": file_name, "height": height, "width": width}
    if objects.pixel_size is not None:
        image["pixel_size_um"] = list(objects.pixel_size)
    for name in objects.categories:
        numbering.category(name, objects.categories)
    lines = (dumps(a) for a in _annotations(objects, numbering, number, results))
    return image, lines


def encode_dataset(sets: Iterable[ObjectSet]) -> str:
    """Return a data set as one JSON text; the objects of each image are numbered on where their ids are taken."""
    numbering = Numbering()
    images: list[str] = []
    annotations: list[str] = []
    for objects in sets:
        image, lines = entries(objects, numbering)
        if not objects.continued:
            images.append(dumps(image))
        annotations.extend(lines)
    return "".join(document(images, annotations, numbering))


def encode_results(sets: Iterable[ObjectSet]) -> str:
    """Return results as one JSON text: a list of objects, each with its score."""
    numbering = Numbering()
    lines = [line for objects in sets for line in entries(objects, numbering, results=True)[1]]
    return "".join(results_document(lines))


def document(images: Iterable[str], annotations: Iterable[str], numbering: Numbering) -> Iterator[str]:
    """Yield the text of a data set from the JSON of its parts; `numbering` is read last."""
    yield '{"images":['
    yield from _joined(images)
    yield '],\n"annotations":['
    yield from _joined(annotations)
    named = sorted((number, name) for name, number in numbering.categories.items())
    yield '],\n"categories":['
    yield from _joined(dumps({"id": number, "name": name, "supercategory": ""}) for number, name in named)
    yield "]}\n"


def results_document(lines: Iterable[str]) -> Iterator[str]:
    """Yield the text of results from the JSON of its parts."""
    yield "["
    yield from _joined(lines)
    yield "]\n"


def _joined(lines: Iterable[str]) -> Iterator[str]:
    for i, line in enumerate(lines):
        yield f"{',' if i else ''}\n{line}"


def _annotations(objects: ObjectSet, numbering: Numbering, image: int, results: bool) -> Iterator[dict[str, Any]]:
    segmentations, areas = _segmentations(objects), objects.areas
    for i in range(len(objects)):
        x0, y0, x1, y1 = (_short(v) for v in objects.boxes[i].tolist())
        name = objects.classes[i] if objects.classes is not None else ""
        line: dict[str, Any] = {"image_id": image, "category_id": numbering.category(name, objects.categories)}
        own = int(objects.ids[i])
        if not results:
            line = {"id": numbering.annotations.take(own), **line}
        if segmentations is not None:
            line["segmentation"] = segmentations[i]
        line["bbox"] = [x0, y0, _short(x1 - x0), _short(y1 - y0)]
        if not results:
            line["area"] = _short(float(areas[i]))
            line["iscrowd"] = int(objects.crowd[i]) if objects.crowd is not None else 0
        if objects.scores is not None:
            line["score"] = float(objects.scores[i])
        if line.get("id") != own:
            line["label"] = own
        yield line


def _segmentations(objects: ObjectSet) -> list[dict[str, Any]] | None:
    if objects.runs is None:
        return None
    height, width = objects.size
    if height * width <= MAX_COUNT:
        texts = encode_runs(objects.runs, len(objects), objects.size)
        return [{"size": [height, width], "counts": text} for text in texts]
    return [_cropped(objects, i) for i in range(len(objects))]


def _cropped(objects: ObjectSet, index: int) -> dict[str, Any]:
    mask, (y, x) = objects.mask(index)
    starts, ends, _ = runs_of(mask.view(np.uint8))
    runs = Runs(starts, ends, np.zeros(len(starts), np.int64))
    size = (max(1, mask.shape[0]), max(1, mask.shape[1]))
    return {"size": list(size), "counts": encode_runs(runs, 1, size)[0], "offset": [y, x]}


def _short(value: float) -> float | int:
    """Return whole numbers without their fraction."""
    return int(value) if value == int(value) else value


def decode_dataset(text: str | bytes, name: str = "COCO JSON") -> list[ObjectSet]:
    """Return the objects of every image of a data set, in its order, those of an image in the order of the file.

    `name` says in messages which file it is. Raises `FormatError` for what breaks the format: parts that are missing,
    annotations of unknown images or categories, masks that do not fit their image.
    """
    document = _json.entry(_json.parse(text, name), name)
    categories = _categories(document.get("categories", []), name)
    images: dict[int, ObjectSet] = {}
    for i, value in enumerate(_json.listed(document.get("images"), f"{name}: images"), 1):
        image = _image(value, f"{name}: images, entry {i}", categories)
        if image.image_id in images:
            raise FormatError(f"{name}: two images have the id {image.image_id}")
        images[int(image.image_id or 0)] = image
    given = _json.listed(document.get("annotations", []), f"{name}: annotations")
    found = _by_image(given, f"{name}: annotations", images)
    names = {number: label for label, number in categories.items()}
    return [_filled(image, found.get(number, []), names, name) for number, image in images.items()]


def decode_results(
    text: str | bytes, images: Mapping[int, ObjectSet] | None = None, name: str = "COCO results"
) -> list[ObjectSet]:
    """Return results, a list of scored objects, as those of `images`: the data set they belong to, by image id.

    Its names, sizes, categories and pixel sizes are taken over, also for images without a result. Without it an image
    is called by its id, a class by its number, and sizes are those of the masks.
    """
    given = _json.listed(_json.parse(text, name), name)
    images = _images_of(given, name) if images is None else images
    found = _by_image(given, name, images)
    empty = {number: image.take([]).with_(scores=None, classes=None, crowd=None) for number, image in images.items()}
    names = {number: label for image in images.values() for label, number in image.categories.items()}
    return [_filled(image, found.get(number, []), names, name) for number, image in empty.items()]


def _images_of(given: list[Any], name: str) -> dict[int, ObjectSet]:
    """Return images without objects, as far as results tell of them."""
    found: dict[int, ObjectSet] = {}
    for i, value in enumerate(given, 1):
        where = f"{name}, entry {i}"
        line = _json.entry(value, where)
        number = _json.whole(line.get("image_id"), f"{where}, image_id")
        segmentation = line.get("segmentation")
        if number in found:
            continue
        if not isinstance(segmentation, dict) or "offset" in segmentation:
            raise FormatError(f"{where}: the image's size is not given; give the data set these results belong to")
        size = _json.sides(segmentation.get("size"), f"{where}, segmentation size")
        found[number] = ObjectSet.of_boxes(np.zeros((0, 4)), size, str(number)).with_(image_id=number)
    return found


def _categories(value: Any, name: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for i, one in enumerate(_json.listed(value, f"{name}: categories"), 1):
        where = f"{name}: categories, entry {i}"
        label = _json.entry(one, where).get("name")
        number = _json.whole(one.get("id"), f"{where}, id")
        label = label if isinstance(label, str) and label else str(number)
        if label in found or number in found.values():
            raise FormatError(f"{where}: {label!r} or its id {number} occurs twice")
        found[label] = number
    return found


def _image(value: Any, where: str, categories: Mapping[str, int]) -> ObjectSet:
    image = _json.entry(value, where)
    number = _json.whole(image.get("id"), f"{where}, id")
    file_name = image.get("file_name")
    file_name = file_name if isinstance(file_name, str) else ""
    size = _json.count(image.get("height"), f"{where}, height"), _json.count(image.get("width"), f"{where}, width")
    name = stem(file_name) or str(number)
    check_size(size, name)
    pixel_size = _json.pixel_size(image.get("pixel_size_um"), f"{where}, pixel_size_um")
    made = ObjectSet.of_boxes(np.zeros((0, 4)), size, name)
    return made.with_(image_id=number, file_name=file_name, categories=categories, pixel_size=pixel_size)


def stem(file_name: str) -> str:
    """Return a file's name without its folders, of any system, and without its suffix."""
    base = PureWindowsPath(file_name).name
    for suffix in (".ome.tif", ".ome.tiff"):
        if base.lower().endswith(suffix) and len(base) > len(suffix):
            return base[: -len(suffix)]
    return PureWindowsPath(base).stem


def _by_image(given: list[Any], where: str, images: Mapping[int, ObjectSet]) -> dict[int, list[Named]]:
    found: dict[int, list[Named]] = {}
    for i, value in enumerate(given, 1):
        line = _json.entry(value, f"{where}, entry {i}")
        number = _json.whole(line.get("image_id"), f"{where}, entry {i}, image_id")
        if number not in images:
            raise FormatError(f"{where}, entry {i}: there is no image with the id {number}")
        own = line.get("id")
        label = f"annotation {own}" if isinstance(own, int) else f"entry {i}"
        found.setdefault(number, []).append((f"image {images[number].name!r}, {label}", line))
    return found


def _filled(image: ObjectSet, lines: list[Named], names: Mapping[int, str], name: str) -> ObjectSet:
    if not lines:
        return image
    runs = masks_of(lines, image.size)
    boxes = _boxes(lines, runs, image.size)
    ids, notes = _ids(lines)
    crowd = np.array([line.get("iscrowd", 0) in (1, True) for _, line in lines])
    classes = []
    for where, line in lines:
        number = _json.whole(line.get("category_id", 1), f"{where}, category_id")
        if names and number not in names:
            raise FormatError(f"{where}: there is no category with the id {number} in {name}")
        classes.append(names.get(number, str(number)))
    return image.with_(
        ids=ids,
        boxes=boxes,
        runs=runs,
        classes=named(classes),
        scores=_scores(lines),
        crowd=crowd if crowd.any() else None,
        notes=notes,
    )


def _scores(lines: list[Named]) -> np.ndarray | None:
    missing = [where for where, line in lines if line.get("score") is None]
    if len(missing) == len(lines):
        return None
    if missing:
        raise FormatError(f"{missing[0]}: has no score, others of its image have")
    return np.array([_json.number(line["score"], f"{where}, score") for where, line in lines])


def _ids(lines: list[Named]) -> tuple[np.ndarray, tuple[str, ...]]:
    given = [line.get("label", line.get("id")) for _, line in lines]
    valid = [v for v in given if isinstance(v, int) and not isinstance(v, bool) and 0 < v < 2**31]
    if len(set(valid)) == len(lines):
        return np.array(valid, np.int64), ()
    notes = ("objects were numbered anew: their ids are missing, not positive or not different",)
    return np.arange(1, len(lines) + 1, dtype=np.int64), () if not any(given) else notes


def _boxes(lines: list[Named], runs: Runs | None, size: tuple[int, int]) -> np.ndarray:
    boxes = np.zeros((len(lines), 4)) if runs is None else runs.boxes(len(lines), size[0]).astype(np.float64)
    for i, (where, line) in enumerate(lines):
        if line.get("bbox") is None:
            if runs is None:
                raise FormatError(f"{where}: has neither a segmentation nor a bbox")
            continue
        box = _json.numbers(line["bbox"], f"{where}, bbox")
        if box.shape != (4,) or box[2] < 0 or box[3] < 0:
            raise FormatError(f"{where}, bbox: wanted [x, y, width, height], got {box.tolist()[:8]}")
        boxes[i] = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
    return boxes
