"""Layouts whose truth is pictures: DSB2018, GlaS, label images, class images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from cellkit.core.errors import UsageError
from cellkit.io.datasets.listing import Listing, by_stem, images_in, matched, one_of, read_csv
from cellkit.io.datasets.pairs import Dataset, Missing, Pair
from cellkit.io.datasets.truth import ClassFile, LabelFile, MaskFiles
from cellkit.io.naming import split
from cellkit.io.sources import find

__all__ = [
    "fits_darkfield",
    "fits_dsb2018",
    "fits_glas",
    "fits_labels",
    "fits_masks",
    "read_darkfield",
    "read_dsb2018",
    "read_glas",
    "read_labels_layout",
    "read_masks_layout",
]

DARKFIELD = ("background", "blood cell", "bacteria")
_ANNO = re.compile(r"(.+)_anno$")
_PARTS = ("part", "split")
_GROUPS = ("group", "patient", "patient ID", "field")  # the widest first: no split cuts it


def fits_dsb2018(listing: Listing) -> bool:
    """Return whether the first folder in it that has images/ holds one image of the folder's own name."""
    for name in listing.subfolders:
        images = listing.folder / name / "images"
        if images.is_dir():
            stems = [split(path)[0] for path in images.iterdir()]
            return stems == [name]
    return False


def read_dsb2018(listing: Listing) -> Dataset:
    """Read a folder for each image, with one mask file for each object."""
    pairs, missing = [], []
    for name in listing.subfolders:
        folder = listing.folder / name
        images = list(images_in(folder / "images").values()) if (folder / "images").is_dir() else []
        masks = folder / "masks"
        if len(images) != 1:
            missing.append(Missing(name, "image", f"{len(images)} images in {name}/images/, wanted one"))
        elif not masks.is_dir():
            missing.append(Missing(name, "truth", f"no folder {name}/masks/"))
        else:
            files = tuple(source.paths[0] for source in find([masks])) if any(masks.iterdir()) else ()
            pairs.append(Pair(name, images[0], MaskFiles(masks, files)))
    return Dataset(listing.folder, "", "instances", tuple(pairs), ("nucleus",), tuple(missing))


def fits_labels(listing: Listing) -> bool:
    """Return whether there are images/ and labels/."""
    return bool(listing.sub("images") and listing.sub("labels"))


def read_labels_layout(listing: Listing) -> Dataset:
    """Read images/ and labels/, with what split.csv or index.csv says of each image."""
    images, labels = _two(listing, "images", "labels")
    rows, notes = _table(listing, images)
    names, missing = matched(images, labels, listing.folder / "labels")
    pairs = []
    for name in names:
        row = rows.get(name, {})
        group, part = one_of(row, _GROUPS), one_of(row, _PARTS)
        pairs.append(Pair(name, images[name], LabelFile(labels[name]), group, part, row))
    return Dataset(listing.folder, "", "labels", tuple(pairs), (), tuple(missing), tuple(notes))


def fits_glas(listing: Listing) -> bool:
    """Return whether there is a NAME_anno image."""
    return any(path.suffix.lower() == ".bmp" and _ANNO.match(path.stem) for path in listing.files)


def read_glas(listing: Listing) -> Dataset:
    """Read images beside their NAME_anno.bmp, with patient and grade by Grade.csv; the part by the name."""
    every = by_stem(source.paths[0] for source in find([listing.folder]))
    labels = {found[1]: path for stem, path in every.items() if (found := _ANNO.match(stem))}
    images = {stem: path for stem, path in every.items() if not _ANNO.match(stem)}
    names, missing = matched(images, labels, listing.folder)
    grades = next((path for path in listing.files if path.name.lower() == "grade.csv"), None)
    rows = {row["name"]: row for row in read_csv(grades, "name")} if grades else {}
    notes = [] if grades else ["no Grade.csv: patients are not known, so no groups either"]
    pairs = []
    for name in names:
        row = {key: value for key, value in rows.get(name, {}).items() if key != "name"}
        part = name.partition("_")[0]
        group = one_of(row, _GROUPS)
        pairs.append(Pair(name, images[name], LabelFile(labels[name]), group, part, row))
    return Dataset(listing.folder, "", "labels", tuple(pairs), ("gland",), tuple(missing), tuple(notes))


def fits_darkfield(listing: Listing) -> bool:
    """Return whether there are images/ and masks/, and the masks have the names of the darkfield data set."""
    masks = listing.sub("masks")
    if not (listing.sub("images") and masks):
        return False
    stems = [split(path)[0] for path in masks.iterdir() if not path.name.startswith(".")]
    return bool(stems) and all(re.fullmatch("[0-9]{3}", stem) for stem in stems)


def read_darkfield(listing: Listing) -> Dataset:
    """Read images/ and masks/ of background, blood cells and bacteria; copies by duplicates.csv are one group."""
    return _class_images(listing, DARKFIELD)


def fits_masks(listing: Listing) -> bool:
    """Return whether there are images/ and masks/ of other names than those of the darkfield data set."""
    return bool(listing.sub("images") and listing.sub("masks")) and not fits_darkfield(listing)


def read_masks_layout(listing: Listing) -> Dataset:
    """Read images/ and masks/, class images whose classes have no names."""
    return _class_images(listing, ())


def _class_images(listing: Listing, classes: tuple[str, ...]) -> Dataset:
    images, masks = _two(listing, "images", "masks")
    names, missing = matched(images, masks, listing.folder / "masks")
    rows, notes = _table(listing, images)
    groups = _copies(listing.folder / "duplicates.csv")
    pairs = []
    for name in names:
        row = rows.get(name, {})
        group = groups.get(name, one_of(row, _GROUPS))
        pairs.append(Pair(name, images[name], ClassFile(masks[name], classes), group, one_of(row, _PARTS), row))
    return Dataset(listing.folder, "", "classes", tuple(pairs), classes, tuple(missing), tuple(notes))


def _copies(path: Path) -> dict[str, str]:
    """Return the group of each image that a list of pairs (columns a and b) names: the first name of its copies."""
    if not path.is_file():
        return {}
    groups: dict[str, set[str]] = {}
    for row in read_csv(path, "a", "b"):
        joined = groups.get(row["a"], {row["a"]}) | groups.get(row["b"], {row["b"]})
        groups.update(dict.fromkeys(joined, joined))
    return {name: min(group) for name, group in groups.items()}


def _two(listing: Listing, first: str, second: str) -> tuple[dict[str, Path], dict[str, Path]]:
    found = []
    for name in (first, second):
        folder = listing.sub(name)
        if folder is None:
            raise UsageError(f"{listing.folder}: no folder {name}/")
        found.append(images_in(folder))
    return found[0], found[1]


def _table(listing: Listing, images: Mapping[str, Path]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Return what split.csv or index.csv says of each image, and notes on images that it does not fit."""
    path = next((listing.folder / n for n in ("split.csv", "index.csv") if (listing.folder / n).is_file()), None)
    if path is None:
        return {}, []
    rows = {row.pop("id"): row for row in read_csv(path, "id")}
    others = [name for name in rows if name not in images]
    unlisted = [name for name in images if name not in rows]
    notes = [f"{path.name} lists {len(others):,} images that are not here ({others[0]} ...)"] if others else []
    notes += [f"{path.name} lacks {len(unlisted):,} images ({unlisted[0]} ...)"] if unlisted else []
    return rows, notes
