"""Write what a recipe's `outputs:` names: files per image, tables per run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellkit.core.check import WRITERS, Plan
from cellkit.core.errors import WriteError
from cellkit.core.kinds import Boxes, Instances, Kind
from cellkit.core.sample import Sample

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["counts", "encode", "layers_for", "table_outputs", "write_image_outputs"]

_PER_RUN = ("table", "boxes", "instances")


def layers_for(plan: Plan) -> list[str]:
    """Return the layers that must be made so that every output can be written."""
    names = [name for name in plan.outputs if name not in WRITERS]
    for output in plan.outputs:
        if output in WRITERS:
            names += [name for name in _drawn(plan, output) if name not in names]
    counted = [n for n, k in plan.layers.items() if k.name == "labels" and n in plan.outputs]
    return list(dict.fromkeys([*names, *counted]))


def table_outputs(plan: Plan) -> list[str]:
    """Return the outputs that become one table for the whole run."""
    return [name for name in plan.outputs if name not in WRITERS and plan.layers[name].name in _PER_RUN]


def write_image_outputs(plan: Plan, sample: Sample, folder: Path, scratch: Path) -> dict[str, int]:
    """Write the per-image outputs of `sample` into `folder`; return each file, relative to it, with its size."""
    files: dict[str, int] = {}
    for name in plan.outputs:
        kind = None if name in WRITERS else plan.layers[name]
        if kind is not None and kind.name in _PER_RUN:
            continue
        relative = f"{'overlays' if kind is None else name}/{sample.name}{_suffix(kind)}"
        path = folder / relative
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"{path.parent}: cannot be made: {error.strerror}") from error
        _write(kind, path, _draw(plan, sample, name) if kind is None else sample[name], sample, scratch)
        files[relative] = path.stat().st_size
    return files


def counts(plan: Plan, sample: Sample) -> dict[str, int]:
    """Return the number of objects of every label, box and instance layer in `sample` that was not just a help."""
    found: dict[str, int] = {}
    for name, kind in plan.layers.items():
        if name not in sample or name == "seeds":
            continue
        value = sample[name]
        if kind.name == "labels":
            top = int(value.max(initial=0))
            dense = 0 < top <= 4 * value.size + 1024
            found[name] = _distinct(value, top) if dense else len(np.setdiff1d(value, [0]))
        elif kind.name in ("boxes", "instances"):
            found[name] = len(value)
    return found


def encode(plan: Plan, sample: Sample) -> dict[str, bytes]:
    """Return the rows of every table output of one image as Arrow streams."""
    import pyarrow as pa

    encoded = {}
    for name in table_outputs(plan):
        table = pa.Table.from_pandas(_frame(sample[name]), preserve_index=False).replace_schema_metadata(None)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        encoded[name] = sink.getvalue().to_pybytes()
    return encoded


def _distinct(labels: np.ndarray, top: int) -> int:
    present = np.zeros(top + 1, bool)
    present[labels.ravel()] = True
    return int(np.count_nonzero(present[1:]))


def _frame(value: Any) -> pd.DataFrame:
    if isinstance(value, Instances):
        value = value.boxes
    if not isinstance(value, Boxes):
        return value
    import pandas as pd

    columns = {"x0": value.xyxy[:, 0], "y0": value.xyxy[:, 1], "x1": value.xyxy[:, 2], "y1": value.xyxy[:, 3]}
    return pd.DataFrame({**columns, "score": value.scores, "class": value.classes})


def _suffix(kind: Kind | None) -> str:
    return ".png" if kind is None or kind.name in ("mask", "classes") else ".tif"


def _write(kind: Kind | None, path: Path, value: np.ndarray, sample: Sample, scratch: Path) -> None:
    from cellkit import io

    if kind is None or kind.name == "classes":
        io.write(path, value, scratch=scratch)
        return
    writers: Mapping[str, Callable[..., None]] = {"labels": io.write_labels, "mask": io.write_mask}
    writers.get(kind.name, io.write_prob)(path, value, pixel_size=sample.pixel_size, scratch=scratch)


def _drawn(plan: Plan, output: str) -> Sequence[str]:
    """Return the layer an overlay shows: the newest of the kind that says most."""
    kinds = WRITERS[output]
    for kind in kinds:
        names = [n for n, k in plan.layers.items() if k.name == kind and n != "seeds"]
        wanted = [n for n in names if n in plan.outputs] or names
        if wanted:
            return wanted if kind == "labels" else wanted[-1:]
    return ()


def _draw(plan: Plan, sample: Sample, output: str) -> np.ndarray:
    from cellkit.report.overlay import overlay

    picture: np.ndarray = sample["raw"]
    for name in _drawn(plan, output):
        picture = overlay(picture, sample[name])
    return picture
