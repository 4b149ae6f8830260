"""Painted labels as truth: images/ and labels/ of the same names, which `cellkit eval` and `cellkit train` take."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from cellkit.core.errors import CellkitError, UsageError, WriteError
from cellkit.core.recipe import ReadOptions
from cellkit.grid.cover import Window
from cellkit.io.naming import split
from cellkit.io.temporary import atomic
from cellkit.napari.target import Target

__all__ = ["TruthExists", "save_truth"]


class TruthExists(UsageError):
    """There is truth of that name already."""


def save_truth(folder: str | Path, labels: Any, target: Target, *, replace: bool = False) -> Path:
    """Write labels, integers (y, x), and their image into a data set's folder, both named after the image.

    The image's file is copied as it is where the labels are of all of it; else its pixels are written as TIFF. Returns
    the file of the labels.

    Raises `TruthExists` where there is other truth of that name and not `replace`, `UsageError` where the labels are
    not of the image's size, `WriteError` where a file cannot be written.
    """
    values = np.asarray(labels)
    if values.dtype.kind not in "bui" or values.ndim != 2:
        raise UsageError(f"labels are integers (y, x); got {values.dtype} {values.shape}")
    if values.shape != target.pixels.shape:
        sizes = [f"{height} x {width} px" for height, width in (values.shape, target.pixels.shape)]
        raise UsageError(f"the labels are {sizes[0]}, the image {target.name!r} is {sizes[1]}: choose its labels")
    folder = Path(folder)
    images, truth = folder / "images", folder / "labels"
    for place in (images, truth):
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"{place}: cannot be made: {error.strerror or error}") from error
    path = truth / f"{target.name}.tif"
    others = [old for place in (images, truth) for old in _of_name(place, target.name)]
    if others and not replace:
        raise TruthExists(f"{folder}: holds truth of {target.name!r} already ({', '.join(o.name for o in others)})")
    from cellkit.io import write_labels

    write_labels(path, values.astype(np.uint8) if values.dtype == bool else values, target.pixels.pixel_size)
    picture = _write_picture(images, target)
    for old in others:
        if old not in (path, picture):
            _remove(old)
    return path


def _of_name(folder: Path, name: str) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".") and split(path)[0] == name]


def _write_picture(folder: Path, target: Target) -> Path:
    source = Path(target.path) if target.path else None
    if source is not None and _read_alike(source, target):
        path = folder / f"{target.name}{split(source)[1]}"
        if path.exists() and source.samefile(path):
            return path
        with atomic(path) as temporary:
            shutil.copyfile(source, temporary)
        return path
    from cellkit.io import write_image

    path = folder / f"{target.name}.tif"
    sample = target.pixels.read(Window(0, 0, *target.pixels.shape))
    write_image(path, sample["raw"], target.pixels.pixel_size)
    return path


def _read_alike(source: Path, target: Target) -> bool:
    """Tell whether reading the file under no options gives the size of the image: truth is read so."""
    from cellkit.io import probe

    try:
        return source.is_file() and probe(source, ReadOptions()).shape[:2] == target.pixels.shape
    except CellkitError:
        return False


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        raise WriteError(f"{path}: cannot be removed: {error.strerror or error}") from error
