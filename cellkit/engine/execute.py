"""Carry a recipe out on one sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np

from cellkit.core.check import BoundStep, Plan, plan
from cellkit.core.errors import CellkitError, KindError, StageError
from cellkit.core.histogram import Histogram
from cellkit.core.kinds import KINDS, Kind, validate
from cellkit.core.recipe import Recipe
from cellkit.core.sample import Layer, Sample
from cellkit.core.stage import FromSample
from cellkit.engine.networks import Networks
from cellkit.grid.frame import Frame

__all__ = ["Observation", "apply", "execute", "live", "run"]


@dataclass(frozen=True, eq=False)
class Observation:
    """What one step did: the layer it made, in the part's own frame, and how long it took over all parts.

    `layer` is None for a bracket. `parts` counts the tiles the step ran on; the layer is that of the first.
    """

    step: BoundStep
    depth: int
    layer: Layer | None
    parts: int
    seconds: float


Observer = Callable[[Observation], None]


def run(recipe: Recipe | Plan, sample: Sample, *, device: str = "auto") -> Sample:
    """Carry out every step of `recipe` on `sample` and return the sample with every layer made.

    `device` is where networks run: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises `RecipeError` where the recipe does not check, `StageError` where a step fails on this sample and
    `UsageError` where a network or the device cannot be had.
    """
    bound = recipe if isinstance(recipe, Plan) else plan(recipe)
    if device == "auto":
        return execute(bound, sample)
    from cellkit.models.runtime import Options

    return execute(bound, sample, networks=Networks(Options(device)))


def execute(
    bound: Plan,
    sample: Sample,
    keep: Sequence[str] | None = None,
    observe: Observer | None = None,
    networks: Networks | None = None,
) -> Sample:
    """As `run`; with `keep`, only those layers are made and the others dropped as soon as no step needs them.

    `observe` is called after every step. `networks` opens what the steps name.
    """
    needs = _needs(bound.steps, keep)
    work = _Work(networks or Networks(), observe)
    cell = _Cell(sample, None)
    for step, needed in zip(bound.steps, needs, strict=True):
        if needed is not None and not step.writes & needed:
            continue
        (cell,) = _run_step(step, [cell], work)
        if needed is not None:
            cell = replace(cell, sample=cell.sample.without([n for n in cell.sample if n not in needed]))
    return cell.sample


def apply(
    step: BoundStep,
    sample: Sample,
    networks: Networks,
    histogram: Histogram | None = None,
    frame: Frame | None = None,
) -> Sample:
    """Carry out one step on `sample`.

    `histogram` is given to a step that waits for one, instead of measuring here; `frame` to a bracket whose own is not
    that of the sample's shape.
    """
    if step.spec.bracket:
        (cell,) = _run_bracket(step, [_Cell(sample, None)], _Work(networks, None), frame)
        return cell.sample
    layer = _call(step, networks.fill(step), sample, histogram)
    return sample.with_layer(step.output, layer.kind, layer.value, layer.names)


def live(bound: Plan, keep: Sequence[str]) -> list[BoundStep]:
    """Return the steps that `execute` carries out for the layers `keep`."""
    needs = _needs(bound.steps, keep)
    return [step for step, needed in zip(bound.steps, needs, strict=True) if needed is None or step.writes & needed]


def _needs(steps: Sequence[BoundStep], keep: Sequence[str] | None) -> list[set[str] | None]:
    """For every step, the layers that are still needed after it; None where all are."""
    if keep is None:
        return [None] * len(steps)
    needs: list[set[str] | None] = []
    needed = {*keep, "raw"}  # raw gives the sample its shape
    for step in reversed(steps):
        needs.append(set(needed))
        if step.writes & needed:
            needed = (needed - step.writes) | step.reads
    return needs[::-1]


@dataclass(frozen=True)
class _Work:
    """What goes along with the steps: the networks, who is told of each step, and how deep in brackets it stands."""

    networks: Networks
    observe: Observer | None
    depth: int = 0

    def tell(self, step: BoundStep, layer: Layer | None, parts: int, since: float) -> None:
        if self.observe is not None:
            self.observe(Observation(step, self.depth, layer, parts, perf_counter() - since))


class _Total:
    """Adds up what is told of one step in group after group of parts; the first layer stands for all."""

    def __init__(self) -> None:
        self.seen: dict[str, Observation] = {}

    def add(self, now: Observation) -> None:
        before = self.seen.get(now.step.where)
        if before is not None:
            now = replace(before, parts=before.parts + now.parts, seconds=before.seconds + now.seconds)
        self.seen[now.step.where] = now


@dataclass(frozen=True, eq=False)
class _Cell:
    """A sample in its own frame; `region` is what of it is real image that no other cell measures (None: all)."""

    sample: Sample
    region: np.ndarray | tuple[slice, slice] | None


def _run_step(step: BoundStep, cells: list[_Cell], work: _Work) -> list[_Cell]:
    started = perf_counter()
    if step.spec.bracket:
        done = _run_bracket(step, cells, work)
        work.tell(step, None, len(cells), started)
        return done
    histogram = _measure(step, cells)
    params = work.networks.fill(step)

    def one(cell: _Cell) -> _Cell:
        layer = _call(step, params, cell.sample, histogram)
        return replace(cell, sample=cell.sample.with_layer(step.output, layer.kind, layer.value, layer.names))

    done = work.networks.map(step, one, cells)
    work.tell(step, done[0].sample.layer(step.output), len(cells), started)
    return done


def _run_bracket(step: BoundStep, cells: list[_Cell], work: _Work, given: Frame | None = None) -> list[_Cell]:
    frames = [given or _frame(step, cell.sample.shape) for cell in cells]
    total = _Total()
    inside = replace(work, depth=work.depth + 1, observe=total.add if work.observe is not None else None)
    wanted = {*step.reads, "raw"}
    places = [(part, cell, frame.scale) for cell, frame in zip(cells, frames, strict=True) for part in frame.parts]
    made = []
    # A histogram is of the whole image: every part goes through a step before any goes through the next.
    group = len(places) if _measures(step.inner) else work.networks.group(step.inner)
    for first in range(0, len(places), group):
        some = [_enter(part, cell, wanted, scale) for part, cell, scale in places[first : first + group]]
        for inner in step.inner:
            some = _run_step(inner, some, inside)
        made += [_exports(step, part) for part in some]
    if work.observe is not None:
        for seen in total.seen.values():
            work.observe(seen)
    done, at = [], 0
    for cell, frame in zip(cells, frames, strict=True):
        own = made[at : at + len(frame.parts)]
        at += len(frame.parts)
        sample = cell.sample
        for name, kind in step.exports:
            layers = [layers[name] for layers in own]
            with _naming(step):
                value = frame.leave(kind, [layer.value for layer in layers])
            _check_result(step, kind, value, cell.sample.shape)
            sample = sample.with_layer(name, kind, value, layers[0].names)
        done.append(replace(cell, sample=sample))
    return done


def _exports(step: BoundStep, cell: _Cell) -> dict[str, Layer]:
    return {name: cell.sample.layer(name) for name, _ in step.exports}


def _measures(steps: Sequence[BoundStep]) -> bool:
    return any(_measures(s.inner) or any(a.kinds[0] == KINDS["histogram"] for a in s.spec.arguments) for s in steps)


def _frame(step: BoundStep, shape: tuple[int, int]) -> Any:
    with _naming(step):
        return step.spec.function(shape, **step.params)


def _enter(part: Any, cell: _Cell, wanted: set[str], scale: tuple[float, float]) -> _Cell:
    sample = cell.sample.without([name for name in cell.sample if name not in wanted])
    if sample.pixel_size is not None:
        size = sample.pixel_size
        sample = replace(sample, pixel_size=(size[0] / scale[0], size[1] / scale[1]))
    for name, layer in sample.layers.items():
        sample = sample.with_layer(name, layer.kind, part.enter(layer.kind, layer.value), layer.names)
    if cell.region is None:
        return _Cell(sample, part.core)
    region = np.zeros(cell.sample.shape, bool)
    region[cell.region] = True
    inner = part.enter(KINDS["mask"], region)
    own = np.zeros_like(inner)
    own[part.core] = inner[part.core]
    return _Cell(sample, own)


def _measure(step: BoundStep, cells: list[_Cell]) -> Histogram | None:
    """Measure the step's first input over the whole image, each pixel once, without halo and padding."""
    argument = next((a for a in step.spec.arguments if a.kinds[0] == KINDS["histogram"]), None)
    if argument is None:
        return None
    from cellkit.engine._count import histogram

    name = step.bindings[argument.name]
    total: Histogram | None = None
    for cell in cells:
        values = cell.sample[name] if isinstance(name, str) else None
        if not isinstance(values, np.ndarray):
            raise StageError(f"{step.where}: a histogram is measured on an image, a prob or a field")
        if cell.region is not None:
            values = values[cell.region]
        if values.ndim == 2 and cell.region is not None and not isinstance(cell.region, tuple):
            values = values[None]  # a boolean region flattens the two axes to one
        part = histogram(values)
        total = part if total is None else total + part
    return total


def _call(step: BoundStep, params: dict[str, Any], sample: Sample, histogram: Histogram | None) -> Layer:
    spec = step.spec
    values: list[Any] = []
    for argument in spec.arguments:
        bound = step.bindings.get(argument.name)
        if argument.kinds[0] == KINDS["histogram"]:
            values.append(histogram)
        elif isinstance(bound, tuple):
            values.extend(_value(step, sample, name, argument.kinds) for name in bound)
        else:
            values.append(None if bound is None else _value(step, sample, bound, argument.kinds))
    supplied = {name: _supply(step, sample, source) for name, source in spec.supplied.items()}
    with _naming(step):
        value = spec.function(*values, **params, **supplied)
    kind = step.kind
    if kind is None:
        raise StageError(f"{step.where}: a stage makes one layer")
    value = np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value
    _check_result(step, kind, value, sample.shape)
    return Layer(kind, value, _names(step, params, sample, kind, value))


def _value(step: BoundStep, sample: Sample, name: str, kinds: tuple[Kind, ...]) -> Any:
    layer = sample.layer(name)
    if layer.kind in kinds:
        return layer.value
    if layer.value.shape[2] != 1:  # a Prob where a Field is asked for
        raise KindError(f"{step.where}: wants one channel; {name!r} has {layer.value.shape[2]}: add a `channel` step")
    return np.ascontiguousarray(layer.value[..., 0])


def _supply(step: BoundStep, sample: Sample, source: FromSample) -> Any:
    what, _, argument = source.what.partition(":")
    if what == "pixel_size":
        return sample.pixel_size
    if what == "names":
        bound = step.bindings.get(argument)
        return sample.layer(bound).names if isinstance(bound, str) else ()
    raise StageError(f"{step.where}: {source!r} is nothing a sample knows")


def _names(step: BoundStep, params: Mapping[str, Any], sample: Sample, kind: Kind, value: Any) -> tuple[str, ...]:
    first = step.bindings[step.spec.arguments[0].name]
    layer = sample.layer(first) if isinstance(first, str) else None
    before = layer.names if layer is not None else ()
    if step.spec.names is not None:
        return tuple(step.spec.names(params, before))
    if kind.axes == "yxc" and layer is not None and layer.kind.axes == "yxc":
        return before if layer.value.shape[2] == value.shape[2] else ()
    return before if kind.name == "classes" else ()


def _check_result(step: BoundStep, kind: Kind, value: Any, shape: tuple[int, int]) -> None:
    validate(kind, value, step.where)
    if kind.axes and value.shape[:2] != shape:
        raise StageError(f"{step.where}: made {value.shape[0]} x {value.shape[1]} px of {shape[0]} x {shape[1]}")


class _naming:  # noqa: N801 - reads as a word in a `with`
    """Say which step an error came from, whatever a stage, built in or plugged in, may raise."""

    def __init__(self, step: BoundStep) -> None:
        self.step = step

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, CellkitError):
            raise type(error)(f"{self.step.where}: {error}") from error
        if isinstance(error, Exception):
            # The first line says what; libraries may follow it with pages.
            text = (str(error).strip() or "no message").splitlines()[0][:300]
            raise StageError(f"{self.step.where}: {type(error).__name__}: {text}") from error
