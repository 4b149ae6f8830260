"""Prove a recipe before a pixel is read: bind every step to its layers and report every fault in one pass."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cellkit.core import registry
from cellkit.core.binding import Binding, Scope, bind_arguments
from cellkit.core.errors import Fault, RecipeError, StageError, suggest
from cellkit.core.kinds import KINDS, Kind
from cellkit.core.recipe import Recipe, Step, parse, text_of
from cellkit.core.stage import StageSpec

__all__ = ["WRITERS", "BoundStep", "Plan", "bind", "check", "leaves", "plan"]

WRITERS: Mapping[str, tuple[str, ...]] = {
    "overlay": ("labels", "mask", "boxes", "instances"),
    "rle": ("labels",),
    "coco": ("instances", "labels", "boxes"),
    "geojson": ("instances", "labels"),
    "rois": ("instances", "labels"),
    "report": ("labels", "instances", "boxes", "mask", "classes", "prob", "field", "image"),
}
"""Outputs made from layers instead of being one: name -> kinds, any of which they need. A layer of that name wins."""

_LAYER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}\Z")


@dataclass(frozen=True)
class BoundStep:
    """A step with everything decided: its spec, all parameters, what it reads and what it writes.

    `bindings` maps each argument to a layer name, a tuple of names (variadic) or None (optional and absent); a
    `Histogram` argument maps to the layer it is measured on. `output` and `kind` are empty for a bracket, whose
    `inner` steps are bound in turn and whose `exports` are the layers that leave it.
    """

    where: str
    step: Step
    spec: StageSpec
    params: Mapping[str, Any]
    bindings: Mapping[str, Binding] = field(default_factory=dict)
    output: str = ""
    kind: Kind | None = None
    inner: tuple[BoundStep, ...] = ()
    exports: tuple[tuple[str, Kind], ...] = ()

    @property
    def reads(self) -> set[str]:
        """Names of the layers this step, or a step inside it, takes from outside."""
        names = {n for b in self.bindings.values() if b is not None for n in ((b,) if isinstance(b, str) else b)}
        made: set[str] = set()
        for inner in self.inner:
            names |= inner.reads - made
            made |= inner.writes
        return names

    @property
    def writes(self) -> set[str]:
        """Names of the layers this step makes or changes in its own frame."""
        return {self.output} if self.kind is not None else {name for name, _ in self.exports}

    def describe(self) -> str:
        """Return ``reads -> writes`` as one line."""
        if self.spec.bracket:
            return f"frame -> {', '.join(name for name, _ in self.exports) or 'nothing'}"
        parts = []
        for argument in self.spec.arguments:
            bound = self.bindings.get(argument.name)
            if bound is None or bound == ():
                continue
            text = bound if isinstance(bound, str) else ", ".join(bound)
            measured = argument.kinds[0] == KINDS["histogram"]
            parts.append(f"histogram of {text}" if measured else text)
        return f"{', '.join(parts)} -> {self.output}"


@dataclass(frozen=True)
class Plan:
    """A bound recipe: its steps, the layers there are at the end, and the outputs to write."""

    recipe: Recipe
    steps: tuple[BoundStep, ...]
    layers: Mapping[str, Kind]
    outputs: tuple[str, ...]
    faults: tuple[Fault, ...] = ()

    def walk(self) -> Iterator[tuple[int, BoundStep]]:
        """Yield every step with its depth, brackets before their inner steps."""

        def inner(steps: tuple[BoundStep, ...], depth: int) -> Iterator[tuple[int, BoundStep]]:
            for step in steps:
                yield depth, step
                yield from inner(step.inner, depth + 1)

        return inner(self.steps, 0)

    def resolved(self) -> Recipe:
        """Return the recipe with every default and every output filled in."""

        def fill(steps: tuple[BoundStep, ...]) -> tuple[Step, ...]:
            return tuple(replace(b.step, params=b.params, steps=fill(b.inner)) for b in steps)

        return replace(self.recipe, steps=fill(self.steps), outputs=self.outputs)


def leaves(steps: Iterable[BoundStep]) -> Iterator[BoundStep]:
    """Yield the steps in order, in place of a bracket those inside it."""
    for step in steps:
        yield from leaves(step.inner) if step.spec.bracket else (step,)


def check(source: Recipe | str) -> list[Fault]:
    """Return every fault of a recipe, a recipe's file or a shipped recipe's name; an empty list where there is none.

    Raises `UsageError` where a file or name does not exist.
    """
    if isinstance(source, Recipe):
        return list(bind(source).faults)
    recipe, faults = parse(text_of(source))
    return [*faults, *bind(recipe).faults]


def plan(recipe: Recipe) -> Plan:
    """Bind `recipe`. Raises `RecipeError` where anything but a warning is found."""
    bound = bind(recipe)
    wrong = [fault for fault in bound.faults if not fault.warning]
    if wrong:
        raise RecipeError(wrong)
    return bound


def bind(recipe: Recipe) -> Plan:
    """Bind every step to its layers, noting every fault instead of stopping at one."""
    scope = Scope({"raw": KINDS["image"], "image": KINDS["image"]}, [])
    steps = _bind_steps(recipe.steps, scope, "steps")
    if not recipe.steps:
        scope.fault("steps", "the recipe has no steps", "e.g. `steps: [grayscale, otsu, components]`")
    outputs = _outputs(recipe, scope)
    return Plan(recipe, steps, scope.layers, outputs, tuple(scope.faults))


def _bind_steps(steps: tuple[Step, ...], scope: Scope, where: str) -> tuple[BoundStep, ...]:
    bound = (_bind_step(step, scope, f"{where}[{i}]") for i, step in enumerate(steps))
    return tuple(b for b in bound if b is not None)


def _bind_step(step: Step, scope: Scope, where: str) -> BoundStep | None:
    if not step.stage:  # not understood; its fault is noted already
        scope.unsure = True
        return None
    where = f"{where} {step.stage}"
    spec = registry.stages().get(step.stage)
    if spec is None:
        hint = suggest(step.stage, registry.stages()) or "`cellkit stages` lists them all"
        scope.fault(where, f"no stage is called {step.stage!r}", hint)
        scope.unsure = True
        for inner in step.steps:  # their parameters can still be checked
            _bind_step(inner, scope, f"{where}.steps")
        return None
    params = _bind_params(step, spec, scope, where)
    if spec.bracket:
        return _bind_bracket(step, spec, params, scope, where)
    if step.steps:
        brackets = ", ".join(name for name, s in registry.stages().items() if s.bracket)
        scope.fault(where, "takes no inner `steps:`", f"brackets do: {brackets}")
    bindings = bind_arguments(step, spec, scope, where)
    if bindings is None:
        scope.unsure = True
        return None
    _review(spec, params, scope, where)
    output, kind = _output(step, spec, bindings, scope, where)
    bound = BoundStep(where, step, spec, params, bindings, output, kind)
    scope.write(output, kind)
    return bound


def _review(spec: StageSpec, params: dict[str, Any], scope: Scope, where: str) -> None:
    if spec.review is not None:
        for fault in spec.review(params, tuple(scope.done)):
            at = f"{where}.{fault.where}" if fault.where else where
            scope.fault(at, fault.message, fault.fix, warning=fault.warning, stops=fault.stops)
    scope.done.append((spec.name, params))


def _bind_params(step: Step, spec: StageSpec, scope: Scope, where: str) -> dict[str, Any]:
    params = dict(spec.defaults)
    for name, value in step.params.items():
        if name in spec.supplied:
            fix = "set it for all steps with `read: {pixel_size: ...}` or `read: {channels: [...]}`"
            scope.fault(where, f"{name!r} is filled in from the image", fix)
        elif name not in spec.parameters:
            known = ", ".join(spec.parameters) or "none"
            hint = suggest(name, spec.parameters) or f"parameters: {known}"
            scope.fault(where, f"no parameter {name!r}", hint)
        else:
            try:
                params[name] = spec.parameters[name].coerce(value)
            except ValueError as error:
                scope.fault(f"{where}.{name}", str(error))
    return params


def _bind_bracket(step: Step, spec: StageSpec, params: dict[str, Any], scope: Scope, where: str) -> BoundStep:
    if step.inputs is not None or step.out:
        scope.fault(where, "a bracket takes no `in:` and no `out:`", "it changes the frame of every layer")
    if not step.steps:
        scope.fault(where, "a bracket needs inner `steps:`", "indent them under it")
    scope.done.append((spec.name, params))
    inside = Scope(dict(scope.layers), scope.faults, scope.unsure, scope.done)
    inner = _bind_steps(step.steps, inside, f"{where}.steps")
    scope.unsure = inside.unsure
    exports = tuple((name, kind) for name, kind in inside.layers.items() if name not in scope.layers)
    for name, kind in exports:
        if kind.name == "table":
            scope.fault(where, f"makes the table {name!r} inside the bracket", "move that step behind the bracket")
    if step.steps and not exports and not scope.unsure:
        scope.fault(
            where, "no new layer leaves this bracket", "layers that exist keep their value outside it", warning=True
        )
    _check_halo(inner, params, scope, where)
    try:
        spec.function((1, 1), **params)  # at one pixel, only parameters that contradict each other can be refused
    except StageError as error:
        scope.fault(where, str(error))
    for name, kind in exports:
        scope.write(name, kind)
    return BoundStep(where, step, spec, params, inner=inner, exports=exports)


def _check_halo(inner: tuple[BoundStep, ...], params: dict[str, Any], scope: Scope, where: str) -> None:
    halo = params.get("halo")
    reaches = [b.spec.reach(b.params) for b in inner if not b.spec.bracket]
    needed = sum(r for r in reaches if isinstance(r, int))
    if isinstance(halo, int) and needed > halo:
        text = f"the inner steps reach {needed} px, the halo is {halo} px: results depend on the tiling"
        scope.fault(where, text, f"halo: {needed}", warning=True)
    size = params.get("size")
    for b in inner if isinstance(halo, int) and size is not None else ():
        grid = 1 if b.spec.bracket else b.spec.grid(b.params)
        sides = (halo, *(size if isinstance(size, tuple) else (size,)))
        if any(side % grid for side in sides):
            text = f"{b.step.label} works on a grid of {grid} px: results depend on the tiling"
            scope.fault(where, text, f"make size and halo multiples of {grid}", warning=True)


def _output(step: Step, spec: StageSpec, bindings: Mapping[str, Binding], scope: Scope, where: str) -> tuple[str, Kind]:
    first = bindings[spec.arguments[0].name]
    first = first[0] if isinstance(first, tuple) and first else first
    first_kind = scope.layers.get(first) if isinstance(first, str) else None
    kind = spec.returns[0]
    if spec.same_kind and first_kind is not None:
        kind = KINDS["field"] if first_kind not in spec.returns else first_kind
    name = step.out or spec.out
    if not name and isinstance(first, str):
        name = first if first_kind == kind and first != "raw" else kind.name
    if step.out and not _LAYER_NAME.match(step.out):
        scope.fault(f"{where}.out", f"{step.out!r} is no layer name", "letters, digits, '_' and '-', a letter first")
    if name == "raw":
        scope.fault(f"{where}.out", "'raw' is the image as it was read and cannot be written", "choose another name")
    elif name in scope.layers and scope.layers[name] != kind:
        scope.fault(
            f"{where}.out", f"layer {name!r} is {scope.layers[name]}; this step makes {kind}", "choose another name"
        )
    elif (name in WRITERS and name != spec.out) or name in ("images", "objects", "run"):
        scope.fault(f"{where}.out", f"{name!r} is the name of a run's own output", "choose another name")
    return name, kind


def _outputs(recipe: Recipe, scope: Scope) -> tuple[str, ...]:
    layers = {name: kind for name, kind in scope.layers.items() if name not in ("raw", "image", "seeds")}
    found = tuple(name for name, kind in layers.items() if kind.name in ("labels", "table", "boxes", "instances"))
    if recipe.outputs == ("report",) and "report" not in scope.layers:
        return (*found, "report")  # a page shows what is written
    if not recipe.outputs:
        if found or scope.unsure or not recipe.steps:
            return found
        return tuple(layers)[-1:] or ("image",)
    for name in recipe.outputs:
        where = f"outputs {name}"
        if name in WRITERS and name not in scope.layers:
            needs = WRITERS[name]
            if not scope.unsure and not any(kind.name in needs for kind in layers.values()):
                scope.fault(where, f"needs a layer of kind {' or '.join(needs)}, and none is made")
        elif name not in scope.layers and not scope.unsure:
            hint = suggest(name, [*scope.layers, *WRITERS])
            fix = hint or f"layers made: {', '.join(scope.layers)}; made of them: {', '.join(WRITERS)}"
            scope.fault(where, f"no step makes {name!r}", fix)
    return recipe.outputs
