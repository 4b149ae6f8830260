"""One block's share of one pass: the function that workers call, wherever they are."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import numpy as np

from cellkit.core.sample import Layer
from cellkit.engine._count import histogram
from cellkit.engine.blockwise.block import Block
from cellkit.engine.blockwise.emit import features_of, tables_of
from cellkit.engine.blockwise.job import Bench, BlockJob, bench
from cellkit.engine.blockwise.joins import join_block, mend
from cellkit.engine.blockwise.number import number_block
from cellkit.engine.blockwise.passes import Pass
from cellkit.engine.blockwise.results import pack, pack_histogram, pack_open, unpack
from cellkit.engine.blockwise.settle import settle
from cellkit.engine.blockwise.values import SOURCE
from cellkit.engine.blockwise.window import Scene, look
from cellkit.engine.executors import worker_name
from cellkit.grid.cover import Window

__all__ = ["Done", "Task", "carry_out"]


@dataclass(frozen=True)
class Task:
    """Block `at` (row, column) of pass `number` of a job.

    `what`: ``pass``; ``mend``, to decide the pieces at `seeds` of step `number`; or ``number``, to write the final
    labels.
    """

    job: BlockJob
    number: int
    at: tuple[int, int]
    what: str = "pass"
    seeds: bytes = b""


@dataclass(frozen=True)
class Done:
    """How a block was done: in how many seconds, and where."""

    seconds: float
    worker: str


def carry_out(task: Task) -> Done:
    """Do what `task` says, and leave what the other blocks need to know in the file of the block.

    Raises `CellkitError` where a step fails, an object is too large for a window, or nothing can be written.
    """
    from cellkit.io import atomic

    started = perf_counter()
    some = bench(task.job)
    if task.what == "mend":
        found = _mended(some, task)
    elif task.what == "number":
        number_block(some, task.at)
        found = pack({})
    else:
        found = _passed(some, task)
    path = task.job.file(task.what, task.number, task.at)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        temporary.write_bytes(found)
    return Done(perf_counter() - started, worker_name())


def _passed(some: Bench, task: Task) -> bytes:
    """Carry out a pass on a block."""
    now, core = some.plan.passes[task.number], some.job.core(task.at)
    shares = settle(some, now, core, lambda window: _look(some, now, window))
    return pack(_kept(now, Block(some, core, shares)))


def _look(some: Bench, now: Pass, window: Window) -> Scene:
    graph, plan = some.plan.graph, some.plan
    keep = {value for _, value in now.measure} | {value for value in now.store if value.step in now.steps}
    keep |= {value for number in now.join for value in graph.reads[number].values()}
    if now.last:
        keep |= {*plan.emit, *plan.keep}
        keep |= {v for n in plan.tables for v in graph.reads[n].values() if graph.kinds[v].name != "table"}
    read = {value for number in now.steps for value in graph.reads[number].values()}
    seen = any(value.step == SOURCE for value in read | keep)
    sample = some.slide.read(window) if seen else some.slide.blank(window.shape)
    given = {value: some.spill.read(value, window) for value in now.given}
    return look(
        plan, now, window, some.job.shape, (sample, seen, given), (some.networks, some.histograms(now.number)), keep
    )


def _kept(now: Pass, block: Block) -> dict[str, np.ndarray | bytes]:
    """Write what later passes read, and return what the other blocks need to know."""
    some, core, graph = block.some, block.core, block.some.plan.graph
    found: dict[str, np.ndarray | bytes] = {}
    for step, value in now.measure:
        found |= pack_histogram(f"h{step}", histogram(block.layer(value).value))
    joined = {value for number in now.join for value in graph.made_by(number)}
    for value in now.store:
        if value not in joined:
            some.spill.write(value, core, block.layer(value))
    for number in now.join:
        joining = graph.steps[number]
        first = graph.reads[number][str(joining.bindings[joining.spec.arguments[0].name])]
        mask, opened = join_block(joining, block.layer(first).value, core, some.job.shape)
        (made,) = graph.made_by(number)
        some.spill.write(made, core, Layer(graph.kinds[made], mask))
        found |= pack_open(f"j{number}", opened)
    if now.last:
        for value in some.plan.keep:
            some.store.write(value, core, block.layer(value))
        for value in some.plan.emit:
            those = block.objects(value)
            some.spill.write_ids(value, core, those.ids)
            found |= {f"k-{value.key}": those.keys, f"o-{value.key}": those.owned}
        if some.plan.emit:
            found |= tables_of(block) | features_of(block)
    return found


def _mended(some: Bench, task: Task) -> bytes:
    """Decide pieces that reach over cuts; from a copy of the block, so that a mend cut short can be done again."""
    from cellkit.io import atomic

    graph, core = some.plan.graph, some.job.core(task.at)
    (made,) = graph.made_by(task.number)
    path = some.job.file("mend-of", task.number, task.at)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            temporary.write_bytes(pack({"mask": np.packbits(some.spill.read(made, core).value, axis=1)}))
    bits = unpack(path.read_bytes())["mask"]
    before = np.unpackbits(bits, axis=1, count=core.shape[1]).view(bool)
    mask = mend(graph.steps[task.number], before, np.frombuffer(task.seeds, np.int64))
    some.spill.write(made, core, Layer(graph.kinds[made], mask))
    path.unlink()
    return pack({})
