"""What may be varied in a recipe, and in which range."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cellkit.core.check import BoundStep, Plan, bind, plan
from cellkit.core.errors import UsageError, suggest
from cellkit.core.recipe import Recipe
from cellkit.engine.execute import live
from cellkit.tune.dimension import Dimension, by_default, chosen, is_number, no_range, parts_of, ranged, shown

__all__ = ["Space", "scored_layer", "space"]

_LAYERS = {"pixel": ("labels", "mask"), "semantic": ("classes", "labels")}
_HOW_ONLY = ("size", "halo", "blend", "precision", "device", "batch", "n_tiles", "tile_overlap")
"""Parameters of stages with networks that say how they run; varied only where they are named."""


@dataclass(frozen=True)
class Space:
    """A recipe, the layer that is scored, what is varied, and notes on what is not and why."""

    recipe: Recipe
    layer: str
    dimensions: tuple[Dimension, ...]
    notes: tuple[str, ...] = ()

    @property
    def defaults(self) -> dict[str, Any]:
        """The recipe's own values of what is varied."""
        return {one.target: one.default for one in self.dimensions}

    @property
    def with_models(self) -> tuple[Recipe, ...]:
        """The recipe with each of the networks that are varied, one at a time."""
        loaded = _loaded(bind(self.recipe))
        named = [one for one in self.dimensions if one.target in loaded]
        return tuple(self.recipe.set(one.target, choice) for one in named for choice in one.choices)

    def apply(self, values: Mapping[str, Any]) -> Recipe:
        """Return the recipe with `values`, by ``step.param``."""
        recipe = self.recipe
        for target, value in values.items():
            recipe = recipe.set(target, value)
        return recipe


def scored_layer(bound: Plan, protocol: str) -> str:
    """Return the layer that `cellkit eval --as` would score. Raises `UsageError` where the recipe makes none."""
    wanted = _LAYERS.get(protocol, ("labels",))
    for name in wanted:
        if name in bound.layers and bound.layers[name].name in wanted:
            return name
    there = ", ".join(name for name in bound.layers if name not in ("raw", "image"))
    raise UsageError(f"--as {protocol} scores {' or '.join(wanted)}, which the recipe does not make; it makes {there}")


def space(recipe: Recipe, protocol: str, vary: Sequence[str] = ()) -> Space:
    """Return what is varied of `recipe`: what `vary` names, by default every parameter with a range or choices.

    `vary` holds ``step.param``, ``step`` (all of a step), ``step.param=low..high``, ``step.param=a,b,c`` or
    ``step.param=a|b|c``.

    Without a range of its own, a number is varied between half and twice its value (see `around`). By default, and for
    a whole step, these are left out: models, the parameters of brackets (tiles, frames), what only says how a network
    runs, and numbers that are none or 0 on an open scale.

    Raises `UsageError` where a name is unknown or ambiguous, a parameter has no range, or changes nothing that is
    scored, or a network is not there or not for its step; `RecipeError` where the recipe does not check.
    """
    recipe = _with_models(recipe, vary)
    bound = plan(recipe)
    layer = scored_layer(bound, protocol)
    found = _Steps(bound, layer)
    if not vary:
        notes: list[str] = []
        every = tuple(d for at, step in found.scored for d in _of_step(found, at, step, notes))
        if not every:
            raise UsageError("nothing of this recipe can be varied by default; name it: --vary step.param=low..high")
        return Space(recipe, layer, every, tuple(notes))
    named: list[Dimension] = []
    for text in vary:
        named += _named(found, text)
    targets = [one.target for one in named]
    twice = next((t for t in targets if targets.count(t) > 1), None)
    if twice is not None:
        raise UsageError(f"--vary {twice}: given twice")
    named.sort(key=lambda one: one.at)
    return Space(recipe, layer, tuple(named), tuple(_review_models(recipe, named)))


def _with_models(recipe: Recipe, vary: Sequence[str]) -> Recipe:
    """Return the recipe with the first model of a ``--vary`` where it names none itself, so that trial 0 can run."""
    steps = {step.step.label: step for _, step in bind(recipe).walk()}
    for text in vary:
        target, _, given = (part.strip() for part in text.partition("="))
        label, _, name = target.partition(".")
        parameter = steps[label].spec.parameters.get(name) if label in steps else None
        if parameter is not None and parameter.loaded and given and not steps[label].params[name]:
            recipe = recipe.set(target, parts_of(given)[0])
    return recipe


def _loaded(bound: Plan) -> set[str]:
    """Return the parameters that name a network, as ``step.param``."""
    return {
        f"{step.step.label}.{name}" for _, step in bound.walk() for name, p in step.spec.parameters.items() if p.loaded
    }


def _review_models(recipe: Recipe, named: Sequence[Dimension]) -> Iterator[str]:
    """Yield what there is to note of the networks that are varied. Raises `UsageError` where one cannot run here."""
    loaded = _loaded(bind(recipe))
    for one in named:
        for choice in one.choices if one.target in loaded else ():
            for fault in bind(recipe.set(one.target, choice)).faults:
                if not fault.where.endswith(f".{one.target.partition('.')[2]}"):
                    continue
                text = f"{one.target}={choice}: {fault.message}{f' ({fault.fix})' if fault.fix else ''}"
                if fault.stops or not fault.warning:
                    raise UsageError(f"--vary {text}")
                yield text


class _Steps:
    """The steps of a recipe by their labels, and which of them make the scored layer."""

    def __init__(self, bound: Plan, layer: str) -> None:
        self.labels = [step.step.label for _, step in bound.walk()]
        needed = live(bound, [layer])
        self.scored = [(at, inner) for at, step in enumerate(needed) for inner in _with_inner(step)]
        self.layer = layer
        self.every = {step.step.label: step for _, step in bound.walk()}
        self.place = {inner.where: at for at, inner in self.scored}

    def find(self, label: str, text: str) -> tuple[int, BoundStep]:
        """Return the step called `label`. Raises `UsageError` where there is not exactly one that counts."""
        count = self.labels.count(label)
        if count != 1:
            hint = suggest(label, self.labels) or f"steps: {', '.join(dict.fromkeys(self.labels))}"
            wrong = f"no step is called {label!r}" if not count else f"{count} steps are called {label!r}"
            fix = hint if not count else "give the one you mean a `name:` in the recipe"
            raise UsageError(f"--vary {text}: {wrong}; {fix}")
        step = self.every[label]
        if step.where not in self.place:
            raise UsageError(f"--vary {text}: {label} comes after all that makes {self.layer!r}, which is scored")
        return self.place[step.where], step


def _with_inner(step: BoundStep) -> Iterator[BoundStep]:
    yield step
    for inner in step.inner:
        yield from _with_inner(inner)


def _of_step(found: _Steps, at: int, step: BoundStep, notes: list[str]) -> Iterator[Dimension]:
    """Yield what is varied of a step by default, and note what could be but is not."""
    label = step.step.label
    if found.labels.count(label) > 1:
        if step.spec.parameters:
            notes.append(f"{label}: left out, as several steps are called that; give them names")
        return
    networks = any(p.loaded for p in step.spec.parameters.values())
    for name, parameter in step.spec.parameters.items():
        if step.spec.bracket or parameter.loaded or ((networks or name == "device") and name in _HOW_ONLY):
            continue
        one = by_default(f"{label}.{name}", parameter, step.params[name], at)
        if one is not None:
            yield one
        elif is_number(parameter):
            notes.append(f"{label}.{name}: left out, as {shown(step.params[name])} gives no scale; name a range")


def _named(found: _Steps, text: str) -> list[Dimension]:
    """Return the dimensions that one ``--vary`` asks for."""
    target, equals, given = (part.strip() for part in text.partition("="))
    label, dot, name = target.partition(".")
    if not label or (dot and not name) or (equals and not given):
        raise UsageError(f"--vary {text}: wanted step.param, step.param=low..high or step.param=a,b,c")
    at, step = found.find(label, text)
    if not dot:
        if equals:
            raise UsageError(f"--vary {text}: a range belongs to one parameter: {label}.param={given}")
        every = list(_of_step(found, at, step, []))
        if not every:
            raise UsageError(f"--vary {text}: no parameter of {label} has a range or choices{_offer(step)}")
        return every
    parameter = step.spec.parameters.get(name)
    if parameter is None:
        hint = suggest(name, step.spec.parameters) or f"parameters: {', '.join(step.spec.parameters) or 'none'}"
        raise UsageError(f"--vary {text}: {label} has no parameter {name!r}; {hint}")
    value = step.params[name]
    if not equals:
        one = by_default(target, parameter, value, at)
        if one is not None:
            return [one]
        raise UsageError(f"--vary {text}: {no_range(target, parameter, value)}")
    if ".." in given and is_number(parameter):
        return [ranged(text, target, parameter, value, at)]
    return [chosen(text, target, parameter, value, at)]


def _offer(step: BoundStep) -> str:
    return f"; name one with a range: {', '.join(step.spec.parameters)}" if step.spec.parameters else ""
