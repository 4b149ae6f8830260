"""Layouts whose truth is annotation files: Pascal VOC, BBBC041, COCO."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

import numpy as np

from cellkit.core.errors import FormatError, UsageError
from cellkit.io.datasets.listing import Listing, images_in, read_text
from cellkit.io.datasets.pairs import Dataset, Missing, Pair
from cellkit.io.datasets.truth import Annotated, BoxList, Truth
from cellkit.io.naming import Named, natural, split, unique

__all__ = ["fits_bbbc041", "fits_coco", "fits_voc", "read_bbbc041", "read_coco", "read_voc"]

_BAD = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)
"""What entries of another form than the format's lead to."""

_PART = re.compile("train|val|test", re.IGNORECASE)


def fits_voc(listing: Listing) -> bool:
    """Return whether there are .xml files in annotations/ or beside the images."""
    return bool(_xml(listing))


def _xml(listing: Listing) -> dict[str, Path]:
    if listing.only is not None:
        return {}
    folder = listing.sub("annotations")
    paths = sorted(folder.glob("*.xml")) if folder else [p for p in listing.files if p.suffix.lower() == ".xml"]
    return {path.stem: path for path in sorted(paths, key=lambda path: natural(path.name))}


def read_voc(listing: Listing) -> Dataset:
    """Read Pascal VOC. Its corners count from 1 and belong to the box, so x0 = xmin - 1 and x1 = xmax."""
    annotations = _xml(listing)
    folder = listing.sub("images", "JPEGImages") or listing.folder
    images = images_in(folder)
    parts = _image_sets(listing)
    parsed = {name: _voc_file(path) for name, path in annotations.items()}
    classes = sorted({name for found in parsed.values() if not isinstance(found, str) for name in found[1]})
    pairs, missing = [], []
    for name, path in annotations.items():
        found = parsed[name]
        if name not in images:
            missing.append(Missing(name, "image", f"looked in {folder.name}/"))
        elif isinstance(found, str):
            pairs.append(
                Pair(name, images[name], BoxList(path, np.zeros((0, 4)), fault=found), split=parts.get(name, ""))
            )
        else:
            xyxy, names, size, fields = found
            truth = BoxList(path, xyxy, tuple(map(classes.index, names)), _ids(names))
            pairs.append(Pair(name, images[name], truth, "", parts.get(name, ""), fields, size))
    missing += [Missing(name, "truth", "no .xml of its name") for name in images if name not in annotations]
    return Dataset(listing.folder, "", "boxes", tuple(pairs), tuple(classes), tuple(missing))


def _image_sets(listing: Listing) -> dict[str, str]:
    """Return the part of each image by ImageSets/Main: train, val or test."""
    parts: dict[str, str] = {}
    for part in ("train", "val", "test"):
        path = listing.folder / "ImageSets" / "Main" / f"{part}.txt"
        if path.is_file():
            parts |= {line.split()[0]: part for line in read_text(path).splitlines() if line.strip()}
    return parts


_Voc = tuple[np.ndarray, list[str], tuple[int, int] | None, dict[str, str]]


def _voc_file(path: Path) -> _Voc | str:
    """Return boxes, class names, announced size and fields of one file, or what is wrong with it."""
    text = read_text(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        return f"{path}: declares a document type or entities, which annotations have no need of"
    try:
        root = ElementTree.fromstring(text)
        size = tuple(int(float(root.findtext(f"size/{side}") or 0)) for side in ("height", "width"))
        boxes, names = [], []
        for entry in root.iter("object"):
            boxes.append([float(entry.findtext(f"bndbox/{c}") or "nan") for c in ("xmin", "ymin", "xmax", "ymax")])
            names.append((entry.findtext("name") or "").strip())
    except (ElementTree.ParseError, ValueError, OverflowError) as error:
        return f"{path}: is no sound Pascal VOC annotation: {error}"
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    # A corner of 0 is outside by the standard, but some programs write it and mean the edge.
    least = np.maximum(corners[:, :2] - 1, np.minimum(corners[:, :2], 0))
    # Equal corners are one pixel by the letter; programs write them for a click without a drag.
    greatest = np.where(corners[:, 2:] > corners[:, :2], corners[:, 2:], least + (corners[:, 2:] - corners[:, :2]))
    fields = {"source": root.findtext("source/database") or ""}
    known = (size[0], size[1]) if len(size) == 2 and min(size) > 0 else None
    return np.concatenate([least, greatest], axis=1), names, known, {k: v for k, v in fields.items() if v}


def _ids(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{i} ({name})" for i, name in enumerate(names, 1))


def fits_bbbc041(listing: Listing) -> bool:
    """Return whether a JSON file of it holds a list of images with objects."""
    return any(_is_bbbc041(document) for document in listing.documents.values())


def _is_bbbc041(document: Any) -> bool:
    return bool(
        isinstance(document, list)
        and document
        and isinstance(document[0], dict)
        and {"image", "objects"} <= set(document[0])
    )


def read_bbbc041(listing: Listing) -> Dataset:
    """Read the malaria data set's JSON: rows and columns of the corners, half-open, and a category."""
    found = []
    for path, document in listing.documents.items():
        if _is_bbbc041(document):
            entries = [_bbbc041_entry(path, i, entry) for i, entry in enumerate(document)]
            found.append((path, entries))
    classes = sorted({name for _, entries in found for entry in entries for name in entry["names"]})
    pairs, missing, notes = [], [], []
    for path, entries in found:
        places = _located(listing, path, [entry["pathname"] for entry in entries])
        if not any(places):
            notes.append(f"{path.name} describes {len(entries):,} images, none of which is here")
            continue
        for entry, place in zip(entries, places, strict=True):
            if place is None:
                missing.append(Missing(entry["pathname"], "image", f"{path.name} describes it"))
                continue
            truth = BoxList(path, entry["xyxy"], tuple(map(classes.index, entry["names"])), _ids(entry["names"]))
            pairs.append(Pair("", place, truth, "", _part(path.stem), entry["fields"], entry["size"]))
    return Dataset(listing.folder, "", "boxes", _named(pairs), tuple(classes), tuple(missing), tuple(notes))


def _bbbc041_entry(path: Path, number: int, entry: Any) -> dict[str, Any]:
    try:
        image, shape = entry["image"], entry["image"]["shape"]
        boxes, names = [], []
        for one in entry["objects"]:
            low, high = (one["bounding_box"][corner] for corner in ("minimum", "maximum"))
            boxes.append([float(low["c"]), float(low["r"]), float(high["c"]), float(high["r"])])
            names.append(str(one["category"]))
        return {
            "pathname": str(image["pathname"]),
            "size": (int(shape["r"]), int(shape["c"])),
            "xyxy": np.array(boxes, np.float64).reshape(-1, 4),
            "names": names,
            "fields": {"checksum": str(image["checksum"])} if "checksum" in image else {},
        }
    except _BAD as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise FormatError(f"{path}: entry {number + 1} is not of the form of BBBC041: {what}") from error


def fits_coco(listing: Listing) -> bool:
    """Return whether a JSON file of it is a COCO data set."""
    return any(_is_coco(document) for document in listing.documents.values())


def _is_coco(document: Any) -> bool:
    return isinstance(document, dict) and all(
        isinstance(document.get(key), list) for key in ("images", "annotations", "categories")
    )


def read_coco(listing: Listing) -> Dataset:
    """Read COCO data sets; the part is told by the file's name or folder. Crowds are no objects and are left out."""
    documents = {path: document for path, document in listing.documents.items() if _is_coco(document)}
    classes = _categories(documents)
    pairs, missing, notes = [], [], []
    masks = False
    taken: dict[Path, Path] = {}
    for path, document in documents.items():
        try:
            entries = list(_coco_entries(path, document, classes))
        except _BAD as error:
            what = f"an entry has no {error}" if isinstance(error, KeyError) else str(error)
            raise FormatError(f"{path}: is no sound COCO data set: {what}") from error
        places = _located(listing, path, [name for name, _, _ in entries])
        if not any(places):
            notes.append(f"{path.name} describes {len(entries):,} images, none of which is here")
            continue
        for (name, size, truth), place in zip(entries, places, strict=True):
            if place is None:
                missing.append(Missing(name, "image", f"{path.name} describes it"))
                continue
            if place in taken:
                raise UsageError(
                    f"{path} and {taken[place]} both describe {place.name}; give the file that is meant instead of "
                    "the folder"
                )
            taken[place] = path
            masks |= isinstance(truth, Annotated)
            pairs.append(Pair("", place, truth, "", _part(path.stem) or _part(path.parent.name), {}, size))
    kind = "instances" if masks else "boxes"
    return Dataset(listing.folder, "", kind, _named(pairs), tuple(classes), tuple(missing), tuple(notes))


def _categories(documents: Mapping[Path, Any]) -> list[str]:
    """Return the class names of all files, in the order of their numbers."""
    names: dict[str, Any] = {}
    for path, document in documents.items():
        for entry in document["categories"]:
            if not isinstance(entry, dict) or not isinstance(entry.get("id"), int):
                raise FormatError(f"{path}: wanted categories with an id and a name, got {entry!r:.80}")
            names.setdefault(str(entry.get("name", entry["id"])), entry["id"])
    return sorted(names, key=names.__getitem__)


_Entry = tuple[str, "tuple[int, int] | None", Truth]


def _coco_entries(path: Path, document: Any, classes: list[str]) -> Iterator[_Entry]:
    """Yield file name, announced size and truth of each image. Masks count where every object has one."""
    names = {entry["id"]: str(entry.get("name", entry["id"])) for entry in document["categories"]}
    own: dict[Any, list[Any]] = {}
    for entry in document["annotations"]:
        listed = own.setdefault(entry["image_id"], [])
        if not entry.get("iscrowd"):
            listed.append(entry)
    objects = [entry for listed in own.values() for entry in listed]
    masks = bool(objects) and all(entry.get("segmentation") for entry in objects)
    for image in document["images"]:
        listed = own.pop(image["id"], [])
        xyxy = np.array([_corners(entry) for entry in listed], np.float64).reshape(-1, 4)
        labels = [names[entry["category_id"]] for entry in listed]
        ids = tuple(f"{entry.get('id')} ({label})" for entry, label in zip(listed, labels, strict=True))
        numbers = tuple(map(classes.index, labels))
        truth = BoxList(path, xyxy, numbers, ids)
        if masks:
            categories = document["categories"]
            truth = Annotated(path, xyxy, numbers, ids, image=image, annotations=listed, categories=categories)
        height, width = image.get("height"), image.get("width")
        yield str(image["file_name"]), (int(height), int(width)) if height and width else None, truth
    if own:
        raise ValueError(f"annotations of image {next(iter(own))!r}, which `images` does not list")


def _corners(entry: Mapping[str, Any]) -> list[float]:
    if entry.get("bbox") is None and entry.get("segmentation"):
        points = [value for part in entry["segmentation"] for value in part] if _polygons(entry) else []
        if not points:
            raise ValueError(f"annotation {entry.get('id')} has no bbox")
        return [min(points[0::2]), min(points[1::2]), max(points[0::2]), max(points[1::2])]
    x, y, width, height = (float(value) for value in entry["bbox"])
    return [x, y, x + width, y + height]


def _polygons(entry: Mapping[str, Any]) -> bool:
    return isinstance(entry["segmentation"], list)


def _part(name: str) -> str:
    found = _PART.search(name)
    return found[0].lower() if found else ""


def _located(listing: Listing, path: Path, names: Sequence[str]) -> list[Path | None]:
    """Return where each image that `path` names lies, None where it is not there."""
    # Beside the annotations, in images/, and in a folder that is called as the part: instances_train2017, train2017/.
    last = path.stem.rpartition("_")[2]
    root, own = listing.folder, path.parent
    roots = [own, root, root / "images", root / last, root / "images" / last]
    if own != root or listing.only is not None:
        roots += [own / "images", own.parent, own.parent / "images", own.parent / last, own.parent / "images" / last]
    known: dict[Path, frozenset[str]] = {}
    return [_locate(name, list(dict.fromkeys(roots)), known, path) for name in names]


def _locate(name: str, roots: Sequence[Path], known: dict[Path, frozenset[str]], source: Path) -> Path | None:
    relative = PurePosixPath(str(name).replace("\\", "/").lstrip("/"))
    if ".." in relative.parts or ":" in str(relative):
        raise FormatError(f"{source}: names the image {name!r}, which may lie outside the data set")
    for root in roots:
        place = root / relative
        if place.parent not in known:
            known[place.parent] = _names_in(place.parent)
        if place.name in known[place.parent]:
            return place
    return None


def _names_in(folder: Path) -> frozenset[str]:
    try:
        return frozenset(path.name for path in folder.iterdir())
    except (OSError, ValueError):  # no such folder, or no name that a folder can have
        return frozenset()


def _named(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """Return the pairs with names of their own, in natural order."""
    parts = [Named(split(p.image)[0], p.image.parent.parts[-2:], split(p.image)[1].lstrip(".")) for p in pairs]
    named = [replace(pair, name=name) for pair, name in zip(pairs, unique(parts), strict=True)]
    return tuple(sorted(named, key=lambda pair: natural(pair.name)))
