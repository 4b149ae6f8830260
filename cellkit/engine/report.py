"""Write the page of a run: gather what is in its folder, draw its images side by side, put the page together."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from cellkit.core.kinds import Boxes
from cellkit.engine.files import Files
from cellkit.engine.gather import Gathered, Rows, gather
from cellkit.engine.opencv import single_threaded_opencv
from cellkit.engine.pictures import Drawn, Illustrator
from cellkit.report.packed import packed
from cellkit.report.runreport import RunReport, report_page

__all__ = ["Written", "write_report"]

_INSIDE = 4 << 20
"""Pictures and data up to so many bytes go into the page itself, larger ones into a folder beside it."""
_MOST_WORDS = 1000
_BOX = ("x0", "y0", "x1", "y1")


@dataclass(frozen=True)
class Written:
    """A page that was written: how many images it shows, how many of them with something to note, in which time."""

    page: Path
    images: int
    noted: int
    bytes: int
    seconds: float


def write_report(
    folder: str | Path,
    *,
    title: str = "",
    single: bool | None = None,
    workers: int | None = None,
    on_image: Callable[[int, int], None] | None = None,
) -> Written:
    """Write ``report.html``, a page of the run in `folder`, into that folder.

    It works from the disk, without a network. Up to 4 MiB of pictures and data are part of the page; more, and tiles,
    lie beside it in the folder ``report``; `single` says which. `on_image` is told how many images are drawn,
    of how many.

    Raises `UsageError` where the folder holds no run, `WriteError` where it cannot be written.
    """
    from cellkit.io import atomic
    from cellkit.io.temporary import exchange, write_failure

    started = perf_counter()
    run = gather(folder)
    workers = workers or os.cpu_count() or 1
    page, beside = run.folder / "report.html", run.folder / "report"
    files = Files(run.folder / ".report.partial")
    try:
        drawn = _draw(run, files, workers, on_image)
        sets = [made for made in (_set(files, rows, drawn) for rows in _all_rows(run, drawn)) if made]
        tiled = any(name.startswith("deep/") for name in files.names)
        small = files.size <= _INSIDE and not tiled if single is None else single
        report = RunReport(
            title or f"{run.name or 'Run'} on {len(run.records):,} image{'s' * (len(run.records) != 1)}",
            [one.entry for one in drawn], sets, run.account, run.recipe, run.notes, run.running,
            files.inside() if small else None,
        )  # fmt: skip
        text = report_page(report)
        try:
            if small:
                shutil.rmtree(beside, ignore_errors=True)
            else:
                exchange(files.folder, beside)
        except OSError as error:
            raise write_failure(beside, error) from error
        with atomic(page) as path:
            path.write_text(text, encoding="utf-8")
    finally:
        shutil.rmtree(files.folder, ignore_errors=True)
    noted = sum(one.noted for one in drawn)
    size = len(text) + (0 if small else files.size)
    return Written(page, len(drawn), noted, size, perf_counter() - started)


def _draw(
    run: Gathered, files: Files, workers: int, on_image: Callable[[int, int], None] | None
) -> list[Drawn]:  # fmt: skip
    illustrator = Illustrator(files, run.folder, run.options, run.layers)
    boxes = next((rows for rows in run.rows if _is_boxes(rows)), None)
    drawn: list[Drawn] = []
    with single_threaded_opencv(workers), ThreadPoolExecutor(workers) as pool:
        futures = [
            pool.submit(illustrator.draw, i, record, _boxes_of(boxes, i)) for i, record in enumerate(run.records)
        ]
        try:
            for future in futures:
                drawn.append(future.result())
                if on_image is not None:
                    on_image(len(drawn), len(futures))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return drawn


def _is_boxes(rows: Rows) -> bool:
    return set(_BOX) <= set(rows.table.column_names)


def _boxes_of(rows: Rows | None, image: int) -> Boxes | None:
    if rows is None:
        return None
    part = rows.table.slice(int(rows.starts[image]), int(rows.starts[image + 1] - rows.starts[image]))
    xyxy = np.stack([part[name].to_numpy() for name in _BOX], axis=1).astype(np.float32)
    kinds = part["class"].to_numpy() if "class" in part.column_names else np.zeros(len(xyxy))
    classes = kinds.astype(np.int32) if kinds.dtype.kind in "iuf" else np.zeros(len(xyxy), np.int32)
    return Boxes(xyxy.reshape(-1, 4), np.ones(len(xyxy), np.float32), classes)


def _all_rows(run: Gathered, drawn: Sequence[Drawn]) -> list[Rows]:
    """Return the run's tables, and one made here for each labels layer that has none."""
    import pyarrow as pa

    rows = list(run.rows)
    measured = {row.layer for row in rows}
    for layer in run.layers:
        parts = [one.measured.get(layer.name) for one in drawn]
        if layer.name in measured or not any(part is not None and len(part["ids"]) for part in parts):
            continue
        known = [part for part in parts if part is not None]
        columns: dict[str, np.ndarray] = {
            "label": np.concatenate([part["ids"] for part in known]),
            "area": np.concatenate([part["area"] for part in known]),
        }
        places = np.concatenate([np.concatenate([part["centroid"], part["box"]], axis=1) for part in known])
        names = ("centroid_y", "centroid_x", "bbox_y0", "bbox_x0", "bbox_y1", "bbox_x1")
        columns |= dict(zip(names, places.T, strict=True))
        counts = [0 if part is None else len(part["ids"]) for part in parts]
        starts = np.concatenate([[0], np.cumsum(counts)])
        rows.append(Rows(f"{layer.name} (measured for this page)", pa.table(columns), starts, layer.name))
    return rows


def _set(files: Files, rows: Rows, drawn: Sequence[Drawn]) -> dict[str, Any] | None:
    """Write the columns of a table, each as a file, and return what the page's script must know of them."""
    number = f"{len(files.names)}"
    columns: list[dict[str, Any]] = []
    made: dict[str, np.ndarray] = {}
    for name in rows.table.column_names:
        values, words = _numbers(rows.table[name])
        if values is not None:
            made[name] = values
            columns.append({"name": name, "words": words} if words else {"name": name})
    if not made:
        return None
    own = set(made)
    for name, values in _derived(rows, made, drawn).items():
        if name not in own:
            made[name] = values
            columns.append({"name": name, "derived": True})
    for i, column in enumerate(columns):
        column["file"] = f"columns/{number}-{i}"
        files.data(column["file"], packed(made[column["name"]]))
    return {
        "name": rows.name, "layer": rows.layer, "columns": columns, "starts": rows.starts.tolist(),
        "boxes": _is_boxes(rows), "id": "label" if "label" in own else "",
    }  # fmt: skip


def _numbers(column: Any) -> tuple[np.ndarray | None, list[str]]:
    """Return a column of an Arrow table as numbers, and, where it holds few different texts, those."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        if pa.types.is_boolean(kind):
            column = column.cast(pa.uint8())
        return column.to_numpy(), []
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
        coded = column.combine_chunks()
        coded = coded if pa.types.is_dictionary(kind) else coded.dictionary_encode()
        words = [str(word) for word in coded.dictionary.to_pylist()]
        if len(words) <= _MOST_WORDS:
            return coded.indices.fill_null(len(words)).to_numpy(zero_copy_only=False), [*words, ""]
    return None, []


def _derived(rows: Rows, columns: dict[str, np.ndarray], drawn: Sequence[Drawn]) -> dict[str, np.ndarray]:
    """Return what is not in a table but tells of outliers: how round, how sharp, how saturated an object is."""
    found: dict[str, np.ndarray] = {}
    if "area" in columns and "perimeter" in columns:
        with np.errstate(divide="ignore", invalid="ignore"):
            # 1 for a disc (Cox 1927); of a few pixels more, as the perimeter of so few is short.
            found["roundness"] = np.minimum(4 * np.pi * columns["area"] / columns["perimeter"] ** 2, 1.0)
    ids = columns.get("label")
    for name in ("sharpness", "saturated") if rows.layer else ():
        if ids is None:
            continue
        values = np.full(len(rows.table), np.nan)
        for i, one in enumerate(drawn):
            known = one.measured.get(rows.layer, {})
            if name not in known or not len(known["ids"]):
                continue
            mine = slice(int(rows.starts[i]), int(rows.starts[i + 1]))
            at = np.minimum(np.searchsorted(known["ids"], ids[mine]), len(known["ids"]) - 1)
            values[mine] = np.where(known["ids"][at] == ids[mine], known[name][at], np.nan)
        if np.isfinite(values).any():
            found[name] = values
    return found
