"""What may be varied in a recipe, and in which range."""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cellkit.core.check import BoundStep, Plan, bind, plan
from cellkit.core.errors import UsageError, suggest
from cellkit.core.recipe import Recipe
from cellkit.core.stage import Parameter
from cellkit.engine.execute import live

__all__ = ["Dimension", "Space", "around", "scored_layer", "space"]

_LAYERS = {"pixel": ("labels", "mask"), "semantic": ("classes", "labels")}
_HOW_ONLY = ("size", "halo", "blend", "precision", "device", "batch", "n_tiles", "tile_overlap")
"""Parameters of stages with networks that say how they run; varied only where they are named."""
_FACTOR = 2.0
_DIGITS = 4


@dataclass(frozen=True)
class Dimension:
    """One parameter that is varied: ``step.param``, what the recipe has it at, and a range or choices.

    `default` is the recipe's own value. Without `choices`, values lie between `low` and `high`, ends included, are
    `whole` numbers or have four significant digits, and are drawn on a `log` scale or not. `at` is the place of the
    step, or of the bracket around it, among those that make the scored layer.
    """

    target: str
    default: Any
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    log: bool = False
    choices: tuple[Any, ...] = ()
    at: int = 0

    @property
    def discrete(self) -> bool:
        """True where values come again: choices and whole numbers."""
        return bool(self.choices) or self.whole

    def __contains__(self, value: Any) -> bool:
        if self.choices:
            return any(type(one) is type(value) and one == value for one in self.choices)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and self.low <= value <= self.high

    def tidy(self, value: Any) -> Any:
        """Return a value as it enters the recipe: whole, or with four significant digits, and inside the range."""
        if self.choices:
            return value
        if self.whole:
            return int(value)
        return min(max(float(f"{value:.{_DIGITS}g}"), self.low), self.high)

    def __str__(self) -> str:
        if self.choices:
            return f"{self.target}: {', '.join(_text(one) for one in self.choices)}"
        scale = ", by factors" if self.log else ""
        return f"{self.target}: {_text(self.low)} to {_text(self.high)}{scale}"


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

    `vary` holds ``step.param``, ``step`` (all of a step), ``step.param=low..high`` or ``step.param=a,b,c``.

    Without a range of its own, a number is varied between half and twice its value (see `around`). By default, and for
    a whole step, these are left out: models, the parameters of brackets (tiles, frames), what only says how a network
    runs, and numbers that are none or 0 on an open scale.

    Raises `UsageError` where a name is unknown or ambiguous, a parameter has no range, or changes nothing that is
    scored; `RecipeError` where the recipe does not check.
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
    chosen: list[Dimension] = []
    for text in vary:
        chosen += _named(found, text)
    targets = [one.target for one in chosen]
    twice = next((t for t in targets if targets.count(t) > 1), None)
    if twice is not None:
        raise UsageError(f"--vary {twice}: given twice")
    chosen.sort(key=lambda one: one.at)
    return Space(recipe, layer, tuple(chosen))


def _with_models(recipe: Recipe, vary: Sequence[str]) -> Recipe:
    """Return the recipe with the first model of a ``--vary`` where it names none itself, so that trial 0 can run."""
    steps = {step.step.label: step for _, step in bind(recipe).walk()}
    for text in vary:
        target, _, given = (part.strip() for part in text.partition("="))
        label, _, name = target.partition(".")
        parameter = steps[label].spec.parameters.get(name) if label in steps else None
        if parameter is not None and parameter.loaded and given and not steps[label].params[name]:
            recipe = recipe.set(target, given.split(",")[0].strip())
    return recipe


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
        one = _default(f"{label}.{name}", parameter, step.params[name], at)
        if one is not None:
            yield one
        elif _number(parameter):
            notes.append(f"{label}.{name}: left out, as {_text(step.params[name])} gives no scale; name a range")


def _default(target: str, parameter: Parameter, value: Any, at: int) -> Dimension | None:
    """Return the dimension of a parameter without a range of its own, or None where it has none."""
    if parameter.loaded:
        return None
    choices = parameter.choices or ((False, True) if parameter.type is bool else ())
    if choices:
        return Dimension(target, value, choices=tuple(choices), at=at) if len(choices) > 1 else None
    ends = around(parameter, value)
    if ends is None or parameter.span is None:
        return None
    return Dimension(target, value, *ends, whole=_whole(parameter), log=_log(parameter, ends), at=at)


def around(parameter: Parameter, value: Any) -> tuple[float, float] | None:
    """Return the range in which a number is varied by default, or None where it has no scale.

    From half to twice its value. Where its `Span` runs from 0 to at most 100 (shares, percentages), its distance to
    the upper end is likewise at least halved and at most doubled: 99 % becomes 98 to 99.5 %. At either end of such a
    span, and at 0 in a span no wider than 2, it is varied by a tenth of the width. Never beyond the `Span`; whole
    numbers by at least 1.
    """
    span = parameter.span
    if span is None or not _number(parameter) or isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    width, share = span.high - span.low, span.low == 0 and 1 <= span.high <= 100 and not _whole(parameter)
    if value == 0 or (share and value == span.high):
        if width > (100 if share and value else 2):
            return None
        low, high = value - width / 10, value + width / 10
    else:
        low, high = sorted((value / _FACTOR, value * _FACTOR))
        if share:
            rest = span.high - value
            low, high = max(low, span.high - _FACTOR * rest), min(high, span.high - rest / _FACTOR)
    if _whole(parameter):
        low, high = min(math.floor(low), value - 1), max(math.ceil(high), value + 1)
    low, high = max(low, span.low), min(high, span.high)
    return (low, high) if low < high else None


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
        one = _default(target, parameter, value, at)
        if one is not None:
            return [one]
        raise UsageError(f"--vary {text}: {_no_range(target, parameter, value)}")
    if ".." in given and _number(parameter):
        return [_ranged(text, target, parameter, value, at)]
    return [_chosen(text, target, parameter, value, at)]


def _no_range(target: str, parameter: Parameter, value: Any) -> str:
    if parameter.loaded:
        return f"a model is varied by naming some: --vary {target}=a,b"
    if _number(parameter):
        return f"from {_text(value)} no range follows; give one: --vary {target}=low..high"
    return f"{parameter.type_text} has no range; name the choices: --vary {target}=a,b"


def _offer(step: BoundStep) -> str:
    return f"; name one with a range: {', '.join(step.spec.parameters)}" if step.spec.parameters else ""


def _ranged(text: str, target: str, parameter: Parameter, value: Any, at: int) -> Dimension:
    ends = [_coerced(text, parameter, part) for part in text.partition("=")[2].split("..", 1)]
    low, high = ends
    if not all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in ends) or low >= high:
        raise UsageError(f"--vary {text}: wanted low..high with low below high")
    return Dimension(target, value, low, high, _whole(parameter), _log(parameter, (low, high)), at=at)


def _chosen(text: str, target: str, parameter: Parameter, value: Any, at: int) -> Dimension:
    parts = [part for part in text.partition("=")[2].split(",") if part.strip()]
    choices = [_coerced(text, parameter, part) for part in parts]
    if any(not isinstance(one, (str, int, float, bool, type(None))) for one in choices):
        raise UsageError(f"--vary {text}: {parameter.type_text} cannot be varied")
    if len({(type(one), one) for one in choices}) < max(2, len(choices)):
        raise UsageError(f"--vary {text}: wanted at least two different values; one alone is set with --set {text}")
    return Dimension(target, value, choices=tuple(choices), at=at)


def _coerced(text: str, parameter: Parameter, part: str) -> Any:
    import yaml

    try:
        value = yaml.safe_load(part)
    except yaml.YAMLError:
        value = part.strip()
    if parameter.type is str and not isinstance(value, str):
        value = part.strip()
    try:
        return parameter.coerce(value)
    except ValueError as error:
        raise UsageError(f"--vary {text}: {error}") from None


def _members(parameter: Parameter) -> tuple[Any, ...]:
    return typing.get_args(parameter.type) or (parameter.type,)


def _number(parameter: Parameter) -> bool:
    return parameter.span is not None and any(m in (int, float) for m in _members(parameter))


def _whole(parameter: Parameter) -> bool:
    return float not in _members(parameter)


def _log(parameter: Parameter, ends: tuple[float, float]) -> bool:
    return parameter.span is not None and parameter.span.log and ends[0] > 0


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
