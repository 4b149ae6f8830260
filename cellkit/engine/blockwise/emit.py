"""The objects of a block: which it owns, what they are called, and their rows in tables.

An object belongs to the block that holds its first pixel in raster order, which every block that sees the object finds
alike, since each looks at the whole of it. So a block knows what its neighbours call an object that they share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from cellkit.core.kinds import KINDS
from cellkit.core.sample import Layer
from cellkit.engine.blockwise._spread import first_pixels
from cellkit.engine.blockwise.validity import broken_ids
from cellkit.engine.blockwise.values import Value
from cellkit.engine.blockwise.window import Scene
from cellkit.engine.execute import apply
from cellkit.grid.cover import Window

if TYPE_CHECKING:
    import pandas as pd

    from cellkit.engine.blockwise.job import Bench

__all__ = ["Objects", "features_of", "find_objects", "parents_seen", "tables_of"]


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects in a block's core, by the index of their first pixel in the whole image, which is their key.

    `ids`: int32 (y, x) of the core, 1 to n in the order of `keys`; `owned`: which of them the block owns. `labels`: the
    window as the recipe made it, `key_of` the key of each of its ids, -1 where not all of an object is seen.
    """

    ids: np.ndarray
    keys: np.ndarray
    owned: np.ndarray
    labels: np.ndarray
    key_of: np.ndarray


def find_objects(scene: Scene, value: Value, core: Window) -> Objects | None:
    """Return the objects that have a pixel in `core`, or None where not all of one can be seen."""
    labels, window = scene.layers[value].value, scene.window
    labels = _dense(labels)
    inside = core.within(window)
    if core.clipped(Window(0, 0, *scene.shape)) != core or scene.valid[value].rect.clipped(inside) != inside:
        return None
    cut = np.ascontiguousarray(labels[inside.slices])
    broken = broken_ids(labels, scene.valid[value], scene.sides)
    present = np.zeros(len(broken), bool)
    present[cut] = True
    bad = scene.valid[value].bad
    if (present & broken).any() or (bad is not None and bad[inside.slices].any()):
        return None
    first = first_pixels(labels, len(broken) - 1)
    y, x = np.divmod(first, labels.shape[1])
    keys = np.where(first >= 0, (y + window.top) * scene.shape[1] + x + window.left, -1)
    present[0] = False
    here = np.flatnonzero(present)
    here = here[np.argsort(keys[here])]
    number = np.zeros(len(broken), np.int32)
    number[here] = np.arange(1, len(here) + 1, dtype=np.int32)
    own = (y[here] >= inside.top) & (y[here] < inside.bottom) & (x[here] >= inside.left) & (x[here] < inside.right)
    # Where not all of an object is seen, its key is none.
    return Objects(number[cut], keys[here], own, labels, np.where(broken, -1, keys))


def _dense(labels: np.ndarray) -> np.ndarray:
    """Return labels whose largest is no more than a few times their number of pixels."""
    if int(labels.max(initial=0)) <= 4 * labels.size + 1024:
        return np.ascontiguousarray(labels)
    values, inverse = np.unique(labels, return_inverse=True)
    return np.ascontiguousarray(inverse.reshape(labels.shape).astype(np.int32) + np.int32(values[0] != 0))


def tables_of(some: Bench, scene: Scene, objects: Mapping[Value, Objects]) -> dict[str, bytes]:
    """Return, for every table step, the rows of the objects that the block owns, as an Arrow stream.

    The column `label` counts the owned objects of the block, from 1; a column `parent` holds keys.
    """
    from cellkit.engine.outputs import objects_of

    graph, frames = some.plan.graph, dict[Value, Any]()
    found: dict[str, bytes] = {}
    for number in some.plan.tables:
        step, reads = graph.steps[number], graph.reads[number]
        first = str(step.bindings[step.spec.arguments[0].name])
        if step.spec.name == "rle":
            frame = _rle(scene, objects[reads[first]])
        else:
            layers = {"raw": scene.sample.layer("raw")}
            for name, value in reads.items():
                layers[name] = frames[value] if value in frames else scene.layers.get(value, layers["raw"])
            child = str(step.bindings["child"]) if step.spec.name == "relate" else first
            owned = _owned(objects[reads[child]])
            layers[child] = replace(layers[child], value=owned)
            part = _around(owned)
            sample = replace(scene.sample, layers=MappingProxyType({n: _cut(x, part) for n, x in layers.items()}))
            frame = apply(step, sample, some.networks)[step.output]
            if step.spec.name == "measure":
                frame = _moved(frame, scene, part)
            if step.spec.name == "relate":
                parent = reads[str(step.bindings["parent"])]
                frame = frame.assign(parent=_keys(objects[parent], frame["parent"].to_numpy()))
        (made,) = graph.made_by(number)
        frames[made] = Layer(KINDS["table"], frame)
        found[f"t{number}"] = _stream(frame)
    if "rle" in some.plan.bound.outputs and "rle" not in some.plan.bound.layers:
        layer = graph.ends[objects_of(some.plan.bound, "rle")]
        found["t-rle"] = _stream(_rle(scene, objects[layer]))
    return found


def parents_seen(some: Bench, objects: Mapping[Value, Objects]) -> bool:
    """Tell whether all of every object is seen that a `relate` step may find to hold an owned one."""
    for number in some.plan.tables:
        step, reads = some.plan.graph.steps[number], some.plan.graph.reads[number]
        if step.spec.name == "relate":
            child, parent = (objects[reads[str(step.bindings[name])]] for name in ("child", "parent"))
            held = np.unique(parent.labels[_owned(child) > 0])
            if (parent.key_of[held[held > 0]] < 0).any():
                return False
    return True


def _around(labels: np.ndarray) -> Window:
    """Return the smallest window that holds all objects, which hangs on nothing but them; 1 px where there is none.

    Places are then the same to the last bit whatever window a block was seen through.
    """
    rows, columns = (np.flatnonzero((labels > 0).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return Window(0, 0, 1, 1)
    return Window(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def _cut(layer: Layer, part: Window) -> Layer:
    if layer.kind.name == "table":
        return layer
    return replace(layer, value=np.ascontiguousarray(layer.value[part.slices]))


def _stream(frame: pd.DataFrame) -> bytes:
    import pyarrow as pa

    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def features_of(some: Bench, scene: Scene, objects: Mapping[Value, Objects]) -> dict[str, bytes]:
    """Return the outlines of the objects that the block owns, where they are wanted, as an Arrow stream."""
    import pandas as pd

    from cellkit.engine.outputs import objects_of
    from cellkit.formats.geojson import geometries
    from cellkit.formats.objects import ObjectSet

    found: dict[str, bytes] = {}
    for value in objects:
        if "geojson" in some.plan.bound.outputs and value.name == objects_of(some.plan.bound, "geojson"):
            those = ObjectSet.of_labels(_owned(objects[value]), name=some.job.name)
            texts = geometries(those, (scene.window.top, scene.window.left))
            found[f"g-{value.key}"] = _stream(
                pd.DataFrame({"label": those.ids, "geometry": pd.Series(texts, dtype=str)})
            )
    return found


def _owned(those: Objects) -> np.ndarray:
    """Return the window's labels with the owned objects alone, numbered from 1 in the order of their keys."""
    number = np.zeros(len(those.key_of), np.int32)
    keys = those.keys[those.owned]
    order = np.argsort(those.key_of, kind="stable")
    at = order[np.searchsorted(those.key_of[order], keys)]
    number[at] = np.arange(1, len(keys) + 1, dtype=np.int32)
    return number[those.labels]


def _keys(those: Objects, ids: np.ndarray) -> np.ndarray:
    keys = those.key_of.copy()
    keys[0] = -1
    return keys[ids.astype(np.int64)]


def _moved(frame: pd.DataFrame, scene: Scene, part: Window) -> pd.DataFrame:
    """Return measurements of a part of the window with places counted from the corner of the image."""
    size = scene.sample.pixel_size or (1.0, 1.0)
    top, left = scene.window.top + part.top, scene.window.left + part.left
    for axis, offset, scale in (("y", top, size[0]), ("x", left, size[1])):
        for name in (f"centroid_{axis}", f"bbox_{axis}0", f"bbox_{axis}1"):
            if name in frame:
                frame[name] = frame[name] + offset
        if f"centroid_{axis}_um" in frame:
            frame[f"centroid_{axis}_um"] = frame[f"centroid_{axis}_um"] + offset * scale
    return frame


def _rle(scene: Scene, those: Objects) -> pd.DataFrame:
    import pandas as pd

    from cellkit.formats.rle import encode_part

    ids, texts = encode_part(_owned(those), (scene.window.top, scene.window.left), scene.shape[0])
    return pd.DataFrame({"label": ids, "EncodedPixels": pd.Series(texts, dtype=str)})
