"""The results of a run as layers: (data, settings, kind of layer), as napari takes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellkit.core.check import Plan, bind
from cellkit.core.errors import CellkitError, ReadError
from cellkit.core.recipe import Recipe
from cellkit.core.sample import Sample
from cellkit.grid.cover import Window

if TYPE_CHECKING:
    import pandas as pd

    from cellkit.io import Slide

__all__ = ["Frame", "LayerData", "RunFolder", "as_layers", "features", "layers_of", "run_of"]

LayerData = tuple[Any, dict[str, Any], str]
_SHOWN = ("labels", "mask", "classes", "prob", "field", "image")
_LARGE = 2**26
"""Pixels beyond which an image is not read before it is looked at."""


@dataclass(frozen=True)
class Frame:
    """Where a layer lies: `scale` and `translate` (y, x), `unit` of both, and what else napari is to know."""

    scale: tuple[float, float] = (1.0, 1.0)
    translate: tuple[float, float] = (0.0, 0.0)
    unit: str = "pixel"
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, pixel_size: tuple[float, float] | None) -> Frame:
        """Return the frame of an image of that pixel size (y, x), micrometres, or None."""
        return cls() if pixel_size is None else cls(pixel_size, unit="micrometer")

    @property
    def settings(self) -> dict[str, Any]:
        """What a layer (y, x) is made with."""
        return {"scale": self.scale, "translate": self.translate, "units": (self.unit, self.unit), **self.more}


def run_of(path: Path) -> tuple[Path, str, str] | None:
    """Return (folder of the run, layer, name of the image) for a run or one of its files; layer and name may be ''."""
    if (path / "run.json").is_file():
        return path, "", ""
    folder = path.parent.parent
    if path.suffix in (".tif", ".png", ".zarr") and ((folder / "run.json").is_file() or (folder / ".cellkit").is_dir()):
        return folder, path.parent.name, path.name.removesuffix(path.suffix)
    return None


class RunFolder:
    """The folder of a run. `images` maps the names of the images that are done to their files, as the run names them.

    Raises `ReadError` where `run.json` is damaged. A run that was cut short has no `run.json`, and no `images`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        account: dict[str, Any] = {}
        try:
            if (folder / "run.json").is_file():
                account = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            done = [image for image in account.get("images", []) if image["status"] == "done"]
            self.images = {image["name"]: image["source"] for image in done}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ReadError(f"{folder / 'run.json'}: cannot be read: {error} (run again)") from error

    @cached_property
    def plan(self) -> Plan | None:
        """The recipe of the run, bound; None where it is not there or a stage of it is not known here."""
        try:
            return bind(Recipe.read(self.folder / "recipe.yaml"))
        except CellkitError:
            return None

    def layers(self, name: str, only: str = "", *, image: bool = True, frame: Frame | None = None) -> list[LayerData]:
        """Return the layers of one image: the picture, where it still lies where the run found it, then the results.

        `only` leaves out the other results, `image` False the picture. `frame` says where results lie; else they lie
        where their pixel size, or that of the picture, puts them.

        Raises `ReadError` where there is no result of that name.
        """
        found: list[LayerData] = []
        picture = self._picture(name) if image else None
        if picture is not None:
            found += picture[0]
        names = [only] if only else self._names(name)
        for layer in names:
            path = self._file(layer, name)
            if path is None:
                raise ReadError(f"{self.folder / layer}: holds no result of {name!r}")
            found += self._result(layer, name, path, frame or (picture[1] if picture else None))
        if not found:
            raise ReadError(f"{self.folder}: holds no layer of {name!r} that can be shown")
        return found

    def _names(self, name: str) -> list[str]:
        """Return the layers of which there is a file, the least telling first, so that labels come to lie on top."""
        there = [path.name for path in sorted(self.folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
        names = [layer for layer in there if self._kind(layer) in _SHOWN and self._file(layer, name) is not None]
        return sorted(names, key=lambda layer: -_SHOWN.index(self._kind(layer)))

    def _kind(self, layer: str) -> str:
        if self.plan is not None and layer in self.plan.layers:
            return self.plan.layers[layer].name
        return layer if layer in _SHOWN else ""

    def _file(self, layer: str, name: str) -> Path | None:
        paths = (self.folder / layer / f"{name}{suffix}" for suffix in (".tif", ".png", ".zarr"))
        return next((path for path in paths if path.exists()), None)

    def _result(self, layer: str, name: str, path: Path, frame: Frame | None) -> list[LayerData]:
        kind = self._kind(layer)
        if path.suffix == ".zarr":
            value, size, channels = _pyramid(path)
        else:
            value, size, channels = _plain(path, kind)
        own = frame or Frame.of(size)
        made = as_layers(f"{name} {layer}", kind, value, own, channels)
        table = self._table(layer, name) if kind == "labels" else None
        for _, settings, _ in made:
            settings["metadata"] = {"cellkit": {"name": name, "source": self._source(name)}}
            if table is not None:
                settings["features"] = features(table)
        return made

    def _source(self, name: str) -> str:
        """Return the file of an image, absolute, where it is still there; else an empty text."""
        given = self.images.get(name, "")
        if not given:
            return ""
        # A relative path counts from where the command was given: mostly here, or beside the results.
        places = (Path(given), self.folder.parent / given)
        return next((str(path.absolute()) for path in places if path.exists()), "")

    def _picture(self, name: str) -> tuple[list[LayerData], Frame] | None:
        from cellkit.io import open_slide
        from cellkit.io.sources import Source

        given = self.images.get(name, "")
        if " + " in given:
            paths = [Path(part) for part in given.split(" + ")]
            source = str(paths[0].absolute()) if all(path.exists() for path in paths) else ""
        else:
            source = self._source(name)
            paths = [Path(source)]
        if not source:
            return None
        options = self.plan.recipe.read_options if self.plan is not None else None
        try:
            slide = open_slide(Source(name, tuple(paths)), options)
            frame = Frame.of(slide.info.pixel_size)
            data = _opened(slide)
        except CellkitError:
            return None  # changed since, or no longer an image: the results can be looked at all the same
        made = as_layers(name, "image", data, frame, slide.info.channels, base=True)
        for _, settings, _ in made:
            settings["metadata"] = {"cellkit": {"name": name, "source": source if len(paths) == 1 else ""}}
        return made, frame

    def _table(self, layer: str, name: str) -> pd.DataFrame | None:
        """Return the measurements of the objects of a layer in one image, or None."""
        for output in self._tables(layer):
            path = self.folder / f"{'objects' if output == 'table' else output}.parquet"
            if path.is_file():
                import pyarrow.parquet as pq

                rows = pq.read_table(path, filters=[("image", "=", name)]).to_pandas()
                return rows.drop(columns="image")
        return None

    def _tables(self, layer: str) -> Iterable[str]:
        if self.plan is None:
            return ["table"] if layer == "labels" else []
        return tables_of(self.plan, layer)


def tables_of(plan: Plan, layer: str) -> list[str]:
    """Return the tables of measurements that a recipe makes of the objects of a layer, the last one first."""
    owner: dict[str, str] = {}
    for step in plan.steps:
        if step.kind is not None and step.kind.name == "table" and step.spec.name != "rle":  # codes measure nothing
            first = str(step.bindings[step.spec.arguments[0].name])
            owner[step.output] = owner.get(first, first)
    return [name for name, own in reversed(owner.items()) if own == layer]


def features(table: pd.DataFrame) -> pd.DataFrame | None:
    """Return measurements as napari wants them: a row for the background first, `index` saying which label a row is."""
    import pandas as pd

    if "label" not in table:
        return None
    rows = table.drop_duplicates("label").rename(columns={"label": "index"})
    background = pd.DataFrame({"index": [0]}, index=[0])
    return pd.concat([background, rows[rows["index"] != 0]], ignore_index=True)[list(rows.columns)]


def layers_of(plan: Plan, sample: Sample, frame: Frame) -> list[LayerData]:
    """Return what a run in memory made: every output that is a layer, with the measurements of labels."""
    names = [name for name in plan.outputs if name in plan.layers and plan.layers[name].name in _SHOWN]
    found: list[LayerData] = []
    for name in sorted(names, key=lambda name: -_SHOWN.index(plan.layers[name].name)):
        layer = sample.layer(name)
        kind = layer.kind.name
        made = as_layers(f"{sample.name} {name}", kind, np.array(layer.value), frame, layer.names)
        table = next((sample[table] for table in tables_of(plan, name) if table in sample), None)
        for _, settings, _ in made:
            settings["metadata"] = {"cellkit": {"name": sample.name, "source": ""}}
            if kind == "labels" and table is not None:
                settings["features"] = features(table)
        found += made
    return found


def as_layers(
    name: str, kind: str, value: Any, frame: Frame, channels: Sequence[str] = (), *, base: bool = False
) -> list[LayerData]:
    """Return a value as layers: labels, a picture in colour, or an image a channel. `base`: nothing lies below."""
    many = isinstance(value, list)
    if kind in ("labels", "mask", "classes"):
        value = [_counted(level) for level in value] if many else _counted(value)
        return [(value, {"name": name, "multiscale": many, **frame.settings}, "labels")]
    levels = value if many else [value]
    if levels[0].ndim == 2:
        levels = [level[..., None] for level in levels]
    count = levels[0].shape[2]
    colour = count == 3 and kind == "image" and (not channels or [c.lower()[:1] for c in channels] == ["r", "g", "b"])
    settings: dict[str, Any] = {"multiscale": many, **frame.settings}
    if base or kind == "prob":
        settings["contrast_limits"] = (0.0, 1.0) if kind == "prob" else _limits(levels[-1])
    if not base:
        settings |= {"opacity": 0.6, "blending": "additive"}
    if colour:
        return [(value, {"name": name, "rgb": True, **settings}, "image")]
    maps = ["gray"] if count == 1 else ["magenta", "green", "cyan", "yellow", "red", "blue"]
    found: list[LayerData] = []
    for number in range(count):
        parts = [level[..., number] for level in levels]
        said = f" {channels[number] if channels else number}" if count > 1 else ""
        own = {**settings, "name": f"{name}{said}", "colormap": maps[number % len(maps)]}
        own |= {"blending": "additive"} if count > 1 else {}
        found.append((parts if many else parts[0], own, "image"))
    return found


def _counted(labels: Any) -> Any:
    """Return a mask as the labels 0 and 1, which can be painted; labels as they are."""
    return labels.astype(np.uint8) if labels.dtype == bool else labels


def _limits(level: Any) -> tuple[float, float]:
    """Return the range to show of an image, by some of its pixels: a dark 12-bit image would else look black."""
    steps = tuple(max(1, side // 512) for side in level.shape[:2])
    some = np.asarray(level[:: steps[0], :: steps[1]]) if level.size <= _LARGE else np.zeros(0)
    if not some.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(some, (0, 99.9)))
    return (low, high) if high > low else (0.0, 1.0)


def _plain(path: Path, kind: str) -> tuple[np.ndarray, tuple[float, float] | None, tuple[str, ...]]:
    from cellkit.io import read, read_labels
    from cellkit.io.reader import probe

    info = probe(path)
    if kind in ("labels", "classes"):
        return read_labels(path), info.pixel_size, ()
    if kind == "mask":
        return (read_labels(path) > 0).astype(np.uint8), info.pixel_size, ()
    return np.array(read(path)["raw"]), info.pixel_size, info.channels


def _pyramid(path: Path) -> tuple[Any, tuple[float, float] | None, tuple[str, ...]]:
    """Return the levels of an OME-Zarr store as arrays that are read when they are looked at."""
    import dask.array as da

    from cellkit.io.ngff import multiscale

    found = multiscale(path)
    order = found.axes.order
    levels = [da.from_zarr(str(folder)).transpose(order) for folder in found.folders]
    return levels if len(levels) > 1 else levels[0], found.pixel_size, found.channels


def _opened(slide: Slide) -> Any:
    """Return a picture as an array, or, where it is large, as levels that are read when they are looked at."""
    height, width = slide.shape
    if height * width <= _LARGE:
        return np.array(slide.read(Window(0, 0, height, width))["raw"])
    import dask.array as da

    from cellkit.io import open_slide

    spec = slide.spec
    levels = [slide]
    if spec.options.crop is None:
        levels += [open_slide(spec.source, spec.options, level=number) for number in range(1, len(slide.levels))]
    arrays = [_Windows(level) for level in levels]
    made = [da.from_array(array, chunks=(*array.slide.chunk, array.shape[2]), asarray=False) for array in arrays]
    return made if len(made) > 1 else made[0]


class _Windows:
    """A slide as something that slices, for dask."""

    def __init__(self, slide: Slide) -> None:
        self.slide = slide
        self.shape = slide.info.shape
        self.dtype = np.dtype(np.float32)
        self.ndim = 3

    def __getitem__(self, at: tuple[slice, ...]) -> np.ndarray:
        rows, columns, channels = (one.indices(side) for one, side in zip(at, self.shape, strict=True))
        window = Window(rows[0], columns[0], rows[1], columns[1])
        part: np.ndarray = self.slide.read(window)["raw"][:: rows[2], :: columns[2], slice(*channels)]
        return part
