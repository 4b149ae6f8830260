"""Tell the layout of a folder and open it as a data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from cellkit.core.errors import UsageError
from cellkit.io.datasets import boxes, folders
from cellkit.io.datasets.listing import Listing
from cellkit.io.datasets.pairs import Dataset

__all__ = ["LAYOUTS", "Layout", "open_dataset"]

Layout = Literal["auto", "dsb2018", "labels", "glas", "darkfield", "masks", "voc", "bbbc041", "coco"]


@dataclass(frozen=True)
class _Layout:
    """What a layout looks like in words, whether a folder has it, and how it is opened."""

    looks: str
    fits: Callable[[Listing], bool]
    read: Callable[[Listing], Dataset]


LAYOUTS: dict[str, _Layout] = {
    "dsb2018": _Layout(
        "a folder NAME for each image with images/NAME.png and masks/, one file an object",
        folders.fits_dsb2018,
        folders.read_dsb2018,
    ),
    "labels": _Layout(
        "images/ and labels/, label images of the same names; split.csv or index.csv with an `id` where there is one",
        folders.fits_labels,
        folders.read_labels_layout,
    ),
    "glas": _Layout(
        "images beside label images NAME_anno.bmp; Grade.csv where there is one", folders.fits_glas, folders.read_glas
    ),
    "darkfield": _Layout(
        "images/ and masks/ of three-digit names, masks of 0 background, 1 blood cell, 2 bacteria",
        folders.fits_darkfield,
        folders.read_darkfield,
    ),
    "masks": _Layout(
        "images/ and masks/, class images of the same names", folders.fits_masks, folders.read_masks_layout
    ),
    "voc": _Layout(
        "annotations/ with an .xml for each image, images/ or JPEGImages/; ImageSets/Main where there is one",
        boxes.fits_voc,
        boxes.read_voc,
    ),
    "bbbc041": _Layout(
        "a .json with a list of `image` (pathname, shape) and `objects` (bounding_box, category)",
        boxes.fits_bbbc041,
        boxes.read_bbbc041,
    ),
    "coco": _Layout(
        "a .json, here or in annotations/, with `images`, `annotations` and `categories`",
        boxes.fits_coco,
        boxes.read_coco,
    ),
}


def open_dataset(folder: str | Path, *, layout: Layout = "auto", allow_missing: bool = False) -> Dataset:
    """Open a folder of images and truth (or one annotation file of it). Reads names and annotations, no pixels.

    `layout` is told by what the folder holds unless it is named; `LAYOUTS` says what each looks like. With
    `allow_missing`, images without truth and truth without image are left out and listed in `missing`.

    Raises `UsageError` where no or several layouts fit, and where files are missing; `FormatError` where an
    annotation file is damaged.
    """
    listing = Listing(Path(folder))
    name = _told(listing) if layout == "auto" else layout
    if name not in LAYOUTS:
        raise UsageError(f"layout: wanted one of {', '.join(get_args(Layout))}, got {layout!r}")
    if layout != "auto" and not LAYOUTS[name].fits(listing):
        raise UsageError(f"{folder}: is not of the layout {name!r}: looked for {LAYOUTS[name].looks}{_there(listing)}")
    dataset = replace(LAYOUTS[name].read(listing), layout=name)
    if dataset.missing and not allow_missing:
        first = "; ".join(map(str, dataset.missing[:5]))
        more = f"; and {len(dataset.missing) - 5:,} more" if len(dataset.missing) > 5 else ""
        raise UsageError(
            f"{folder}: {len(dataset.missing):,} files are missing (allow_missing=True leaves their images out): "
            f"{first}{more}"
        )
    if not dataset.pairs:
        raise UsageError(f"{folder}: of the layout {name!r}, but no image has its truth{_there(listing)}")
    return dataset


def _told(listing: Listing) -> str:
    fitting = [name for name, layout in LAYOUTS.items() if layout.fits(listing)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UsageError(f"{listing.folder}: may be of the layouts {' and '.join(fitting)}; name the one that is meant")
    looked = "\n".join(f"  {name}: {layout.looks}" for name, layout in LAYOUTS.items())
    raise UsageError(f"{listing.folder}: no data set of a known layout{_there(listing)}; looked for\n{looked}")


def _there(listing: Listing) -> str:
    names = [*(f"{name}/" for name in listing.subfolders), *(path.name for path in listing.files)]
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6:,} more" if len(names) > 6 else "")
    return f"; it holds {shown or 'nothing'}"
