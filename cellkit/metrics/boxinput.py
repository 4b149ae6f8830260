"""COCO-style truth and results, checked and made plain, so that what reaches the evaluator's C code is sound."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from cellkit.core.errors import FormatError, UsageError

__all__ = ["Input", "IouType", "checked"]

IouType = Literal["bbox", "segm"]

_MOST_PIXELS = 2**32 - 1  # COCO run lengths are 32-bit


@dataclass(frozen=True)
class Input:
    """What is evaluated, numbered anew from 1: image, class and annotation ids.

    `images` and `classes` hold the names in the order of the new ids; `truth` and `results` annotations with `id`,
    `image_id`, `category_id`, `bbox`, `area`, `iscrowd`, and `segmentation` (RLE) or `score` where they have one.
    """

    images: list[str]
    image_ids: list[Any]
    sizes: list[tuple[int, int]]
    classes: list[str]
    class_ids: list[Any]
    truth: list[dict[str, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)


def checked(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], iou_type: IouType) -> Input:
    """Return `truth`, a COCO data set, and `results`, a COCO result list, as an `Input`.

    Raises `UsageError` where results have no scores or belong to no image or class of the truth, `FormatError` where
    an entry is damaged.
    """
    if isinstance(results, (Mapping, str, bytes)):
        raise UsageError("results: wanted a COCO result list, one entry an object with its score; got a data set")
    if iou_type not in ("bbox", "segm"):
        raise UsageError(f"iou_type: wanted 'bbox' or 'segm', got {iou_type!r}")
    images, names, sizes = _images(truth)
    classes, class_names = _classes(truth)
    given = Input(names, list(images), sizes, class_names, list(classes))
    for i, entry in enumerate(_list(truth, "annotations")):
        where = f"truth annotation {i + 1}"
        made = _plain(entry, where, given, images, classes, iou_type)
        made["iscrowd"] = int(bool(entry.get("iscrowd", 0)))
        if entry.get("area") is not None:
            made["area"] = _number(entry["area"], f"{where}: area")
        given.truth.append(made)
    for i, entry in enumerate(results):
        where = f"result {i + 1}"
        made = _plain(entry, where, given, images, classes, iou_type)
        made["score"] = _score(entry, where)
        made["iscrowd"] = 0
        given.results.append(made)
    for side in (given.truth, given.results):
        for i, made in enumerate(side):
            made["id"] = i + 1  # the evaluators take an id of 0 for "not matched"
    return given


def _list(document: Mapping[str, Any], key: str) -> Sequence[Any]:
    value = document.get(key) if isinstance(document, Mapping) else None
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise FormatError(f"truth: wanted a COCO data set with a list of {key!r}, got {type(value).__name__}")
    return value


def _images(truth: Mapping[str, Any]) -> tuple[dict[Any, int], list[str], list[tuple[int, int]]]:
    ids: dict[Any, int] = {}
    names, sizes = [], []
    for i, image in enumerate(_list(truth, "images")):
        where = f"truth image {i + 1}"
        key = _key(image, "id", where)
        if key in ids:
            raise FormatError(f"{where}: id {key!r} occurs twice; wanted one entry an image")
        ids[key] = len(ids) + 1
        names.append(str(image.get("file_name", key)))
        height, width = (image.get(side) or 0 for side in ("height", "width"))
        if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in (height, width)):
            raise FormatError(f"{where}: wanted height and width as whole numbers, got {height!r} and {width!r}")
        sizes.append((height, width))
    return ids, names, sizes


def _classes(truth: Mapping[str, Any]) -> tuple[dict[Any, int], list[str]]:
    entries = []
    for i, entry in enumerate(_list(truth, "categories")):
        where = f"truth category {i + 1}"
        entries.append((_key(entry, "id", where), str(entry.get("name", entry["id"]))))
    if all(isinstance(key, int) for key, _ in entries):
        entries.sort()
    ids: dict[Any, int] = {}
    for key, name in entries:
        if key in ids:
            raise FormatError(f"truth category {name!r}: id {key!r} occurs twice")
        ids[key] = len(ids) + 1
    return ids, [name for _, name in entries]


def _key(entry: Any, name: str, where: str) -> Any:
    if not isinstance(entry, Mapping) or not isinstance(entry.get(name), (int, str)):
        given = entry.get(name) if isinstance(entry, Mapping) else entry
        raise FormatError(f"{where}: wanted an entry with {name!r}, a whole number or text; got {given!r}")
    return entry[name]


def _plain(
    entry: Any, where: str, given: Input, images: Mapping[Any, int], classes: Mapping[Any, int], iou_type: IouType
) -> dict[str, Any]:
    image, category = (_key(entry, name, where) for name in ("image_id", "category_id"))
    if image not in images:
        raise UsageError(f"{where}: the truth has no image of id {image!r} (is it the truth of other images?)")
    if category not in classes:
        raise UsageError(
            f"{where}: the truth has no class of id {category!r}; it has {_some(f'{c!r}' for c in classes)}"
        )
    number = images[image]
    where = f"{where}, image {given.images[number - 1]!r}"
    made: dict[str, Any] = {"image_id": number, "category_id": classes[category]}
    bbox, segmentation = entry.get("bbox"), entry.get("segmentation")
    if iou_type == "segm" and not segmentation:
        raise UsageError(f"{where}: has no segmentation; boxes are compared with iou_type 'bbox'")
    if iou_type == "segm" or not bbox:
        if not segmentation:
            raise FormatError(f"{where}: has neither bbox nor segmentation")
        rle = _rle(segmentation, given.sizes[number - 1], where)
        made |= _measured(rle)
        if iou_type == "segm":
            made["segmentation"] = rle
    else:
        made["bbox"] = _box(bbox, where)
        made["area"] = made["bbox"][2] * made["bbox"][3]
    return made


def _some(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")


def _number(value: Any, where: str) -> float:
    if isinstance(value, (bool, str)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise FormatError(f"{where}: wanted a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise FormatError(f"{where}: wanted a finite number, got {number}")
    return number


def _score(entry: Mapping[str, Any], where: str) -> float:
    if entry.get("score") is None:
        raise UsageError(
            f"{where}: has no score. AP ranks objects by score, so objects without scores have no AP; score them by "
            "their overlap instead (the protocols for instances)"
        )
    return _number(entry["score"], f"{where}: score")


def _box(bbox: Any, where: str) -> list[float]:
    if isinstance(bbox, (str, bytes)) or not isinstance(bbox, (Sequence, np.ndarray)) or len(bbox) != 4:
        raise FormatError(f"{where}: wanted a bbox [x, y, width, height], got {bbox!r}")
    box = [_number(value, f"{where}: bbox") for value in bbox]
    if box[2] < 0 or box[3] < 0:
        raise FormatError(f"{where}: the bbox has a negative width or height: {box} (wanted x, y, width, height)")
    return box


def _measured(rle: dict[str, Any]) -> dict[str, Any]:
    from faster_coco_eval import mask

    return {"area": float(mask.area([rle])[0]), "bbox": [float(v) for v in mask.toBbox([rle])[0]]}


def _rle(segmentation: Any, size: tuple[int, int], where: str) -> dict[str, Any]:
    """Return a segmentation (polygons, plain or compressed RLE) as compressed RLE of the image's size."""
    from faster_coco_eval import mask

    height, width = size
    if not 0 < height * width <= _MOST_PIXELS:
        raise FormatError(f"{where}: masks need the height and width of their image; the truth says {height} x {width}")
    if isinstance(segmentation, Mapping):
        announced = segmentation.get("size")
        if not isinstance(announced, (list, tuple)) or tuple(announced) != (height, width):
            raise FormatError(f"{where}: the RLE is of size {announced!r}, but the image is [{height}, {width}]")
        counts = segmentation.get("counts")
        runs = _runs(counts, where) if isinstance(counts, (str, bytes)) else _plain_runs(counts, where)
        if runs.sum() != height * width:
            raise FormatError(
                f"{where}: the RLE covers {runs.sum()} pixels, but the image has {height} x {width} = {height * width}"
            )
        return dict(mask.frPyObjects([{"size": [height, width], "counts": runs.tolist()}], height, width)[0])
    polygons = [_polygon(p, size, where) for p in segmentation] if isinstance(segmentation, (list, tuple)) else []
    if not polygons:
        raise FormatError(f"{where}: wanted a segmentation as RLE or a list of polygons, got {segmentation!r:.80}")
    return dict(mask.merge(mask.frPyObjects(polygons, height, width)))


def _polygon(points: Any, size: tuple[int, int], where: str) -> list[float]:
    flat = points if isinstance(points, (list, tuple)) else []
    if len(flat) < 6 or len(flat) % 2:
        raise FormatError(f"{where}: wanted polygons as [x1, y1, x2, y2, x3, y3, ...], got {points!r:.80}")
    numbers = [_number(value, f"{where}: polygon") for value in flat]
    for values, length in ((numbers[0::2], size[1]), (numbers[1::2], size[0])):
        # The evaluator's memory grows with the outline, also where it lies outside the image.
        if min(values) < -length or max(values) > 2 * length:
            raise FormatError(f"{where}: a polygon runs from {min(values):g} to {max(values):g} in {length} px")
    return numbers


def _plain_runs(counts: Any, where: str) -> np.ndarray:
    if not isinstance(counts, (list, tuple)) or not all(type(n) is int and 0 <= n <= _MOST_PIXELS for n in counts):
        raise FormatError(f"{where}: wanted RLE counts as text or a list of whole numbers from 0 up")
    return np.array(counts, np.int64)


def _runs(text: str | bytes, where: str) -> np.ndarray:
    """Return the run lengths, int64, that a compressed COCO RLE stands for."""
    data = np.frombuffer(text.encode("latin-1", "replace") if isinstance(text, str) else text, np.uint8)
    bits = data.astype(np.int64) - 48
    ends = np.flatnonzero((bits & 0x20) == 0)
    if ((bits < 0) | (bits > 63)).any() or (len(data) and (not len(ends) or ends[-1] != len(data) - 1)):
        raise FormatError(f"{where}: the RLE text is damaged: {bytes(data[:40])!r}")
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else np.zeros(0, np.int64)
    if len(ends) and int((ends - starts).max()) > 7:
        raise FormatError(f"{where}: the RLE text holds a number of more than 32 bits")
    place = np.arange(len(data)) - np.repeat(starts, ends - starts + 1)
    values = np.add.reduceat((bits & 0x1F) << (5 * place), starts) if len(ends) else np.zeros(0, np.int64)
    negative = (bits[ends] & 0x10) != 0
    values = values - (negative.astype(np.int64) << (5 * (ends - starts + 1)))
    # From the fourth on, each number is the difference to the one two before it.
    runs = values.copy()
    if len(runs) > 3:
        runs[1::2] = np.cumsum(values[1::2])
        runs[2::2] = np.cumsum(values[2::2])
    bad = runs[(runs < 0) | (runs > _MOST_PIXELS)]
    if len(bad):
        raise FormatError(f"{where}: the RLE text is damaged: it holds a run of {bad[0]} pixels")
    return runs
