"""What a run has left in its folder, finished or not: its images, tables, layers and account of itself."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellkit.core.check import plan
from cellkit.core.errors import CellkitError, UsageError
from cellkit.core.recipe import ReadOptions, Recipe
from cellkit.engine.manifest import Record, looking, records_of, tables_of
from cellkit.engine.status import read_status

if TYPE_CHECKING:
    import pyarrow as pa

    from cellkit.io import Source

__all__ = ["Gathered", "LayerFiles", "Rows", "gather", "source_of"]

_SHOWN = ("labels", "mask", "classes", "prob", "field", "image")
_SUFFIXES = (".tif", ".png", ".zarr")


@dataclass(frozen=True)
class LayerFiles:
    """A layer that a run wrote, image by image: its name and kind, and the folder where its files lie."""

    name: str
    kind: str
    folder: Path

    def of(self, image: str) -> Path | None:
        """Return the file, or the store, of an image; None where there is none."""
        return next((p for p in (self.folder / f"{image}{end}" for end in _SUFFIXES) if p.exists()), None)


@dataclass(frozen=True)
class Rows:
    """A table of a run: `starts` (images + 1,), where the rows of each image begin; `layer` is whose objects they are.

    `layer` is empty where that is not known, as for boxes, which carry their own place.
    """

    name: str
    table: pa.Table
    starts: np.ndarray
    layer: str = ""


@dataclass(frozen=True)
class Gathered:
    """A run as its folder tells: `account` is its run.json, empty while it is not finished; `recipe` its text.

    `notes` say what could not be found out.
    """

    folder: Path
    records: tuple[Record, ...]
    account: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = ""
    name: str = ""
    options: ReadOptions = field(default_factory=ReadOptions)
    layers: tuple[LayerFiles, ...] = ()
    rows: tuple[Rows, ...] = ()
    running: bool = False
    notes: tuple[str, ...] = ()


def gather(folder: str | Path) -> Gathered:
    """Read what the run in `folder` has made so far.

    The run's state is read where it is there, else run.json and the tables, so that results that were copied without
    their hidden folder have a page too. Raises `UsageError` where the folder holds no run.
    """
    folder = Path(folder)
    account = _account(folder / "run.json")
    has_state = (folder / ".cellkit" / "state.sqlite").is_file()
    if not has_state and not account:
        raise UsageError(f"{folder}: holds no run of cellkit (neither run.json nor .cellkit/state.sqlite)")
    text = _text(folder / "recipe.yaml") or _text(folder / ".cellkit" / "recipe.yaml")
    notes = [] if text else ["the recipe is not known: this run was not finished"]
    recipe = _recipe(text, notes)
    layers, sources = _layers(folder, recipe)
    running = False
    if has_state:
        with looking(folder) as db:
            records = tuple(records_of(db))
            rows = [_rows_of_state(db, name, records) for name in _table_names(db)]
        running = read_status(folder).running
    else:
        records = tuple(_record(line) for line in account.get("images", ()))
        rows = [_rows_of_file(path, records) for path in sorted(folder.glob("*.parquet"))]
    known = {name: layers[0].name for name in ("table",) if layers} | sources
    objects = [r for r in rows if r is not None and r.table.num_rows]
    found = [Rows(r.name, r.table, r.starts, known.get(r.name, "")) for r in objects]
    return Gathered(
        folder, records, account, text, recipe.name if recipe else "", recipe.read_options if recipe else ReadOptions(),
        tuple(layers), tuple(found), running, tuple(notes),
    )  # fmt: skip


def source_of(record: Record, options: ReadOptions) -> Source:
    """Return the file, or the channel files, that a record was made from."""
    from cellkit.io import Source

    paths = tuple(map(Path, record.source.split(" + ")))
    if len(paths) > 1 and not Path(record.source).exists():
        return Source(record.name, paths, channels=options.channels)
    return Source(record.name, (Path(record.source),))


def _account(path: Path) -> dict[str, Any]:
    text = _text(path)
    try:
        made = json.loads(text) if text else {}
    except ValueError as error:
        raise UsageError(f"{path}: is damaged: {error}") from error
    return made if isinstance(made, dict) else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error


def _recipe(text: str, notes: list[str]) -> Recipe | None:
    try:
        return Recipe.load(text) if text else None
    except CellkitError as error:
        notes.append(f"the recipe cannot be read: {error}")
        return None


def _layers(folder: Path, recipe: Recipe | None) -> tuple[list[LayerFiles], dict[str, str]]:
    """Return the layers that have files, labels first, and which labels each table was measured on."""
    kinds: dict[str, str] = {}
    sources: dict[str, str] = {}
    try:
        bound = plan(recipe) if recipe is not None else None
    except CellkitError:  # stages of one's own that are not loaded here
        bound = None
    if bound is not None and recipe is not None:
        kinds = {name: kind.name for name, kind in bound.layers.items() if name in bound.outputs}
        for _, step in bound.walk():
            read = [n for b in step.bindings.values() for n in ([b] if isinstance(b, str) else b or ())]
            labels = [name for name in read if bound.layers.get(name) and bound.layers[name].name == "labels"]
            if step.output in kinds and kinds[step.output] == "table" and labels:
                sources[step.output] = labels[0]
    elif recipe is not None:
        kinds = {name: _guessed(name) for name in recipe.outputs}
    else:
        kinds = {name: _guessed(name) for name in ("labels", "mask", "prob")}
    found = [LayerFiles(n, k, folder / n) for n, k in kinds.items() if k in _SHOWN and (folder / n).is_dir()]
    return sorted(found, key=lambda layer: _SHOWN.index(layer.kind)), sources


def _guessed(name: str) -> str:
    return next((kind for kind in _SHOWN if kind in name), "")


def _table_names(db: sqlite3.Connection) -> list[str]:
    return [name for (name,) in db.execute("SELECT DISTINCT output FROM tables ORDER BY output") if name != "coco"]


def _rows_of_state(db: sqlite3.Connection, name: str, records: Sequence[Record]) -> Rows | None:
    import pyarrow as pa

    place = {record.name: i for i, record in enumerate(records)}
    counts = np.zeros(len(records), np.int64)
    parts: list[pa.Table] = []
    for record, stream in tables_of(db, name):
        if stream is None:
            continue
        table = pa.ipc.open_stream(stream).read_all()
        if "EncodedPixels" in table.column_names:
            return None
        counts[place[record.name]] += table.num_rows
        if table.num_rows:
            parts.append(table)
    if not parts:
        return None
    table = pa.concat_tables(parts, promote_options="permissive").combine_chunks()
    return Rows(name, table, np.concatenate([[0], np.cumsum(counts)]))


def _rows_of_file(path: Path, records: Sequence[Record]) -> Rows | None:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException):
        return None
    if "image" not in table.column_names or "EncodedPixels" in table.column_names:
        return None
    names = pd.Index([record.name for record in records])
    owner = names.get_indexer(table["image"].to_pandas())
    order = np.flatnonzero(owner >= 0)[np.argsort(owner[owner >= 0], kind="stable")]
    counts = np.bincount(owner[order], minlength=len(records))
    name = "table" if path.stem == "objects" else path.stem
    return Rows(name, table.take(order).drop_columns(["image"]), np.concatenate([[0], np.cumsum(counts)]))


def _record(line: Mapping[str, Any]) -> Record:
    keys = ("objects", "fields", "notes", "seams", "missing")
    facts = {key: line[key] for key in keys if key in line}
    return Record(
        str(line.get("name", "")), str(line.get("source", "")), status=str(line.get("status", "")),
        reason=str(line.get("reason", "")), seconds=float(line.get("seconds", 0.0)), facts=facts,
    )  # fmt: skip
