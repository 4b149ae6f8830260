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
from cellkit.engine.execute import live

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from cellkit.formats.objects import ObjectSet

__all__ = [
    "arrow_bytes",
    "counts",
    "drawn_layers",
    "encode",
    "layers_for",
    "makes_coco",
    "makes_report",
    "objects_of",
    "table_outputs",
    "write_image_outputs",
]

_PER_RUN = ("table", "boxes", "instances")


def layers_for(plan: Plan) -> list[str]:
    """Return the layers that must be made so that every output can be written."""
    names = [name for name in plan.outputs if not _is_made(plan, name)]
    for output in plan.outputs:
        if _is_made(plan, output):
            names += [name for name in _used(plan, output) if name not in names]
    # Objects are counted wherever labels are made anyway.
    made = {name for step in live(plan, names) for name in step.writes}
    counted = [n for n, k in plan.layers.items() if k.name == "labels" and n != "seeds" and n in made]
    return list(dict.fromkeys([*names, *counted]))


def table_outputs(plan: Plan) -> list[str]:
    """Return the outputs that become one table for the whole run."""
    return [
        name for name in plan.outputs if (name == "rle" if _is_made(plan, name) else plan.layers[name].name in _PER_RUN)
    ]


def drawn_layers(plan: Plan) -> Sequence[str]:
    """Return the layers that the run's overlays show."""
    return _used(plan, "overlay") if "overlay" in plan.outputs and _is_made(plan, "overlay") else ()


def makes_coco(plan: Plan) -> bool:
    """Tell whether the run ends with a COCO data set."""
    return "coco" in plan.outputs and _is_made(plan, "coco")


def makes_report(plan: Plan) -> bool:
    """Tell whether the run ends with a page of itself."""
    return "report" in plan.outputs and _is_made(plan, "report")


def write_image_outputs(plan: Plan, sample: Sample, folder: Path, scratch: Path) -> dict[str, int]:
    """Write the per-image outputs of `sample` into `folder`; return each file, relative to it, with its size."""
    files: dict[str, int] = {}
    for name in plan.outputs:
        made = _is_made(plan, name)
        kind = None if made else plan.layers[name]
        if (made and name in ("rle", "coco", "report")) or (kind is not None and kind.name in _PER_RUN):
            continue
        relative = f"{'overlays' if made and name == 'overlay' else name}/{sample.name}{_suffix(name, kind)}"
        path = folder / relative
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"{path.parent}: cannot be made: {error.strerror}") from error
        if made and name != "overlay":
            from cellkit.io.objectwriter import write_image_objects

            write_image_objects(path, _objects(plan, sample, name), name, scratch=scratch)
        else:
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
    """Return the rows of every table output of one image as Arrow streams, and its part of a COCO data set."""
    encoded = {}
    for name in table_outputs(plan):
        encoded[name] = arrow_bytes(_codes(plan, sample) if _is_made(plan, name) else _frame(sample[name]))
    if makes_coco(plan):
        from cellkit.formats.coco import encode_dataset

        encoded["coco"] = encode_dataset([_objects(plan, sample, "coco")]).encode("utf-8")
    return encoded


def arrow_bytes(rows: pd.DataFrame | pa.Table) -> bytes:
    """Return rows as an Arrow stream, without their index."""
    import pyarrow as pa

    table = rows
    if not isinstance(rows, pa.Table):
        table = pa.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata(None)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


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


def _codes(plan: Plan, sample: Sample) -> pd.DataFrame:
    import pandas as pd

    from cellkit.formats.rle import encode_labels

    ids, texts = encode_labels(sample[_used(plan, "rle")[0]])
    return pd.DataFrame({"label": ids, "EncodedPixels": pd.Series(texts, dtype=str)})


def objects_of(plan: Plan, output: str) -> str:
    """Return the name of the layer that an output of objects is made of."""
    return _used(plan, output)[0]


def _objects(plan: Plan, sample: Sample, output: str) -> ObjectSet:
    """Return the objects that an output is made of."""
    from cellkit.formats.objects import ObjectSet

    layer = sample.layer(_used(plan, output)[0])
    if layer.kind.name == "labels":
        made = ObjectSet.of_labels(layer.value, name=sample.name)
    else:
        made = ObjectSet.of_instances(layer.value, sample.shape, name=sample.name, names=layer.names)
    return made.with_(pixel_size=sample.pixel_size)


def _is_made(plan: Plan, output: str) -> bool:
    """Tell whether an output is made of layers instead of being one."""
    return output in WRITERS and output not in plan.layers


def _suffix(output: str, kind: Kind | None) -> str:
    if kind is None and output != "overlay":
        from cellkit.io.objectwriter import image_suffix

        return image_suffix(output)
    return ".png" if kind is None or kind.name in ("mask", "classes") else ".tif"


def _write(kind: Kind | None, path: Path, value: np.ndarray, sample: Sample, scratch: Path) -> None:
    from cellkit import io

    if kind is None or kind.name == "classes":
        io.write(path, value, scratch=scratch)
        return
    writers: Mapping[str, Callable[..., None]] = {"labels": io.write_labels, "mask": io.write_mask}
    writers.get(kind.name, io.write_prob)(path, value, pixel_size=sample.pixel_size, scratch=scratch)


def _used(plan: Plan, output: str) -> Sequence[str]:
    """Return the layer an output is made of: the newest of the kind that says most; an overlay draws all labels."""
    kinds = WRITERS[output]
    for kind in kinds:
        names = [n for n, k in plan.layers.items() if k.name == kind and n != "seeds"]
        wanted = [n for n in names if n in plan.outputs] or names
        if wanted:
            return wanted if kind == "labels" and output == "overlay" else wanted[-1:]
    return ()


def _draw(plan: Plan, sample: Sample, output: str) -> np.ndarray:
    from cellkit.report.overlay import overlay

    picture: np.ndarray = sample["raw"]
    for name in _used(plan, output):
        picture = overlay(picture, sample[name])
    return picture
