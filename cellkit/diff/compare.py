"""Go through the images of two runs and tell what changed in each."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cellkit.core.errors import CellkitError, ReadError, UsageError
from cellkit.diff.boxes import compare_boxes
from cellkit.diff.labels import Compared, compare_arrays, compare_files, differing_pixels
from cellkit.diff.runs import Entry, Run, Settings, settings
from cellkit.diff.tables import Pool, Shift, TableFile, box_columns, measured, rows_of, shifts

if TYPE_CHECKING:
    import pandas as pd

    from cellkit.diff.codes import Codes

__all__ = ["LOUD", "Difference", "ImageDiff", "Kept", "LayerDiff", "compare_runs"]

LOUD = ("changed", "lost", "gained", "split", "merged")
"""What can become of an object that did not stay."""
RLE = "rle"


@dataclass(frozen=True)
class LayerDiff:
    """The objects of one layer of an image: how many before and after, and what became of them.

    `counts`: see `changes.Changes.counts`; empty where objects could not be paired. `iou`: the median IoU of pairs,
    NaN without any. `pixels`: of a layer that holds no objects, how many pixels differ.
    """

    name: str
    before: int = 0
    after: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    iou: float = math.nan
    pixels: int = 0

    @property
    def moved(self) -> int:
        """How many objects did not stay."""
        return sum(self.counts.get(name, 0) for name in LOUD)

    @property
    def differs(self) -> bool:
        """Whether anything differs, be it a pixel of an edge."""
        return self.before != self.after or bool(self.moved or self.counts.get("kept", 0) or self.pixels)


@dataclass(frozen=True)
class ImageDiff:
    """One image in two runs. `before`, `after`: how it ended in each, None where the run does not have it.

    `layers` and, by table, `measurements` of paired objects are told where it ended well in both. `faults`: what could
    not be compared and why. `notes`: what else differs.
    """

    name: str
    before: Entry | None
    after: Entry | None
    layers: tuple[LayerDiff, ...] = ()
    measurements: Mapping[str, tuple[Shift, ...]] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """What differs as a whole: ``only before``, ``only after``, ``failed before``, ``failed after`` or nothing."""
        if self.before is None or self.after is None:
            return "only after" if self.before is None else "only before"
        if self.before.done != self.after.done:
            return "failed after" if self.before.done else "failed before"
        return ""

    @property
    def differs(self) -> bool:
        """Whether anything of the results differs."""
        return self.moves or self._measured or any(layer.differs for layer in self.layers)

    @property
    def moves(self) -> bool:
        """Whether more differs than edges of objects that were kept and their measurements."""
        layers = any(layer.moved or layer.pixels or layer.before != layer.after for layer in self.layers)
        # Where not even an edge differs, measurements that do are no consequence of it.
        alone = self._measured and not any(layer.differs for layer in self.layers)
        return bool(self.state or self.faults or layers or alone)

    @property
    def _measured(self) -> bool:
        return any(shift.differing for found in self.measurements.values() for shift in found)

    @property
    def weight(self) -> tuple[float, ...]:
        """How much differs, to be sorted by: images of one side, faults, shares of objects, pixels, measurements."""
        objects = sum(max(layer.before, layer.after) for layer in self.layers)
        moved = sum(layer.moved for layer in self.layers)
        kept = sum(layer.counts.get("kept", 0) for layer in self.layers)
        differing = sum(shift.differing for found in self.measurements.values() for shift in found)
        pixels = sum(layer.pixels for layer in self.layers)
        return float(bool(self.state)), float(bool(self.faults)), moved / max(1, objects), pixels, kept, differing


@dataclass(frozen=True, eq=False)
class Kept:
    """What a picture of an image needs: of each label layer what became of its objects."""

    image: ImageDiff
    compared: Mapping[str, Compared]


@dataclass(frozen=True, eq=False)
class Difference:
    """All that differs between two runs: settings, images worst first, and measurements over all images by table.

    `kept`: the images in which most differs, as many as were asked for. `total`: images of either run. `inputs`: those
    that were made of another file.
    """

    before: Run
    after: Run
    settings: Settings
    images: tuple[ImageDiff, ...]
    measurements: Mapping[str, tuple[Shift, ...]]
    kept: tuple[Kept, ...]
    limit: float
    total: int
    inputs: tuple[str, ...] = ()

    @property
    def differs(self) -> bool:
        """Whether any result differs; settings are none."""
        return bool(self.images)

    @property
    def moves(self) -> bool:
        """Whether more differs than edges of objects that were kept and their measurements."""
        return any(image.moves for image in self.images)


def compare_runs(
    before: Run,
    after: Run,
    *,
    limit: float = 0.9,
    keep: int = 0,
    progress: Callable[[Iterator[ImageDiff], int], Iterable[ImageDiff]] | None = None,
) -> Difference:
    """Compare the results of two runs, image by image; a fault in one of them stops nothing.

    `limit`: the IoU below which an object counts as changed. `keep`: of how many images the pictures will be wanted.
    `progress`: passes the images on as they come, of so many. Raises `ReadError` where a table is damaged,
    `UsageError` where the runs have written nothing of one kind.
    """
    names = list({**before.images, **after.images})
    worst: list[tuple[tuple[float, ...], int, Kept]] = []
    counter = itertools.count()
    inputs: list[str] = []
    with _Pair(before, after, limit) as pair:

        def each() -> Iterator[ImageDiff]:
            for name in names:
                image, compared = pair.image(name)
                if image.notes:
                    inputs.append(name)
                if image.differs and compared and keep:
                    item = (image.weight, -next(counter), Kept(image, compared))
                    (heapq.heappush if len(worst) < keep else heapq.heappushpop)(worst, item)
                yield image

        images = each() if progress is None else progress(each(), len(names))
        found = [image for image in images if image.differs]
        pooled = {name: pool.shifts() for name, pool in pair.pools.items()}
        told = {**settings(before, after), **pair.columns()}
    found.sort(key=lambda image: image.weight, reverse=True)
    kept = tuple(item[2] for item in sorted(worst, key=lambda item: item[:2], reverse=True))
    pooled = {name: moved for name, moved in pooled.items() if moved}
    return Difference(before, after, told, tuple(found), pooled, kept, limit, len(names), tuple(inputs))


class _Pair:
    """Two runs, their tables held open; a context manager."""

    def __init__(self, before: Run, after: Run, limit: float) -> None:
        self.runs, self.limit = (before, after), limit
        self.layers = [name for name in before.label_layers if name in after.label_layers]
        self.rasters = [name for name in before.rasters if name in after.rasters]
        self.pools: dict[str, Pool] = {}
        self.tables: dict[str, tuple[TableFile, TableFile]] = {}
        self.codes: tuple[Codes, Codes] | None = None
        self._held = ExitStack()

    def __enter__(self) -> _Pair:
        before, after = self.runs
        with ExitStack() as held:
            for name in before.tables:
                if name in after.tables:
                    files = (TableFile(run.tables[name]) for run in self.runs)
                    one, two = (held.enter_context(closing(file)) for file in files)
                    self.tables[name] = (one, two)
                    self.pools[name] = Pool()
            self._held = held.pop_all()
        if not self.layers and all(RLE in run.outputs for run in self.runs):
            from cellkit.diff.codes import Codes

            self.codes = (Codes(before), Codes(after))
        if not (self.layers or self.rasters or self.tables or self.codes):
            wrote = " and ".join(f"{run.folder} ({', '.join(run.outputs) or 'nothing'})" for run in self.runs)
            raise UsageError(f"{wrote} have written no labels, masks, tables or rle in common to compare")
        return self

    def columns(self) -> Settings:
        """Return, by table, the columns that only one run has."""
        found: Settings = {}
        for name, (one, two) in self.tables.items():
            alone = [", ".join(c for c in a.columns if c not in b.columns) for a, b in ((one, two), (two, one))]
            if any(alone):
                found[f"columns of {name} alone here"] = (alone[0] or None, alone[1] or None)
        return found

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def image(self, name: str) -> tuple[ImageDiff, Mapping[str, Compared]]:
        """Return what changed in one image, and of each label layer the codes of its objects."""
        before, after = (run.images.get(name) for run in self.runs)
        if before is None or after is None or not (before.done and after.done):
            return ImageDiff(name, before, after), {}
        notes = ("the image itself differs",) if before.digest != after.digest else ()
        layers: list[LayerDiff] = []
        compared: dict[str, Compared] = {}
        measurements: dict[str, tuple[Shift, ...]] = {}
        faults: list[str] = []
        for what, work in self._work(name, compared):
            try:
                layer, moved = work()
            except CellkitError as error:
                faults.append(str(error))
                continue
            except MemoryError:
                faults.append(f"{what}: does not fit in memory")
                continue
            if layer is not None:
                layers.append(layer)
            if moved:
                measurements[what] = moved
        return ImageDiff(name, before, after, tuple(layers), measurements, tuple(faults), notes), compared

    def _work(self, name: str, compared: dict[str, Compared]) -> Iterator[tuple[str, Callable[[], _Found]]]:
        """Yield what is to be compared of an image, and how: label layers first, which pair the rows of tables."""
        for layer in self.layers:
            yield layer, lambda layer=layer: self._labels(name, layer, compared)  # type: ignore[misc]
        if self.codes is not None:
            yield RLE, lambda: self._decoded(name, compared)
        for layer in self.rasters:
            yield layer, lambda layer=layer: self._raster(name, layer)  # type: ignore[misc]
        for table in self.tables:
            yield table, lambda table=table: self._table(name, table, compared)  # type: ignore[misc]

    def _labels(self, name: str, layer: str, compared: dict[str, Compared]) -> _Found:
        paths = [run.labels(layer, name) for run in self.runs]
        one, two = paths
        if one is None or two is None:
            return _missing(layer, paths, self.runs, name)
        compared[layer] = compare_files(one, two, self.limit)
        return _layer(layer, compared[layer]), ()

    def _decoded(self, name: str, compared: dict[str, Compared]) -> _Found:
        assert self.codes is not None
        one, two = (codes.labels(name) for codes in self.codes)
        compared[RLE] = compare_arrays(one, two, self.limit)
        return _layer(RLE, compared[RLE]), ()

    def _raster(self, name: str, layer: str) -> _Found:
        paths = [run.raster(layer, name) for run in self.runs]
        one, two = paths
        if one is None or two is None:
            return _missing(layer, paths, self.runs, name)
        return LayerDiff(layer, pixels=differing_pixels(one, two)), ()

    def _table(self, name: str, table: str, compared: Mapping[str, Compared]) -> _Found:
        one, two = (file.rows(name) for file in self.tables[table])
        layer = self._about(table)
        if layer in compared and "label" in one and "label" in two:
            ids = compared[layer].pairs
            rows = [rows_of(frame, side) for frame, side in zip((one, two), ids, strict=True)]
            both = (rows[0] >= 0) & (rows[1] >= 0)
            return None, self._moved(table, one.iloc[rows[0][both]], two.iloc[rows[1][both]])
        if one.equals(two):
            moved = self._moved(table, one, two)
            return LayerDiff(table, len(one), len(two), {"same": len(one)}), moved
        return self._alone(table, one, two)

    def _alone(self, table: str, one: pd.DataFrame, two: pd.DataFrame) -> _Found:
        """Compare rows that no label image pairs: by their boxes where they have some, else in their order."""
        columns = [box_columns(list(frame.columns)) for frame in (one, two)]
        if all(columns):
            boxes = [frame[list(names)].to_numpy(np.float64) for frame, names in zip((one, two), columns, strict=True)]
            found, i, j = compare_boxes(boxes[0], boxes[1], self.limit)
            iou = float(np.median(found.iou[found.pairs])) if found.pairs.any() else math.nan
            layer = LayerDiff(table, len(one), len(two), found.counts(), iou)
            return layer, self._moved(table, one.iloc[i[found.pairs]], two.iloc[j[found.pairs]])
        if len(one) != len(two):
            return LayerDiff(table, len(one), len(two)), ()
        return LayerDiff(table, len(one), len(two)), self._moved(table, one, two)

    def _moved(self, table: str, one: pd.DataFrame, two: pd.DataFrame) -> tuple[Shift, ...]:
        pairs = measured(one, two)
        self.pools[table].add(pairs)
        return shifts(pairs) if len(one) else ()

    def _about(self, table: str) -> str:
        """Return the label layer whose objects have a row each in a table."""
        told = {run.measured.get(table, "") for run in self.runs}
        if self.codes is not None:
            return ""
        return told.pop() if len(told) == 1 else ""


_Found = tuple[LayerDiff | None, tuple[Shift, ...]]


def _layer(name: str, found: Compared) -> LayerDiff:
    iou = float(np.median(found.iou)) if len(found.iou) else math.nan
    return LayerDiff(name, len(found.before_ids), len(found.after_ids), found.changes.counts(), iou)


def _missing(layer: str, paths: Sequence[object], runs: Sequence[Run], name: str) -> _Found:
    if not any(paths):
        return None, ()
    lacks = runs[0 if paths[0] is None else 1]
    raise ReadError(f"{lacks.folder / layer}: holds nothing of {name!r}, as its run says it does; was it moved?")
