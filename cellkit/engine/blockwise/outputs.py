"""What a run over blocks leaves in its folder: label stores, other layers, rows of tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellkit.engine.blockwise.number import numbers_of
from cellkit.engine.blockwise.tissue import blocks_of
from cellkit.engine.blockwise.values import Value
from cellkit.engine.outputs import objects_of

if TYPE_CHECKING:
    import pyarrow as pa

    from cellkit.engine.blockwise.job import Bench
    from cellkit.formats.objects import ObjectSet
    from cellkit.io.omezarr import LabelStore

__all__ = ["coco_parts", "label_store", "rows", "write_features", "write_rois"]

_MOST_32 = 2**32 - 1


def label_store(some: Bench, value: Value, count: int, create: bool = True) -> LabelStore:
    """Return the store of final labels of one layer, ``TARGET/<layer>/<name>.zarr``, made where it is not there.

    That of a layer which is no output lies with what is kept between passes. Without `create` it is only named.
    """
    from cellkit.io.omezarr import LabelStore

    job, dtype = some.job, np.uint32 if count <= _MOST_32 else np.uint64
    size = some.slide.info.pixel_size
    output = value.name in some.plan.bound.outputs
    path = job.result(value) if output else Path(job.folder) / "drawn" / f"{value.name}.zarr"
    make = LabelStore.create if create else LabelStore
    return make(path, job.shape, dtype, (job.chunk, job.chunk), size, value.name)


def rows(some: Bench, number: int | None) -> Iterator[pa.Table]:
    """Yield the rows of table step `number`, block after block, with the objects' final numbers.

    None: the run-length codes of labels, which no step of the recipe makes.
    """
    if number is not None and some.plan.graph.steps[number].spec.name == "tally":
        if some.ended.any():
            yield _tallied(some, number)
        return
    empty: pa.Table | None = None
    begun = False
    for index, table in _tables(some, "t-rle" if number is None else f"t{number}"):
        if table.num_rows:
            begun = True
            yield _numbered(some, number, index, table)
        elif empty is None:
            empty = table
    if not begun and empty is not None:
        yield _numbered(some, number, 0, empty)


def _blocks(some: Bench) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield the number and the results of each block that may hold objects."""
    job, last = some.job, some.plan.passes[-1].number
    for row, column in blocks_of(some.ended):
        yield row * job.grid[1] + column, some.result("pass", last, (row, column))


def _tables(some: Bench, name: str) -> Iterator[tuple[int, pa.Table]]:
    import pyarrow as pa

    for index, block in _blocks(some):
        yield index, pa.ipc.open_stream(block[name].tobytes()).read_all()


def _numbered(some: Bench, number: int | None, index: int, table: pa.Table) -> pa.Table:
    import pyarrow as pa

    graph = some.plan.graph
    start = some.starts
    counted = graph.ends[objects_of(some.plan.bound, "rle")] if number is None else _counted(some, number)
    label = table["label"].to_numpy() + start[counted.key][index]
    table = table.set_column(table.column_names.index("label"), "label", pa.array(label, pa.int64()))
    if number is not None and graph.steps[number].spec.name == "relate":
        step = graph.steps[number]
        parent = graph.reads[number][str(step.bindings["parent"])]
        ids = numbers_of(some, start[parent.key], parent, table["parent"].to_numpy())
        table = table.set_column(table.column_names.index("parent"), "parent", pa.array(ids, pa.int64()))
    return table


def _tallied(some: Bench, number: int) -> pa.Table:
    """Return the counts of all blocks added up."""
    import pandas as pd
    import pyarrow as pa

    frame = pd.concat([table.to_pandas() for _, table in _tables(some, f"t{number}")])
    total = frame.groupby("class", sort=False, as_index=False)["count"].sum()
    total["share"] = total["count"] / max(1, int(total["count"].sum()))
    return pa.Table.from_pandas(total, preserve_index=False).replace_schema_metadata(None)


def write_features(some: Bench, value: Value, path: Path) -> None:
    """Write the objects of one layer as GeoJSON, block after block."""
    from cellkit.formats import geojson
    from cellkit.io import atomic

    start = some.starts[value.key]
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(some.job.target) / ".cellkit" / "tmp"  # where the next run clears up after one that was killed
    with atomic(path, scratch) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        head, tail = geojson.around(some.job.name, some.job.shape, some.slide.info.pixel_size)
        file.write(head)
        first = True
        for index, table in _tables(some, f"g-{value.key}"):
            for label, text in zip(table["label"].to_pylist(), table["geometry"].to_pylist(), strict=True):
                file.write(("" if first else ",\n") + geojson.feature(text, label + int(start[index])))
                first = False
        file.write(tail)


def write_rois(some: Bench, value: Value, path: Path) -> None:
    """Write the objects of one layer as a zip of ImageJ's ROIs, one after another."""
    from cellkit.formats import geojson, imagej
    from cellkit.io import atomic

    start, image = some.starts[value.key], _no_objects(some)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic(path) as temporary, temporary.open("wb") as file,
        imagej.archive(file, image, max(1, int(start[-1]))) as add,
    ):  # fmt: skip
        for index, table in _tables(some, f"g-{value.key}"):
            for label, text in zip(table["label"].to_pylist(), table["geometry"].to_pylist(), strict=True):
                add(label + int(start[index]), geojson.rings_of(text))


def coco_parts(some: Bench, value: Value) -> Iterator[bytes]:
    """Yield a data set of the image without objects, then one of those of each block."""
    from cellkit.formats.coco import decode_dataset, encode_dataset

    start, image = some.starts[value.key], _no_objects(some)
    yield encode_dataset([image]).encode("utf-8")
    for index, block in _blocks(some):
        (objects,) = decode_dataset(block["coco"].tobytes(), some.job.name)
        if len(objects):
            numbered = objects.with_(ids=objects.ids + int(start[index]), image_id=None)
            yield encode_dataset([numbered]).encode("utf-8")


def _no_objects(some: Bench) -> ObjectSet:
    from cellkit.formats.objects import ObjectSet

    none = ObjectSet.of_boxes(np.zeros((0, 4)), some.job.shape, some.job.name)
    return none.with_(pixel_size=some.slide.info.pixel_size)


def _counted(some: Bench, number: int) -> Value:
    """Return the layer whose objects have a row each in the table of step `number`."""
    graph = some.plan.graph
    step = graph.steps[number]
    first = graph.reads[number][str(step.bindings[step.spec.arguments[0].name])]
    return _counted(some, first.step) if graph.kinds[first].name == "table" else first
