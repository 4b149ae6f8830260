"""One block's share of one pass: the function that workers call, wherever they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from cellkit.core.errors import StageError
from cellkit.core.sample import Layer
from cellkit.engine._count import histogram
from cellkit.engine.blockwise.emit import Objects, features_of, find_objects, parents_seen, tables_of
from cellkit.engine.blockwise.job import Bench, BlockJob, bench
from cellkit.engine.blockwise.joins import join_block, mend
from cellkit.engine.blockwise.number import number_block
from cellkit.engine.blockwise.passes import Pass
from cellkit.engine.blockwise.results import pack, pack_histogram, pack_open, unpack
from cellkit.engine.blockwise.values import Value
from cellkit.engine.blockwise.window import Scene, look
from cellkit.engine.executors import worker_name
from cellkit.grid.cover import Window

__all__ = ["Done", "Task", "carry_out"]


@dataclass(frozen=True)
class Task:
    """Block `at` (row, column) of pass `number` of a job; `room`: pixels around it for objects, beside what is needed.

    `what`: ``pass``; ``mend``, to decide the pieces at `seeds` of step `number`; or ``number``, to write the final
    labels.
    """

    job: BlockJob
    number: int
    at: tuple[int, int]
    room: int = 64
    what: str = "pass"
    seeds: bytes = b""


@dataclass(frozen=True)
class Done:
    """How a block was done: the room it took in the end, how many seconds, and where."""

    room: int
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
        found, room = _mended(some, task), 0
    elif task.what == "number":
        found, room = pack(number_block(some, task.at)), 0
    else:
        found, room = _passed(some, task)
    path = task.job.file(task.what, task.number, task.at)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        temporary.write_bytes(found)
    return Done(room, perf_counter() - started, worker_name())


def _passed(some: Bench, task: Task) -> tuple[bytes, int]:
    """Carry out a pass on windows that grow until everything that the block owns is right."""
    job, now = some.job, some.plan.passes[task.number]
    core = job.core(task.at)
    room = task.room if now.objects else 0
    while True:
        window = job.window(task.at, now.reach + room, now.align)
        whole = window == Window(0, 0, *job.shape)
        scene = _look(some, now, window)
        objects = _right(some, now, scene, core)
        if objects is not None:
            break
        if whole:
            raise StageError(f"block {task.at}: the whole image does not settle it; this is a fault of cellkit")
        room = max(2 * room, 32)
        height, width = job.window(task.at, now.reach + room, now.align).shape
        if height * width > job.most:
            raise StageError(
                f"an object near row {core.top:,} to {core.bottom:,}, column {core.left:,} to {core.right:,} is larger "
                f"than {room // 2:,} px around its block, and --memory leaves no room for a larger window; give more "
                "memory, or part what touches (a higher threshold, `open`) before the step that looks at whole objects"
            )
    return pack(_kept(some, now, scene, core, objects)), room


def _look(some: Bench, now: Pass, window: Window) -> Scene:
    sample = some.slide.read(window)
    given = {value: some.store.read(value, window) for value in now.given}
    graph, plan = some.plan.graph, some.plan
    keep = {value for _, value in now.measure} | {value for value in now.store if value.step in now.steps}
    keep |= {value for number in now.join for value in graph.reads[number].values()}
    if now.last:
        keep |= {*plan.emit, *plan.keep}
        keep |= {v for n in plan.tables for v in graph.reads[n].values() if graph.kinds[v].name != "table"}
    return look(plan, now, window, some.job.shape, (sample, given), (some.networks, some.histograms(now.number)), keep)


def _right(some: Bench, now: Pass, scene: Scene, core: Window) -> dict[Value, Objects] | None:
    """Return the objects of each layer that is numbered, or None where something that the block owns is not right."""
    inside = core.within(scene.window)
    objects: dict[Value, Objects] = {}
    for value in scene.layers:
        if now.last and value in some.plan.emit:
            found = find_objects(scene, value, core)
            if found is None:
                return None
            objects[value] = found
        elif not scene.valid[value].holds(inside):
            return None
    return objects if not now.last or parents_seen(some, objects) else None


def _kept(
    some: Bench, now: Pass, scene: Scene, core: Window, objects: Mapping[Value, Objects]
) -> dict[str, np.ndarray | bytes]:
    """Write what later passes read, and return what the other blocks need to know."""
    inside, graph = core.within(scene.window), some.plan.graph
    found: dict[str, np.ndarray | bytes] = {}
    for step, value in now.measure:
        found |= pack_histogram(f"h{step}", histogram(scene.layers[value].value[inside.slices]))
    joined = {value for number in now.join for value in graph.made_by(number)}
    for value in now.store:
        if value not in joined:
            some.store.write(value, core, _cut(scene.layers[value], inside))
    for number in now.join:
        joining = graph.steps[number]
        first = graph.reads[number][str(joining.bindings[joining.spec.arguments[0].name])]
        mask, opened = join_block(joining, scene.layers[first].value[inside.slices], core, some.job.shape)
        (made,) = graph.made_by(number)
        some.store.write(made, core, Layer(graph.kinds[made], mask))
        found |= pack_open(f"j{number}", opened)
    if now.last:
        for value in some.plan.keep:
            some.store.write(value, core, _cut(scene.layers[value], inside))
        for value, those in objects.items():
            some.store.write_array(f"ids-{value.key}", core, those.ids)
            found |= {f"k-{value.key}": those.keys, f"o-{value.key}": those.owned}
        found |= tables_of(some, scene, objects) | features_of(some, scene, objects)
    return found


def _cut(layer: Layer, inside: Window) -> Layer:
    return Layer(layer.kind, layer.value[inside.slices], layer.names)


def _mended(some: Bench, task: Task) -> bytes:
    """Decide pieces that reach over cuts; from a copy of the block, so that a mend cut short can be done again."""
    from cellkit.io import atomic

    graph, core = some.plan.graph, some.job.core(task.at)
    (made,) = graph.made_by(task.number)
    path = some.job.file("mend-of", task.number, task.at)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            temporary.write_bytes(pack({"mask": np.packbits(some.store.read(made, core).value, axis=1)}))
    bits = unpack(path.read_bytes())["mask"]
    before = np.unpackbits(bits, axis=1, count=core.shape[1]).view(bool)
    mask = mend(graph.steps[task.number], before, np.frombuffer(task.seeds, np.int64))
    some.store.write(made, core, Layer(graph.kinds[made], mask))
    path.unlink()
    return pack({})
