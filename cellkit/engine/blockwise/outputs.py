"""What a run over blocks leaves in its folder: label stores, other layers, rows of tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellkit.engine.blockwise.number import numbers_of
from cellkit.engine.blockwise.values import Value

if TYPE_CHECKING:
    import pyarrow as pa

    from cellkit.engine.blockwise.job import Bench, BlockJob
    from cellkit.io.omezarr import LabelStore

__all__ = ["label_store", "rows"]

_MOST_32 = 2**32 - 1


def label_store(job: BlockJob, value: Value, count: int, pixel_size: Any = None) -> LabelStore:
    """Return the store of final labels of one layer, ``TARGET/<layer>/<name>.zarr``, made where it is not there."""
    from cellkit.io.omezarr import LabelStore

    dtype = np.uint32 if count <= _MOST_32 else np.uint64
    path = Path(job.target) / value.name / f"{job.name}.zarr"
    return LabelStore.create(path, job.shape, dtype, chunk=job.chunk, pixel_size=pixel_size, name=value.name)


def rows(some: Bench, number: int) -> Iterator[pa.Table]:
    """Yield the rows of table step `number`, block after block, with the objects' final numbers."""
    import pyarrow as pa

    graph, job = some.plan.graph, some.job
    step, last = graph.steps[number], some.plan.passes[-1].number
    value = _counted(some, number)
    start = some.starts()[value.key]
    for index in range(job.grid[0] * job.grid[1]):
        block = some.result("pass", last, divmod(index, job.grid[1]))
        table = pa.ipc.open_stream(block[f"t{number}"].tobytes()).read_all()
        if not table.num_rows and index:
            continue
        if "label" in table.column_names:
            label = table["label"].to_numpy() + start[index]
            table = table.set_column(table.column_names.index("label"), "label", pa.array(label, pa.int64()))
        if step.spec.name == "relate":
            parent = graph.reads[number][str(step.bindings["parent"])]
            keys = table["parent"].to_numpy()
            ids = numbers_of(some, some.starts()[parent.key], parent, keys)
            table = table.set_column(table.column_names.index("parent"), "parent", pa.array(ids, pa.int64()))
        yield table


def _counted(some: Bench, number: int) -> Value:
    """Return the layer whose objects have a row each in the table of step `number`."""
    graph = some.plan.graph
    step = graph.steps[number]
    first = graph.reads[number][str(step.bindings[step.spec.arguments[0].name])]
    return _counted(some, first.step) if graph.kinds[first].name == "table" else first
