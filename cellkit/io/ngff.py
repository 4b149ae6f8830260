"""What the metadata of an OME-Zarr store say: which arrays are its levels, their axes, names and pixel size.

Source: https://ngff.openmicroscopy.org, versions 0.1 to 0.5.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cellkit.core.errors import ReadError
from cellkit.io.info import RGB, distinct
from cellkit.io.pixelsize import micrometres

__all__ = ["Axes", "Multiscale", "metadata", "multiscale"]

_MOST_BYTES = 2**26
_MOST_LEVELS = 64
_OLD_AXES = ("t", "c", "z", "y", "x")
_WORDS = {"t": "time"}
_COLOURS = ["FF0000", "00FF00", "0000FF"]


@dataclass(frozen=True)
class Axes:
    """The axes of an array: their names, and which of them are what."""

    names: tuple[str, ...]
    rows: int
    columns: int
    channels: tuple[int, ...] = ()

    @property
    def stack(self) -> tuple[int, ...]:
        """The axes that need a projection where they are longer than 1."""
        return tuple(i for i in range(len(self.names)) if i not in (self.rows, self.columns, *self.channels))

    @property
    def order(self) -> tuple[int, ...]:
        """The axes as stack, y, x, channels."""
        return (*self.stack, self.rows, self.columns, *self.channels)


@dataclass(frozen=True)
class Multiscale:
    """A picture in a store: the folder of each level, and what is said of them.

    `steps` are how many pixels of the full level one of each level spans (y, x), where the metadata say so.
    """

    folders: tuple[Path, ...]
    axes: Axes
    steps: tuple[tuple[float, float] | None, ...]
    pixel_size: tuple[float, float] | None = None
    channels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def metadata(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return what a folder is (``array2``, ``array3``, ``group`` or nothing) and its metadata.

    Those of a group are its attributes; those of an array have the attributes in `attributes`. Raises `ReadError`
    where a file of metadata is damaged.
    """
    data = _json(folder / "zarr.json")
    if data is not None:
        kind = data.get("node_type")
        if kind == "array":
            return "array3", data
        if kind == "group":
            return "group", _mapping(data.get("attributes"))
        raise ReadError(f"{folder.name}/zarr.json is damaged: it is of a {str(kind)[:40]}, not an array or a group")
    array = _json(folder / ".zarray")
    attributes = _json(folder / ".zattrs")
    if array is not None:
        return "array2", {**array, "attributes": attributes or {}}
    if attributes is not None or (folder / ".zgroup").is_file():
        return "group", attributes or {}
    return "", {}


def multiscale(root: Path, *, first: bool = False) -> Multiscale:
    """Find the picture of a store; `first` takes the first of several. Raises `ReadError` where there is none."""
    kind, data = metadata(root)
    if kind.startswith("array"):
        return _plain(root, data)
    if not kind:
        raise ReadError(
            "is a Zarr store without metadata: there is neither zarr.json nor .zgroup or .zarray "
            "(the copy is incomplete: hidden files, whose names begin with a dot, belong to it)"
        )
    own = _mapping(data["ome"]) if isinstance(data.get("ome"), Mapping) else data
    found = own.get("multiscales")
    if isinstance(found, Sequence) and found and isinstance(found[0], Mapping):
        return _pyramid(root, found[0], own)
    series = _series(root) if "bioformats2raw.layout" in own else []
    if series and (first or len(series) == 1):
        return multiscale(series[0], first=True)
    raise ReadError(_no_picture(root, own, series))


def _pyramid(root: Path, data: Mapping[str, Any], attributes: Mapping[str, Any]) -> Multiscale:
    """Read the metadata of a multiscale image."""
    axes, units = _axes(data.get("axes"))
    datasets = data.get("datasets")
    if not isinstance(datasets, Sequence) or not 0 < len(datasets) <= _MOST_LEVELS:
        raise ReadError("the metadata of the store are damaged: its multiscales list no datasets")
    folders, scales = [], []
    overall = _scale(data.get("coordinateTransformations"), len(axes.names))
    for dataset in datasets:
        entry = _mapping(dataset)
        folders.append(_inside(root, entry.get("path")))
        own = _scale(entry.get("coordinateTransformations"), len(axes.names))
        scales.append(
            None if own is None else tuple(a * b for a, b in zip(own, overall or [1.0] * len(own), strict=True))
        )
    sides = (axes.rows, axes.columns)
    size: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    if scales[0] is not None:
        y, x = (micrometres(scales[0][i], units[i]) for i in sides)
        if y is not None and x is not None:
            size = (y, x)
        elif any(scales[0][i] != 1 for i in sides):
            notes = ("the store scales its axes but does not say in which unit; the pixel size is not known",)
    steps: list[tuple[float, float] | None] = []
    for scale in scales:
        if scale is None or scales[0] is None or not all(scale[i] >= scales[0][i] > 0 for i in sides):
            steps.append(None)
        else:
            steps.append((scale[axes.rows] / scales[0][axes.rows], scale[axes.columns] / scales[0][axes.columns]))
    return Multiscale(tuple(folders), axes, tuple(steps), size, _names(attributes.get("omero")), notes)


def _plain(folder: Path, data: Mapping[str, Any]) -> Multiscale:
    """Read what an array without a pyramid around it says of its axes."""
    shape = data.get("shape")
    count = len(shape) if isinstance(shape, list) else 0
    named = data.get("dimension_names") or _mapping(data.get("attributes")).get("_ARRAY_DIMENSIONS")
    if isinstance(named, list) and len(named) == count and all(isinstance(name, str) for name in named):
        lower = [name.lower() for name in named]
        if {"y", "x"} <= set(lower) and len(set(lower)) == count:
            return Multiscale((folder,), _axes(lower)[0], (None,))
    if count not in (2, 3):
        raise ReadError(
            f"is a Zarr array of shape {str(shape)[:80]} that does not say its axes "
            "(an image has axes y, x or y, x, channel; OME-Zarr says them)"
        )
    return Multiscale((folder,), Axes(("y", "x", "c")[:count], 0, 1, (2,) if count == 3 else ()), (None,))


def _axes(data: object) -> tuple[Axes, list[str]]:
    """Return the axes and their units."""
    if data is None:  # versions 0.1 and 0.2
        data = list(_OLD_AXES)
    if not isinstance(data, Sequence) or isinstance(data, str) or not 2 <= len(data) <= 8:
        raise ReadError(f"the metadata of the store are damaged: axes {str(data)[:80]}")
    names, units, channels = [], [], []
    for i, entry in enumerate(data):
        axis = {"name": entry} if isinstance(entry, str) else _mapping(entry)
        name = str(axis.get("name", "")).lower()
        names.append(_WORDS.get(name, name))
        units.append(str(axis.get("unit") or ""))
        if name == "c" or axis.get("type") == "channel":
            channels.append(i)
    if names.count("y") != 1 or names.count("x") != 1 or len(channels) > 1:
        raise ReadError(f"the store has axes {', '.join(names)[:80]}, not y and x and at most one of channels")
    return Axes(tuple(names), names.index("y"), names.index("x"), tuple(channels)), units


def _scale(data: object, count: int) -> list[float] | None:
    """Return the scale of every axis, or None where none is given."""
    for entry in data if isinstance(data, Sequence) and not isinstance(data, str) else ():
        values = _mapping(entry).get("scale")
        if isinstance(values, Sequence) and len(values) == count:
            numbers = [float(v) if isinstance(v, (int, float)) else math.nan for v in values]
            if all(math.isfinite(v) and v > 0 for v in numbers):
                return numbers
    return None


def _names(omero: object) -> tuple[str, ...]:
    """Return the names of the channels, red, green and blue where those are their colours and they have no others."""
    channels = _mapping(omero).get("channels")
    if not isinstance(channels, Sequence) or isinstance(channels, str):
        return ()
    entries = [_mapping(channel) for channel in channels]
    labels = [" ".join(str(entry.get("label") or "").split())[:100] for entry in entries]
    if all(labels):
        return distinct(labels)
    return RGB if not any(labels) and [str(entry.get("color")).upper() for entry in entries] == _COLOURS else ()


def _inside(root: Path, path: object) -> Path:
    """Return the folder of a dataset. Raises `ReadError` where the path leaves the store."""
    parts = PurePosixPath(path).parts if isinstance(path, str) else ()
    if not parts or path == "" or ".." in parts or "/" in parts or "\\" in str(path) or ":" in str(path):
        raise ReadError(f"the metadata of the store name an array {str(path)[:80]!r}, which is no path within it")
    return root.joinpath(*parts)


def _series(root: Path) -> list[Path]:
    """Return the pictures of a store as bioformats2raw writes it."""
    found: list[Path] = []
    while len(found) < 10_000 and metadata(root / str(len(found)))[0] == "group":
        found.append(root / str(len(found)))
    return found


def _no_picture(root: Path, attributes: Mapping[str, Any], series: Sequence[Path]) -> str:
    if series:
        return (
            f"holds {len(series)} images; which one is meant? (give {series[0]}, or take the first: "
            "`read: {projection: first}`)"
        )
    if "plate" in attributes or "well" in attributes:
        return "is a plate of images, not one (give the folder of a field in it, such as PLATE.zarr/A/1/0)"
    try:
        inner = sorted(entry.name for entry in os.scandir(root) if metadata(Path(entry.path))[0])[:5]
    except OSError:
        inner = []
    fix = f"the pixels can be had from {root / inner[0]}, without their size; or copy the store again" if inner else ""
    return (
        "is a Zarr group that does not say which image it holds: its metadata list no `multiscales`; .zattrs or "
        f"zarr.json may be missing from it{f' ({fix})' if fix else ' (copy the store again)'}"
    )


def _json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, or None where there is no such file."""
    try:
        if not os.path.isfile(path):
            return None
        with open(path, "rb") as file:
            text = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ReadError(f"{path.name} of the store cannot be read: {error.strerror or error}") from error
    if len(text) > _MOST_BYTES:
        raise ReadError(f"{path.name} of the store has more than {_MOST_BYTES} bytes (it is damaged)")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ReadError(f"{path.parent.name}/{path.name} is damaged: {error} (copy the store again)") from error
    if not isinstance(data, dict):
        raise ReadError(f"{path.parent.name}/{path.name} is damaged: it holds no JSON object")
    return data


def _mapping(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
