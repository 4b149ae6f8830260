"""One image of a batch, block by block: whether it must be, how large its blocks are, and the record it leaves."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellkit.core.check import Plan
from cellkit.core.errors import CellkitError, UsageError
from cellkit.core.recipe import dump
from cellkit.engine.blockwise.drive import Step, begun, run_passes
from cellkit.engine.blockwise.job import Bench, BlockJob, forget
from cellkit.engine.blockwise.outputs import coco_parts, label_store, rows, write_features, write_rois
from cellkit.engine.blockwise.overlay import write_overlay
from cellkit.engine.blockwise.passes import BlockPlan, plan_blocks
from cellkit.engine.blockwise.seams import Read, audit, unexplained
from cellkit.engine.blockwise.settle import ROOM
from cellkit.engine.blockwise.store import CHUNK
from cellkit.engine.blockwise.tissue import begin, region_of
from cellkit.engine.blockwise.values import Value
from cellkit.engine.footprint import bytes_per_pixel
from cellkit.engine.manifest import Record
from cellkit.engine.outputs import arrow_bytes, layers_for, makes_coco, objects_of, table_outputs
from cellkit.engine.reading import size_of
from cellkit.formats.imagej import MAX_COORDINATE
from cellkit.io.objectwriter import image_suffix

if TYPE_CHECKING:
    from cellkit.engine.executors import Workplace
    from cellkit.io.slides import Slide

__all__ = ["BlockSettings", "Sized", "run_image", "size_blocks"]

_LARGEST = 2560
"""Beyond this, arrays are so large that the system zeroes fresh memory for each, which costs more than halos do."""
_SEAM_SHARE = 0.02
"""Straight outline along cuts that is too much: as a share of the length of all cuts, beyond that of other lines."""


@dataclass(frozen=True)
class BlockSettings:
    """How blocks are done. `bytes`: memory that all windows in work may take together; `lanes`: how many those are.

    `level`, `mpp`: resolution; `device`, `compiled`: of networks; `plugins`: files of one's own stages; `side`: of a
    block, where it is not to follow from the memory; `tissue`: see `cellkit.engine.batch.Settings`.
    """

    bytes: int
    lanes: int
    level: int | None = None
    mpp: float | None = None
    device: str = "auto"
    compiled: bool = False
    plugins: tuple[str, ...] = ()
    side: int | None = None
    tissue: str = ""


@dataclass(frozen=True)
class Sized:
    """The side of a block, and the pixels that a window may grow to."""

    side: int
    most: int


def size_blocks(plan: BlockPlan, channels: int, settings: BlockSettings) -> Sized:
    """Return how large blocks are, by the memory there is.

    Raises `UsageError` where not even the smallest fits.
    """
    each = bytes_per_pixel(plan.bound, layers_for(plan.bound), channels)
    most = settings.bytes // settings.lanes // each
    reach = max(some.reach for some in plan.passes) + ROOM
    if settings.side is not None:
        chunk = CHUNK if settings.side >= CHUNK else 16
        step = int(np.lcm(chunk, plan.align))
        return Sized(-(-settings.side // step) * step, most)
    side = step = int(np.lcm(CHUNK, plan.align))
    # Half is left for a block that must be done again in a larger window.
    while side + step <= _LARGEST and (side + step + 2 * reach) ** 2 * 2 <= most:
        side += step
    if (side + 2 * reach) ** 2 > most:
        need = (side + 2 * reach) ** 2 * each * settings.lanes
        raise UsageError(
            f"--memory leaves {settings.bytes / 1e6:,.0f} MB for blocks; {settings.lanes} of {side} px with "
            f"{reach} px around them take {need / 1e6:,.0f} MB; give more, or fewer --workers"
        )
    return Sized(side, most)


def run_image(
    bound: Plan, slide: Slide, record: Record, folder: Path, settings: BlockSettings, place: Workplace, tell: Step
) -> Record:
    """Carry out `bound` on one image of any size, and return its record.

    `record` says which image and recipe it is; `folder` is that of the run. What was done of it before is kept.

    Raises `CellkitError` where the recipe cannot be done block by block, or a block fails.
    """
    plan = plan_blocks(bound)
    height, width, channels = slide.info.shape
    if "rois" in bound.outputs and "rois" not in bound.layers and max(height, width) > MAX_COORDINATE:
        raise UsageError(
            f"rois: ImageJ's ROIs reach to {MAX_COORDINATE:,} px, the image has {height:,} x {width:,}; write geojson"
        )
    sized = size_blocks(plan, channels, settings)
    source = slide.spec.source
    digest = _digest(record, sized, settings, slide)
    scratch = folder / ".cellkit" / "blocks"
    place_of = scratch / f"{record.name}-{digest[:12]}"
    job = BlockJob(
        recipe=dump(bound.resolved()),
        name=record.name,
        paths=tuple(map(str, source.paths)),
        folder=str(place_of.absolute()),
        target=str(folder.absolute()),
        shape=(height, width),
        side=sized.side,
        most=sized.most,
        level=settings.level,
        mpp=settings.mpp,
        device=settings.device,
        compiled=settings.compiled,
        plugins=settings.plugins,
        fields=tuple(dict(source.fields).items()),
        channels=source.channels,
        digest=f"{digest}-{begun(place_of)}",
    )
    _forget_others(scratch, record.name, Path(job.folder))
    if settings.tissue:
        job = begin(job, lambda: region_of(job, plan, slide, settings.tissue, ROOM))
    some = run_passes(job, place, tell)
    try:
        return _finished(some, record, folder, settings.tissue)
    finally:
        forget(some.job)


def clear(folder: Path, name: str) -> None:
    """Remove what blocks have left in the run's state for an image that is done."""
    _forget_others(folder / ".cellkit" / "blocks", name, None)


def _digest(record: Record, sized: Sized, settings: BlockSettings, slide: Slide) -> str:
    texts = (record.recipe, record.digest, str(sized.side), str(settings.level), str(settings.mpp), str(slide.shape))
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _forget_others(scratch: Path, name: str, own: Path | None) -> None:
    for path in scratch.glob("*") if scratch.is_dir() else ():
        if path.name[: -len("-123456789012")] == name and (own is None or path.name != own.name):
            shutil.rmtree(path, ignore_errors=True)


def _finished(some: Bench, record: Record, folder: Path, tissue: str) -> Record:
    """Finish the stores, audit the seams, and return the record of an image that is done."""
    job, plan, start = some.job, some.plan, some.starts
    files: dict[str, int] = {}
    facts: dict[str, Any] = {
        "objects": {v.name: int(start[v.key][-1]) for v in plan.emit if plan.graph.ends.get(v.name) == v},
        "height": job.shape[0], "width": job.shape[1], "pixel_size": some.slide.info.pixel_size,
        "notes": _notes(some, tissue), "fields": dict(job.fields),
    }  # fmt: skip
    stores = {
        value.name: label_store(some, value, int(start[value.key][-1]))
        for value in plan.emit if value.name in plan.bound.outputs
    }  # fmt: skip
    seams = {name: _audited(some, store.read, name) for name, store in stores.items()}
    if plan.drawn:  # of labels whose stores are not finished yet
        relative = f"overlays/{job.name}.tif"
        write_overlay(some, folder / relative)
        files[relative] = (folder / relative).stat().st_size
    for name, store in stores.items():
        store.finish()
        files[f"{name}/{job.name}.zarr"] = size_of(store.path)
    for value in plan.keep if some.ended.any() else ():
        if value.name not in plan.bound.outputs:
            continue
        files[f"{value.name}/{job.name}.zarr"] = _kept(some, value)
    for name, write in (("geojson", write_features), ("rois", write_rois)):
        if name in plan.bound.outputs and name not in plan.bound.layers:
            relative = f"{name}/{job.name}{image_suffix(name)}"
            write(some, plan.graph.ends[objects_of(plan.bound, name)], folder / relative)
            files[relative] = (folder / relative).stat().st_size
    facts["seams"] = seams
    return replace(record, status="done", facts=facts, files=files, tables=_tables(some))


def _audited(some: Bench, read: Read, name: str) -> dict[str, float]:
    """Return what the seams of one layer look like. Raises `CellkitError` where objects are cut at them."""
    seams = audit(some.job, read)
    straight, limit = seams.straight, max(64.0, _SEAM_SHARE * seams.cuts)
    if seams.excess > limit:
        straight = unexplained(some.job, read, lambda window: some.slide.read(window)["raw"])
    if straight - seams.expected > limit:
        raise CellkitError(
            f"{name}: objects are cut at the seams: {straight:,} px of straight outline along {seams.cuts:,} px of "
            f"cuts between blocks, where other lines have {seams.expected:,.0f}; a step reaches farther than it says"
        )
    expected = round(seams.expected, 1)
    return {"touching": seams.touching, "straight": straight, "expected": expected, "cuts_px": seams.cuts}


def _notes(some: Bench, tissue: str) -> list[str]:
    job, (down, across) = some.job, some.job.grid
    notes = [f"done in {down} x {across} blocks of {job.side} px", *some.slide.notes, *some.networks.notes()]
    if tissue:
        none = int((~some.region.kept).sum())
        notes.append(
            f"tissue {Path(tissue).name}: {none:,} of {down * across:,} blocks hold none and were left out, also of "
            "what is measured on the whole image"
        )
    return notes


def _kept(some: Bench, value: Value) -> int:
    """Move a layer that is no labels to where the run's results lie."""
    path = some.job.result(value)
    source = some.store.folder / value.key
    path.parent.mkdir(parents=True, exist_ok=True)
    if source.exists():
        shutil.rmtree(path, ignore_errors=True)
        source.rename(path)
    return size_of(path)


def _tables(some: Bench) -> dict[str, Iterator[bytes]]:
    """Return the rows of every table output, block after block, as Arrow streams, and the parts of a COCO data set."""
    bound, ends = some.plan.bound, some.plan.graph.ends
    wanted = {name: ends[name].step if name in bound.layers else None for name in table_outputs(bound)}
    found: dict[str, Iterator[bytes]] = {name: map(arrow_bytes, rows(some, number)) for name, number in wanted.items()}
    if makes_coco(bound):
        found["coco"] = coco_parts(some, ends[objects_of(bound, "coco")])
    return found
