"""The images of a batch that do not fit in memory, one after another, block by block."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING

import psutil

from cellkit.core.errors import CellkitError
from cellkit.engine.batch import Job, Outcome, Settings
from cellkit.engine.blockwise.drive import BlockError, Progress
from cellkit.engine.blockwise.run import BlockSettings, clear, run_image
from cellkit.engine.cluster import Gone
from cellkit.engine.executors import Workplace
from cellkit.engine.manifest import Manifest, Record

if TYPE_CHECKING:
    from cellkit.io import Source

__all__ = ["block_outcomes"]

_MOST = 4 * 10**9
"""Bytes that blocks take at most where nobody says: more make no run quicker."""


def block_outcomes(
    job: Job,
    large: Sequence[tuple[Source, Outcome]],
    manifest: Manifest,
    means: tuple[Settings, Workplace],
    on_block: Callable[[str, Progress], None] | None,
) -> Iterator[Outcome]:
    """Yield what becomes of the images `large`, with the reason why each does not fit."""
    settings, place = means
    memory = job.reader.room.limit or min(psutil.virtual_memory().total // 4, _MOST)
    lanes = (place.workers or os.cpu_count() or 1) if place.shares_memory else 1
    own = BlockSettings(
        memory, lanes, settings.level, settings.mpp, settings.device, settings.compiled, settings.plugins,
        settings.blocks, settings.tissue,
    )  # fmt: skip
    for source, outcome in large:
        if settings.fresh:
            clear(job.folder, outcome.record.name)
        record = _one(job, source, outcome, (manifest, own, place), on_block)
        yield Outcome(record)
        if record.status == "done":
            clear(job.folder, record.name)


def _one(
    job: Job,
    source: Source,
    outcome: Outcome,
    means: tuple[Manifest, BlockSettings, Workplace],
    on_block: Callable[[str, Progress], None] | None,
) -> Record:
    manifest, settings, place = means
    started, record = perf_counter(), outcome.record

    def tell(progress: Progress) -> None:
        told = (progress.stage, progress.done, progress.total, progress.seconds, progress.worker)
        manifest.progress(record.name, told)
        if on_block is not None:
            on_block(record.name, progress)

    try:
        with job.reader.open(source) as slide:
            done = run_image(job.plan, slide, replace(record, reason=""), job.folder, settings, place, tell)
    except Gone:
        raise
    except (CellkitError, OSError, MemoryError) as error:
        text = "does not fit in memory" if isinstance(error, MemoryError) else str(error)
        done = replace(record, reason=f"{record.reason}; block by block: {text}")
        if isinstance(error, BlockError):
            done = replace(done, facts={**record.facts, "failed_blocks": error.blocks})
    return replace(done, seconds=record.seconds + perf_counter() - started)
