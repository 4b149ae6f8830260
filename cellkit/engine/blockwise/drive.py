"""Run a recipe over the blocks of one image: pass after pass, resumable at every block."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellkit.core.errors import CellkitError
from cellkit.core.histogram import Histogram
from cellkit.engine.blockwise.job import Bench, BlockJob, bench
from cellkit.engine.blockwise.joins import decide
from cellkit.engine.blockwise.number import starts
from cellkit.engine.blockwise.outputs import label_store
from cellkit.engine.blockwise.passes import Pass
from cellkit.engine.blockwise.results import pack, pack_histogram, unpack_histogram, unpack_open
from cellkit.engine.blockwise.task import Done, Task, carry_out
from cellkit.engine.executors import Workplace

__all__ = ["Progress", "Step", "begun", "run_passes"]


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

    Raises the `CellkitError` of the first block that fails; what is done stays done.
    """
    some = bench(job)
    for now in some.plan.passes:
        _blocks(job, place, "pass", now.number, _all(job), tell)
        _merge(some, now)
        for number in now.join:
            _mend(some, place, now, number, tell)
    start = starts(some)
    _write(job, "starts.npz", start)
    for value in some.plan.emit:  # made here, so that workers only open them
        if value.name in some.plan.bound.outputs:
            label_store(some, value, int(start[value.key][-1]))
    _blocks(job, place, "number", 0, _all(job), tell)
    return some


def begun(folder: Path) -> str:
    """Return a word for what is in work in `folder`, made with it, so that workers who outlive a run tell it apart."""
    from cellkit.io import atomic

    path = folder / "begun"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            temporary.write_text(secrets.token_hex(8), encoding="ascii")
    return path.read_text(encoding="ascii")


def _all(job: BlockJob) -> Iterator[tuple[int, int]]:
    down, across = job.grid
    return ((row, column) for row in range(down) for column in range(across))


def _blocks(
    job: BlockJob,
    place: Workplace,
    what: str,
    number: int,
    ats: Iterable[tuple[int, int]],
    tell: Step,
    seeds: dict[tuple[int, int], np.ndarray] | None = None,
) -> None:
    """Do what is not done yet."""
    ats = list(ats)
    left = [at for at in ats if not job.file(what, number, at).exists()]
    done = len(ats) - len(left)
    tell(Progress(f"{what} {number}", done, len(ats)))
    failed: BaseException | None = None
    tasks = (_task(job, what, number, at, seeds) for at in left if failed is None)
    for _, found in place.map(carry_out, tasks):
        if isinstance(found, Done):
            done += 1
            tell(Progress(f"{what} {number}", done, len(ats), found.seconds, found.worker))
        elif failed is None:
            failed = found
    if failed is not None:
        raise failed if isinstance(failed, CellkitError) else CellkitError(f"{type(failed).__name__}: {failed}")


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
    for at in _all(some.job):
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
    for at in _all(job):
        block = unpack_open(f"j{number}", some.result("pass", now.number, at))
        if len(block.seed):
            opened[at] = block
    wanted = decide(some.plan.graph.steps[number], opened)
    if wanted:
        _blocks(job, place, "mend", number, wanted, tell, wanted)


def _write(job: BlockJob, name: str, arrays: dict[str, np.ndarray]) -> None:
    from cellkit.io import atomic

    with atomic(Path(job.folder) / name) as path:
        path.write_bytes(pack(arrays))
