"""Plan a recipe for blocks: where all blocks must be through a step before any goes on, and how much context it needs.

Three kinds of step part a recipe into passes over the image. One that measures a `Histogram` waits until every block is
counted. One that joins pieces of any size (`joins.JOINS`) waits until the pieces are linked over the cuts. And behind a
network what it predicts is kept on disk, so that a block done again in a larger window does not call it again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cellkit.core.check import BoundStep, Plan, leaves
from cellkit.core.errors import UsageError
from cellkit.core.kinds import KINDS
from cellkit.core.stage import OBJECT, WHOLE
from cellkit.engine.blockwise.joins import JOINS, joins
from cellkit.engine.blockwise.values import Graph, Value
from cellkit.engine.execute import live
from cellkit.engine.footprint import resize_factor
from cellkit.engine.networks import loads
from cellkit.engine.outputs import drawn_layers, layers_for

__all__ = ["BlockPlan", "Pass", "inner_grid", "pass_for", "pixels_of", "plan_blocks", "refuse"]

_TABLES = ("measure", "rle", "tally", "relate")
_SAME = ("relabel",)
"""Steps that reach over the whole image only to number objects, which is done at the end anyway."""
_CONTINUOUS = ("image", "prob", "field", "mask", "classes")


@dataclass(frozen=True)
class Pass:
    """One run over all blocks: which values it makes of which stored ones, and what becomes of them.

    `measure`: values to count, by the steps that wait for their histograms. `join`: steps whose pieces are linked
    afterwards. `store`: values to keep on disk. `steps`: the steps it carries out. `reach`: pixels of context that they
    need, beside what objects need; `objects`: whether there are any, so that a window may have to grow. `align`: of
    what a window's corner must be a multiple.
    """

    number: int
    steps: tuple[int, ...]
    given: tuple[Value, ...]
    measure: tuple[tuple[int, Value], ...] = ()
    join: tuple[int, ...] = ()
    store: tuple[Value, ...] = ()
    reach: int = 0
    objects: bool = False
    align: int = 1
    last: bool = False


@dataclass(frozen=True)
class BlockPlan:
    """The passes of a recipe. `emit`: the layers of objects that are numbered; `keep`: other layers to write.

    `drawn`: the layers that an overlay shows.
    """

    bound: Plan
    graph: Graph
    passes: tuple[Pass, ...]
    emit: tuple[Value, ...] = ()
    keep: tuple[Value, ...] = ()
    tables: tuple[int, ...] = ()
    align: int = 1
    drawn: tuple[Value, ...] = ()

    @property
    def stored(self) -> tuple[Value, ...]:
        """The layers of objects whose final labels are written."""
        return tuple(v for v in self.emit if v.name in self.bound.outputs or v in self.drawn)


def plan_blocks(bound: Plan) -> BlockPlan:
    """Plan `bound` for blocks.

    Raises `UsageError` where a step needs the whole image at once, with what to do instead.
    """
    wanted = layers_for(bound)
    graph = Graph.of(live(bound, wanted))
    tables = tuple(i for i, step in enumerate(graph.steps) if step.spec.name in _TABLES and step.kind is not None)
    for number, step in enumerate(graph.steps):
        refuse(graph, number, step, tables)
    ends = [graph.ends[name] for name in wanted]
    emit = tuple(value for value in ends if graph.kinds[value].name == "labels")
    drawn = tuple(graph.ends[name] for name in drawn_layers(bound))
    keep = tuple(v for v in ends if (v.name in bound.outputs or v in drawn) and graph.kinds[v].name in _CONTINUOUS)
    passes = _passes(graph, tables)
    given = tuple(_stored(passes))
    of_tables = [value for number in tables for value in _objects(graph, number)]
    targets = [*emit, *keep, *of_tables]
    passes.append(pass_for(graph, len(passes), targets, given, objects=bool(emit or tables), last=True))
    align = math.lcm(*(p.align for p in passes))
    emit = tuple(dict.fromkeys([*emit, *(v for v in of_tables if graph.kinds[v].name == "labels")]))
    return BlockPlan(bound, graph, tuple(passes), emit, keep, tables, align, drawn)


def _objects(graph: Graph, number: int) -> list[Value]:
    """Return what a table is made of, but for other tables and the image as read."""
    reads = graph.reads[number].values()
    return [value for value in reads if graph.kinds[value].name != "table" and value.name != "raw"]


def _passes(graph: Graph, tables: Sequence[int]) -> list[Pass]:
    """Return the passes before the last, in order."""
    passes: list[Pass] = []
    for number, step in enumerate(graph.steps):
        if number in tables:
            continue
        measured = graph.measured(number)
        if measured is not None:
            _add(graph, passes, [measured], measure=((number, measured),))
        elif joins(step):
            _add(graph, passes, list(graph.reads[number].values()), join=(number,), made=graph.made_by(number))
        elif _calls_network(step):
            made = graph.made_by(number)
            _add(graph, passes, made, made=made)
    return passes


def _add(
    graph: Graph,
    passes: list[Pass],
    targets: list[Value],
    *,
    measure: tuple[tuple[int, Value], ...] = (),
    join: tuple[int, ...] = (),
    made: Iterable[Value] = (),
) -> None:
    """Add a pass for `targets`, or let the last one do it too where it waits for nothing that one finds out."""
    before = passes[-1] if passes else None
    if before is not None:
        earlier = tuple(_stored(passes[:-1]))
        steps = graph.needed([*_targets(graph, before), *targets], earlier)
        waits = {number for number, _ in before.measure} | set(before.join)
        if not waits & set(steps) and not _heavy(graph, set(steps) - set(before.steps)):
            joined = Pass(0, (), (), (*before.measure, *measure), (*before.join, *join), before.store)
            passes[-1] = _finished(graph, joined, len(passes) - 1, earlier, made)
            return
    given = tuple(_stored(passes))
    passes.append(_finished(graph, Pass(0, (), (), measure, join), len(passes), given, made))


def _finished(graph: Graph, some: Pass, number: int, given: tuple[Value, ...], made: Iterable[Value]) -> Pass:
    """Return a pass with its steps, and with what it keeps: what is `made`, and measured values that cost something."""
    store = list(dict.fromkeys([*some.store, *made]))
    for step, value in some.measure:
        costly = any(not _pointwise(graph.steps[i]) for i in graph.needed([value], given))
        if costly and value not in store and step >= 0:
            store.append(value)
    known = Pass(number, (), given, some.measure, some.join, tuple(store))
    targets = _targets(graph, known)
    full = pass_for(graph, number, targets, given)
    return Pass(
        number, full.steps, full.given, known.measure, known.join, known.store, full.reach, full.objects, full.align
    )


def _targets(graph: Graph, some: Pass) -> list[Value]:
    """Return the values that a pass must compute: for a join, what it reads."""
    joined = {value for number in some.join for value in graph.made_by(number)}
    read = [value for number in some.join for value in graph.reads[number].values()]
    return [*(value for _, value in some.measure), *(value for value in some.store if value not in joined), *read]


def pass_for(
    graph: Graph,
    number: int,
    targets: Sequence[Value],
    given: tuple[Value, ...],
    *,
    objects: bool = False,
    last: bool = False,
) -> Pass:
    """Return the pass that makes `targets` of what is `given`, with the context that its steps need."""
    steps = graph.needed(targets, given)
    loaded = {v for i in steps for v in graph.reads[i].values()} | set(targets)
    margin: dict[Value, int] = {}
    for i in reversed(steps):
        own = max((margin.get(value, 0) for value in graph.made_by(i)), default=0)
        for value in graph.reads[i].values():
            margin[value] = max(margin.get(value, 0), own + pixels_of(graph.steps[i]))
    return Pass(
        number,
        tuple(steps),
        tuple(v for v in given if v in loaded),
        reach=max(margin.values(), default=0),
        objects=objects or any(_of_objects(graph.steps[i]) for i in steps),
        align=math.lcm(*(_grid(graph.steps[i]) for i in steps)) if steps else 1,
        last=last,
    )


def _stored(passes: Iterable[Pass]) -> list[Value]:
    return [value for some in passes for value in some.store]


def _heavy(graph: Graph, numbers: Iterable[int]) -> bool:
    """Tell whether a pass should not be made to do these steps on the side: a block may have to be done again."""
    return any(_of_objects(graph.steps[i]) or _calls_network(graph.steps[i]) for i in numbers)


def _pointwise(step: BoundStep) -> bool:
    return not step.spec.bracket and step.spec.reach(step.params) == 0


def _calls_network(step: BoundStep) -> bool:
    return any(loads(leaf.spec) for leaf in leaves((step,)))


def _of_objects(step: BoundStep) -> bool:
    if step.spec.bracket:
        return any(kind == KINDS["labels"] for _, kind in step.exports)
    return step.spec.reach(step.params) is OBJECT or step.spec.name == "components"


def pixels_of(step: BoundStep) -> int:
    """Return the context in pixels that a step needs, beside that of objects."""
    if step.spec.name == "resize":
        # Inside: what the steps reach, a corner on their grid, and what a pixel is interpolated from on the way in and
        # out. A side's own factor differs from that of the parameters by rounding to whole pixels.
        inside = sum(pixels_of(inner) for inner in step.inner) + inner_grid(step) + 4
        return math.ceil(1.15 * inside / (resize_factor(step.params) or 1.0)) + 3
    if step.spec.bracket:
        size, halo = _tile(step)
        # All of the tile that holds a pixel must lie inside, with its halo; of blended ones those that fade in, too.
        context = size + 2 * halo if step.params["blend"] == "weighted" else size - 1 + halo
        return context + (size if _of_objects(step) else 0)  # and the neighbours that labels are joined with
    reach = step.spec.reach(step.params)
    return reach if isinstance(reach, int) else 0


def inner_grid(step: BoundStep) -> int:
    """Return of what the corner of a window inside a bracket must be a multiple."""
    return math.lcm(*(_grid(inner) for inner in step.inner))


def _grid(step: BoundStep) -> int:
    if step.spec.name == "resize":
        return 1  # the windows inside see to theirs
    if step.spec.bracket:
        return _tile(step)[0]
    return step.spec.grid(step.params)


def _tile(step: BoundStep) -> tuple[int, int]:
    size = step.params["size"]
    return (size if isinstance(size, int) else math.lcm(*size)), int(step.params["halo"])


def refuse(graph: Graph, number: int, step: BoundStep, tables: Sequence[int]) -> None:
    """Raise `UsageError` where a step cannot be carried out block by block."""
    where, name = step.where, step.spec.name
    if step.spec.bracket:
        _refuse_bracket(step)
        return
    kind = step.kind.name if step.kind is not None else ""
    if number in tables:
        objects = graph.reads[number][str(step.bindings[step.spec.arguments[0].name])]
        if name != "relate" and graph.kinds[objects].name != "labels":
            raise UsageError(f"{where}: measures boxes or instances, which blocks cannot do yet; crop the image")
        return
    if kind in ("boxes", "instances", "table"):
        raise UsageError(
            f"{where}: makes {kind} of the whole image at once; put it and the step that turns it into labels into "
            "`tile: {size: 2048, halo: 128}`, or crop the image (`read: {crop: ...}`)"
        )
    if step.spec.reach(step.params) is WHOLE and not joins(step) and name not in (*_SAME, "components"):
        raise UsageError(
            f"{where}: needs the whole image at once, which does not fit; put it into a bracket "
            f"`tile: {{size: 2048, halo: 256}}`, leave it out, or crop the image (`read: {{crop: ...}}`). Steps that "
            f"blocks can do whatever their size: {', '.join((*JOINS, 'components'))}"
        )


def _refuse_bracket(step: BoundStep) -> None:
    where = step.where
    if any(kind.name in ("boxes", "instances") for _, kind in step.exports):
        raise UsageError(
            f"{where}: boxes and instances cannot leave it block by block; turn them into labels inside it"
        )
    if step.spec.name == "resize":
        _refuse_resize(step)
        return
    if step.spec.name != "tile":
        raise UsageError(
            f"{where}: a {step.spec.name} around the whole image cannot be done block by block; leave it out"
        )
    for inner in leaves(step.inner):
        if any(a.kinds[0] == KINDS["histogram"] for a in inner.spec.arguments):
            raise UsageError(f"{inner.where}: measures the whole image from inside a bracket; move it before {where}")


def _refuse_resize(step: BoundStep) -> None:
    where = step.where
    if resize_factor(step.params) is None:
        raise UsageError(f"{where}: of blocks only a `factor`, or `standard` with `diameter`, can be done; give one")
    for inner in step.inner:
        reach = 0 if inner.spec.bracket else inner.spec.reach(inner.params)
        kind = inner.kind.name if inner.kind is not None else ""
        if inner.spec.bracket:
            raise UsageError(f"{inner.where}: a bracket in a bracket cannot be done block by block; leave it out")
        if any(a.kinds[0] == KINDS["histogram"] for a in inner.spec.arguments):
            raise UsageError(f"{inner.where}: measures the whole image from inside a bracket; move it before {where}")
        if kind not in _CONTINUOUS or not isinstance(reach, int):
            raise UsageError(
                f"{inner.where}: looks at whole objects, or makes them, from inside {where}, which blocks cannot do; "
                "move it behind the bracket, or read at another resolution with --level or --mpp"
            )
