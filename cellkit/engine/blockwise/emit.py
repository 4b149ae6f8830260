"""Rows of tables, run-length codes and outlines of the objects that a block owns."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from cellkit.core.kinds import KINDS
from cellkit.core.sample import Layer
from cellkit.engine.blockwise.block import Block
from cellkit.engine.blockwise.values import SOURCE, Value
from cellkit.engine.execute import apply
from cellkit.engine.outputs import arrow_bytes, objects_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["features_of", "tables_of"]


def tables_of(block: Block) -> dict[str, bytes]:
    """Return, for every table step, the rows of the objects that the block owns, as an Arrow stream.

    The column `label` counts the owned objects of the block, from 1; a column `parent` holds keys.
    """
    graph, bound = block.some.plan.graph, block.some.plan.bound
    frames: dict[Value, Any] = {}
    found: dict[str, bytes] = {}
    seen = any(value.step == SOURCE for number in block.some.plan.tables for value in graph.reads[number].values())
    sample = block.sample(seen)
    for number in block.some.plan.tables:
        step, reads = graph.steps[number], graph.reads[number]
        first = reads[str(step.bindings[step.spec.arguments[0].name])]
        if step.spec.name == "rle":
            frame = _rle(block, first)
        else:
            layers = {"raw": sample.layer("raw")}
            objects = reads[str(step.bindings["child"])] if step.spec.name == "relate" else first
            parents = np.zeros(0, np.int64)
            for name, value in reads.items():
                if value == objects:
                    layers[name] = Layer(KINDS["labels"], block.drawn(value))
                elif value in frames:
                    layers[name] = frames[value]
                elif step.spec.name == "relate":
                    parents = block.held_by(objects, value)
                    layers[name] = Layer(KINDS["labels"], block.drawn(value, parents))
                elif name != "raw":
                    layers[name] = block.behind(value, objects)
            frame = apply(step, replace(sample, layers=MappingProxyType(layers)), block.some.networks)[step.output]
            if step.spec.name == "measure":
                frame = _moved(frame, block)
            if step.spec.name == "relate":
                keys = np.concatenate([[-1], parents])
                frame = frame.assign(parent=keys[frame["parent"].to_numpy().astype(np.int64)])
        (made,) = graph.made_by(number)
        frames[made] = Layer(KINDS["table"], frame)
        found[f"t{number}"] = arrow_bytes(frame)
    if "rle" in bound.outputs and "rle" not in bound.layers:
        found["t-rle"] = arrow_bytes(_rle(block, graph.ends[objects_of(bound, "rle")]))
    return found


def features_of(block: Block) -> dict[str, bytes]:
    """Return the outlines of the objects that the block owns, where they are wanted, as an Arrow stream."""
    import pandas as pd

    from cellkit.formats.geojson import geometries
    from cellkit.formats.objects import ObjectSet

    plan = block.some.plan
    if "geojson" not in plan.bound.outputs:
        return {}
    value = plan.graph.ends[objects_of(plan.bound, "geojson")]
    those = ObjectSet.of_labels(block.drawn(value), name=block.some.job.name)
    texts = geometries(those, (block.canvas.top, block.canvas.left))
    return {f"g-{value.key}": arrow_bytes(pd.DataFrame({"label": those.ids, "geometry": pd.Series(texts, dtype=str)}))}


def _moved(frame: pd.DataFrame, block: Block) -> pd.DataFrame:
    """Return measurements of the canvas with places counted from the corner of the image."""
    size = block.some.slide.info.pixel_size or (1.0, 1.0)
    for axis, offset, scale in (("y", block.canvas.top, size[0]), ("x", block.canvas.left, size[1])):
        for name in (f"centroid_{axis}", f"bbox_{axis}0", f"bbox_{axis}1"):
            if name in frame:
                frame[name] = frame[name] + offset
        if f"centroid_{axis}_um" in frame:
            frame[f"centroid_{axis}_um"] = frame[f"centroid_{axis}_um"] + offset * scale
    return frame


def _rle(block: Block, value: Value) -> pd.DataFrame:
    import pandas as pd

    from cellkit.formats.rle import encode_part

    origin = (block.canvas.top, block.canvas.left)
    ids, texts = encode_part(block.drawn(value), origin, block.some.job.shape[0])
    return pd.DataFrame({"label": ids, "EncodedPixels": pd.Series(texts, dtype=str)})
