"""The tables and the account of a whole run: `images.csv`, one table per table output, `run.json`."""

from __future__ import annotations

import csv
import json
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellkit.core import registry
from cellkit.core.check import Plan
from cellkit.core.recipe import dump
from cellkit.engine.manifest import Manifest, Record
from cellkit.engine.outputs import makes_coco, table_outputs

if TYPE_CHECKING:
    import pyarrow as pa

    from cellkit.engine.batch import BatchResult
    from cellkit.formats.objects import ObjectSet

__all__ = ["versions", "write_results"]

_PACKAGES = (
    "numpy",
    "opencv-python-headless",
    "scikit-image",
    "scipy",
    "numba",
    "pandas",
    "pyarrow",
    "tifffile",
    "torch",
)
_ROWS_AT_ONCE = 50_000


def write_results(plan: Plan, manifest: Manifest, result: BatchResult, account: dict[str, Any]) -> None:
    """Write the run's tables and `run.json` into its folder, each at once or not at all; rows are streamed.

    `account`: the digest of the recipe, those of the networks, and the device, for `run.json`.
    """
    folder, scratch = result.folder, manifest.scratch
    from cellkit.io import atomic

    layers = [n for n, k in plan.layers.items() if k.name in ("labels", "boxes", "instances") and n != "seeds"]
    with atomic(folder / "images.csv", scratch=scratch) as path:
        _write_images(path, manifest, layers)
    for name in table_outputs(plan):
        _write_table(name, manifest, folder, scratch)
    if makes_coco(plan):
        from cellkit.io.objectwriter import write_objects

        write_objects(folder / "coco.json", _coco_sets(manifest), "coco", scratch=scratch)
    with atomic(folder / "recipe.yaml", scratch=scratch) as path:
        path.write_text(dump(plan.resolved()), encoding="utf-8")
    with atomic(folder / "run.json", scratch=scratch) as path:
        _write_account(path, plan, manifest, result, account)


def versions(*more: str) -> dict[str, str]:
    """Return the versions of cellkit, Python and the libraries that results hang on, and of those called `more`."""
    from cellkit import __version__

    found = {"cellkit": __version__, "python": platform.python_version()}
    for name in (*_PACKAGES, *more):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def peak_memory() -> int:
    """Return the most bytes of memory that this process has held so far."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most) if sys.platform == "darwin" else int(most) * 1024


def _field_names(manifest: Manifest) -> list[str]:
    names: dict[str, None] = {}
    for record in manifest.records():
        names.update(dict.fromkeys(record.facts.get("fields", {})))
    return list(names)


def _write_images(path: Path, manifest: Manifest, layers: list[str]) -> None:
    fields = _field_names(manifest)
    made = {name for record in manifest.records() for name in record.facts.get("objects", {})}
    layers = [name for name in layers if name in made]
    header = ["image", "source", *fields, "status", "objects", *(f"objects_{n}" for n in layers[1:])]
    header += ["height", "width", "pixel_size_y_um", "pixel_size_x_um", "missing_values", "seconds", "reason", "notes"]
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        for record in manifest.records():
            facts = record.facts
            done = record.status == "done"
            counted = [facts.get("objects", {}).get(name, "") for name in layers] or [""]
            size = facts.get("pixel_size") or ("", "")
            writer.writerow([
                record.name, record.source, *(facts.get("fields", {}).get(f, "") for f in fields), record.status,
                *(counted if done else [""] * len(counted)), facts.get("height", ""), facts.get("width", ""), *size,
                facts.get("missing", ""), f"{record.seconds:.3f}", record.reason, "; ".join(facts.get("notes", ())),
            ])  # fmt: skip


def _coco_sets(manifest: Manifest) -> Iterator[ObjectSet]:
    from cellkit.formats.coco import decode_dataset

    before = ""
    for record, text in manifest.tables("coco"):  # of an image done in blocks there are many parts
        for objects in decode_dataset(text, record.name) if text is not None else ():
            # The file an image came from, without its folder: results do not depend on where it lies.
            file_name = Path(record.source).name if " + " not in record.source else record.name
            yield objects.with_(file_name=file_name, image_id=None, continued=record.name == before)
            before = record.name


def _write_table(name: str, manifest: Manifest, folder: Path, scratch: Path) -> None:
    import pyarrow as pa
    import pyarrow.csv as pa_csv
    import pyarrow.parquet as pq

    from cellkit.io import atomic

    schemas: list[pa.Schema] = []
    for _, rows in manifest.tables(name):
        if rows is not None:
            schema = pa.ipc.open_stream(rows).schema
            if schema not in schemas:
                schemas.append(schema)
    merged = pa.unify_schemas(schemas, promote_options="permissive") if schemas else pa.schema([])
    if "EncodedPixels" in merged.names or (name == "rle" and not schemas):
        with atomic(folder / f"{name}.csv", scratch=scratch) as path:
            _write_kaggle(path, name, manifest)
        return
    fields = _field_names(manifest)
    columns = [pa.field("image", pa.string()), *(pa.field(f, pa.string()) for f in fields if f not in merged.names)]
    merged = pa.schema([*columns, *(f for f in merged if f.name != "image")])
    stem = "objects" if name == "table" else name
    options = pa_csv.WriteOptions(quoting_style="needed")
    with atomic(folder / f"{stem}.parquet", scratch=scratch) as path, pq.ParquetWriter(path, merged) as parquet:
        for table in _tables(name, manifest, merged):
            parquet.write_table(table)
    with (
        atomic(folder / f"{stem}.csv", scratch=scratch) as path,
        pa_csv.CSVWriter(path, merged, write_options=options) as out,
    ):
        for table in _tables(name, manifest, merged):
            out.write_table(table)


def _tables(name: str, manifest: Manifest, schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the rows of every image, in order, under one schema, some 50,000 rows at a time."""
    import pyarrow as pa

    held: list[pa.Table] = []
    count = 0
    for record, rows in manifest.tables(name):
        if rows is None:
            continue
        table = pa.ipc.open_stream(rows).read_all()
        if table.num_rows:
            held.append(_conform(table, record, schema))
            count += table.num_rows
        if count >= _ROWS_AT_ONCE:
            yield pa.concat_tables(held).combine_chunks()
            held, count = [], 0
    if held:
        yield pa.concat_tables(held).combine_chunks()


def _conform(table: pa.Table, record: Record, schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    known: dict[str, Any] = {"image": record.name, **record.facts.get("fields", {})}
    columns = []
    for field in schema:
        if field.name in table.column_names and field.name != "image":
            columns.append(table[field.name].cast(field.type))
        elif field.name in known:
            columns.append(pa.repeat(pa.scalar(known[field.name], field.type), table.num_rows))
        else:
            columns.append(pa.nulls(table.num_rows, field.type))
    return pa.table(columns, schema=schema)


def _write_kaggle(path: Path, name: str, manifest: Manifest) -> None:
    """Write ``ImageId,EncodedPixels``: one row per object; an image without objects has one row with no pixels."""
    import pyarrow as pa

    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["ImageId", "EncodedPixels"])
        for record, rows in manifest.tables(name):
            table = pa.ipc.open_stream(rows).read_all() if rows is not None else None
            codes = table["EncodedPixels"].to_pylist() if table is not None else []
            writer.writerows([record.name, code] for code in codes or [""])


def _write_account(path: Path, plan: Plan, manifest: Manifest, result: BatchResult, account: dict[str, Any]) -> None:
    import yaml

    head: dict[str, Any] = {
        "recipe": yaml.safe_load(dump(plan.resolved())),
        "digests": {"recipe": account["recipe"], "plugins": registry.plugin_digests(), "networks": account["networks"]},
        "versions": versions(),
        "platform": platform.platform(),
        "device": account["device"],
        "seconds": round(result.seconds, 3),
        "step_seconds": {where: round(s, 4) for where, s in sorted(result.step_seconds.items())},
        "step_memory": dict(sorted(result.step_memory.items())),
        "peak_memory": max([peak_memory(), *result.step_memory.values()]),
        "counts": {"images": result.images, "done": result.done, "kept": result.kept, "failed": len(result.failed)},
        "objects": result.objects,
        "notes": list(result.notes),
    }
    text = json.dumps(head, indent=2, ensure_ascii=False)
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(f'{text[: text.rindex("}")].rstrip()},\n  "images": [')
        for i, record in enumerate(manifest.records()):
            line: dict[str, Any] = {"name": record.name, "source": record.source, "status": record.status}
            line["objects"] = record.facts.get("objects", {})
            line.update(sha256=record.digest, seconds=round(record.seconds, 4))
            if record.reason:
                line["reason"] = record.reason
            for key in ("notes", "missing", "fields", "seams", "worker", "failed_blocks"):
                if record.facts.get(key):
                    line[key] = record.facts[key]
            stream.write(f"{',' if i else ''}\n    {json.dumps(line, ensure_ascii=False)}")
        stream.write("\n  ]\n}\n")
