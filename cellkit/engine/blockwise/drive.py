"""Run a recipe over the blocks of one image: pass after pass, resumable at every block."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellkit.core.errors import CellkitError, StageError
from cellkit.core.histogram import Histogram
from cellkit.engine.blockwise.job import Bench, BlockJob, bench, forget
from cellkit.engine.blockwise.joins import beside, decide
from cellkit.engine.blockwise.number import starts
from cellkit.engine.blockwise.outputs import label_store
from cellkit.engine.blockwise.passes import Pass
from cellkit.engine.blockwise.results import pack, pack_histogram, unpack_histogram, unpack_open
from cellkit.engine.blockwise.task import Done, Task, carry_out
from cellkit.engine.blockwise.tissue import blocks_of, grow
from cellkit.engine.executors import Lost, Workplace

__all__ = ["BlockError", "Progress", "Step", "begun", "run_passes"]


_TRIES = 2
"""How often a block is tried; one whose worker dies is tried by the workplace."""
_MOST_FAILED = 8
"""Blocks that fail before no more are begun: what is wrong with so many is wrong with all."""
_NAMED = 3


class BlockError(StageError):
    """Blocks that failed for good. `blocks` says of each where it is, in which stage it failed and why."""

    def __init__(self, job: BlockJob, stage: str, total: int, failed: Mapping[tuple[int, int], BaseException]) -> None:
        self.blocks: list[dict[str, Any]] = []
        for at, error in sorted(failed.items(), key=lambda item: item[0]):
            core = job.core(at)
            reason = str(error) if isinstance(error, CellkitError) else f"{type(error).__name__}: {error}"
            where = {"rows": [core.top, core.bottom], "columns": [core.left, core.right]}
            self.blocks.append({"block": list(at), **where, "stage": stage, "reason": reason})
        named = [
            f"rows {b['rows'][0]:,} to {b['rows'][1]:,}, columns {b['columns'][0]:,} to {b['columns'][1]:,}: "
            f"{b['reason']}" for b in self.blocks[:_NAMED]
        ]  # fmt: skip
        more = f"; and {len(self.blocks) - _NAMED} more" if len(self.blocks) > _NAMED else ""
        super().__init__(
            f"{len(self.blocks)} of {total:,} blocks failed in {stage} (the same command tries them again): "
            f"{'; '.join(named)}{more}"
        )


@dataclass(frozen=True)
class Progress:
    """Blocks done of a pass. `stage`: which pass of how many, counting those that mend and number."""

    stage: str
    done: int
    total: int
    seconds: float = 0.0
    worker: str = ""


Step = Callable[[Progress], None]


def run_passes(job: BlockJob, place: Workplace, tell: Step) -> Bench:
    """Do all blocks of all passes that are not done yet, up to the final labels; return the bench they left.

    Where objects reach so far into blocks without tissue that these are needed between passes, the job begins anew.

    Raises `BlockError` where blocks fail time after time; what is done stays done.
    """
    while True:
        try:
            some = bench(job)
            more = _passes(some, place, tell)
            if not more.any():
                _number(some, place, tell)
                return some
        except BaseException:
            forget(job)
            raise
        forget(job)
        job = grow(job, some.region, more)


def _passes(some: Bench, place: Workplace, tell: Step) -> np.ndarray:
    """Do the passes, and return the blocks without tissue that must be done too, so that all objects are whole."""
    job, region = some.job, some.region
    for now in some.plan.passes if region.kept.any() else ():
        between = now.store or now.join
        _blocks(job, place, ("pass", now.number), blocks_of(region.done if between else region.kept), tell)
        _merge(some, now)
        for number in now.join:
            _mend(some, place, now, number, tell)
    return _ended(some, place, tell)


def _ended(some: Bench, place: Workplace, tell: Step) -> np.ndarray:
    """Do the last pass of blocks without tissue that objects reach; return those that are missing between passes."""
    job, region, last = some.job, some.region, some.plan.passes[-1].number
    more, ended = np.zeros_like(region.kept), region.kept.copy()
    if region.whole:
        return more
    for at in blocks_of(region.kept):
        found = some.result("pass", last, at)
        for name, grid in (("reach", ended), ("outgrown", more)):
            if name in found:
                grid[tuple(found[name].T)] = True
    if not more.any():
        _blocks(job, place, ("pass", last), blocks_of(ended), tell)
        _write(job, "ended.npz", {"ended": ended})
    return more


def _number(some: Bench, place: Workplace, tell: Step) -> None:
    """Give the objects of all blocks their numbers, and write their labels."""
    start = starts(some)
    _write(some.job, "starts.npz", start)
    counts = {value: int(start[value.key][-1]) for value in some.plan.stored}
    if not all(label_store(some, value, count, create=False).begun for value, count in counts.items()):
        # Nothing is written yet, or a run was killed behind the end of a store: what is made now begins empty.
        shutil.rmtree(some.job.file("number", 0, (0, 0)).parent, ignore_errors=True)
    for value, count in counts.items():  # made here, so that workers only open them
        label_store(some, value, count)
    _blocks(some.job, place, ("number", 0), blocks_of(some.ended), tell)


def begun(folder: Path) -> str:
    """Return a word for what is in work in `folder`, made with it, so that workers who outlive a run tell it apart."""
    from cellkit.io import atomic

    path = folder / "begun"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            temporary.write_text(secrets.token_hex(8), encoding="ascii")
    return path.read_text(encoding="ascii")


def _blocks(
    job: BlockJob,
    place: Workplace,
    stage: tuple[str, int],
    ats: Iterable[tuple[int, int]],
    tell: Step,
    seeds: dict[tuple[int, int], np.ndarray] | None = None,
) -> None:
    """Do what is not done yet of a stage: what of `Task`, and number."""
    ats, (what, number) = list(ats), stage
    left = [at for at in ats if not job.file(what, number, at).exists()]
    done = len(ats) - len(left)
    tell(Progress(f"{what} {number}", done, len(ats)))
    failed: dict[tuple[int, int], BaseException] = {}
    for attempt in range(1, _TRIES + 1):
        failed = {at: error for at, error in failed.items() if isinstance(error, Lost)}  # those had their tries
        tasks = (_task(job, what, number, at, seeds) for at in left if len(failed) < _MOST_FAILED)
        for task, found in place.map(carry_out, tasks):
            if isinstance(found, Done):
                done += 1
                tell(Progress(f"{what} {number}", done, len(ats), found.seconds, found.worker))
            else:
                failed[task.at] = found
        if not failed:
            return
        if attempt < _TRIES:
            left = [at for at in left if not job.file(what, number, at).exists()]
            left = [at for at in left if at not in failed or not isinstance(failed[at], Lost)]
    raise BlockError(job, f"{what} {number}", len(ats), failed)


def _task(
    job: BlockJob,
    what: str,
    number: int,
    at: tuple[int, int],
    seeds: dict[tuple[int, int], np.ndarray] | None,
) -> Task:
    return Task(job, number, at, what, seeds[at].tobytes() if seeds is not None else b"")


def _merge(some: Bench, now: Pass) -> None:
    """Add up the histograms of all blocks."""
    if not now.measure or (Path(some.job.folder) / f"found-{now.number}.npz").exists():
        return
    total: dict[int, Histogram] = {}
    for at in blocks_of(some.region.kept):
        found = some.result("pass", now.number, at)
        for step, _ in now.measure:
            part = unpack_histogram(f"h{step}", found)
            total[step] = total[step] + part if step in total else part
    merged: dict[str, np.ndarray] = {}
    for step, histogram in total.items():
        merged |= pack_histogram(f"h{step}", histogram)
    _write(some.job, f"found-{now.number}.npz", merged)


def _mend(some: Bench, place: Workplace, now: Pass, number: int, tell: Step) -> None:
    """Decide the pieces that reach over cuts, and mend the blocks where that changes something."""
    job = some.job
    opened = {}
    for at in blocks_of(some.region.done):
        block = unpack_open(f"j{number}", some.result("pass", now.number, at))
        if len(block.seed):
            opened[at] = block
    beside(some.plan.graph.steps[number], opened, some.region.done)
    wanted = decide(some.plan.graph.steps[number], opened)
    if wanted:
        _blocks(job, place, ("mend", number), wanted, tell, wanted)


def _write(job: BlockJob, name: str, arrays: dict[str, np.ndarray]) -> None:
    from cellkit.io import atomic

    with atomic(Path(job.folder) / name) as path:
        path.write_bytes(pack(arrays))
