"""Run the steps of a recipe from one parameter on, over a range of its values, and show what each makes."""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cellkit.core.check import BoundStep, plan
from cellkit.core.errors import RecipeError, StageError, UsageError, suggest
from cellkit.core.recipe import Recipe
from cellkit.core.sample import Sample
from cellkit.core.stage import Parameter
from cellkit.engine.networks import Networks

if TYPE_CHECKING:
    from cellkit.engine.explain import Traces
    from cellkit.report.sweep import Sweep

__all__ = ["MOST_BYTES", "MOST_VALUES", "Range", "read_range", "swept"]

MOST_VALUES = 64
"""Values of one sweep at most."""
MOST_BYTES = 60_000_000
"""Bytes of the pictures that the sweeps of one page take at most."""
_DIGITS = 4


@dataclass(frozen=True)
class Range:
    """The values of one parameter, rising, the recipe's own among them at `own`; `at`: its step's place at the top."""

    target: str
    unit: str
    values: tuple[Any, ...]
    own: int
    at: int
    where: str


def read_range(recipe: Recipe, text: str) -> Range:
    """Return what a ``step.param=a:b:n`` or ``a:b:n:log`` stands for: n values from a to b, and the recipe's own.

    Values are evenly spaced, by factors with ``log`` and where the parameter's `Span` says so. Raises `UsageError`
    where a name is unknown, the range is none, or a value lies outside the `Span`; `RecipeError` for the recipe.
    """
    target, _, given = (part.strip() for part in text.partition("="))
    label, _, name = target.partition(".")
    try:
        recipe.set(target, 0)  # which knows the names of steps
    except UsageError as error:
        raise UsageError(str(error).replace(f"--set {target}", f"--sweep {text}", 1)) from None
    bound = plan(recipe)
    at, step = next((i, s) for i, top in enumerate(bound.steps) for s in _within(top) if s.step.label == label)
    parameter = step.spec.parameters.get(name)
    if parameter is None:
        hint = suggest(name, step.spec.parameters) or f"parameters: {', '.join(step.spec.parameters) or 'none'}"
        raise UsageError(f"--sweep {text}: {label} has no parameter {name!r}; {hint}")
    if parameter.span is None or not {int, float} & set(_members(parameter)):
        raise UsageError(f"--sweep {text}: {name} is {parameter.type_text}; a sweep is over a number")
    values: list[Any] = _values(text, given, parameter)
    own = step.params[name]
    placed = isinstance(own, (int, float)) and not isinstance(own, bool)  # none and a list have no place on the scale
    values = sorted({*values, own}) if placed else [own, *values]
    return Range(target, parameter.span.unit, tuple(values), values.index(own), at, step.where)


def swept(recipe: Recipe, sample: Sample, shown: Range, traced: Traces, most: int) -> Sweep:
    """Return the pictures of all steps from the swept one on, for every value; the steps before run once.

    `traced`: makes of a plan and what was seen the traces of the page, see `cellkit.engine.explain`. `most`: the bytes
    that pictures may take. Raises `UsageError` where they take more.
    """
    from cellkit.report.explain import frames
    from cellkit.report.sweep import Sweep, counted

    networks = Networks()
    bound = plan(recipe)
    before, seen = traced.run(replace(bound, steps=bound.steps[: shown.at]), sample, networks)
    sweep = Sweep(shown.target, shown.unit, tuple(map(_text, shown.values)), shown.own)
    for number, value in enumerate(shown.values):
        try:
            now = plan(recipe.set(shown.target, value))
            _, later = traced.run(replace(now, steps=now.steps[shown.at :]), before, networks)
        except (RecipeError, StageError) as error:
            sweep.failed(" ".join(str(error).split()))
            continue
        traces = traced.of(now, {**seen, **later})
        first = next(i for i, t in enumerate(traces) if t.where == bound.steps[shown.at].where)
        # What the recipe's own value makes stands on the page already.
        sweep.add({} if number == shown.own else frames(traces, first), counted(traces[first:]))
        if sweep.size > most:
            raise UsageError(
                f"--sweep {shown.target}: the pictures of the page would take more than {MOST_BYTES // 10**6} MB; ask "
                "for fewer values, or a part of the image (`read: {crop: [y0, x0, y1, x1]}`)"
            )
    sweep.card = next(i for i, t in enumerate(traced.of(bound, traced.base)) if t.where == shown.where)
    return sweep


def _within(step: BoundStep) -> Iterator[BoundStep]:
    yield step
    for inner in step.inner:
        yield from _within(inner)


def _members(parameter: Parameter) -> tuple[Any, ...]:
    return typing.get_args(parameter.type) or (parameter.type,)


def _values(text: str, given: str, parameter: Parameter) -> list[Any]:
    wanted = f"--sweep {text}: wanted step.param=a:b:n or a:b:n:log, n values from a up to b"
    parts = given.split(":")
    try:
        low, high, count = float(parts[0]), float(parts[1]), int(parts[2])
    except (ValueError, IndexError):
        raise UsageError(wanted) from None
    if parts[3:] not in ([], ["log"]) or not (math.isfinite(low) and math.isfinite(high) and low < high) or count < 2:
        raise UsageError(wanted)
    if count > MOST_VALUES:
        raise UsageError(f"--sweep {text}: at most {MOST_VALUES} values, got {count}")
    whole = float not in _members(parameter)
    for end in (low, high):
        try:
            parameter.coerce(int(end) if whole and end.is_integer() else end)
        except ValueError as error:
            raise UsageError(f"--sweep {text}: {error}") from None
    span = parameter.span
    if (parts[3:] or (span is not None and span.log)) and low > 0:
        points = np.geomspace(low, high, count)
    elif parts[3:]:
        raise UsageError(f"--sweep {text}: by factors a range must begin above 0")
    else:
        points = np.linspace(low, high, count)
    if whole:
        return sorted({round(float(point)) for point in points})
    return sorted({min(max(float(f"{point:.{_DIGITS}g}"), low), high) for point in points})


def _text(value: Any) -> str:
    if value is None:
        return "null"
    return f"[{', '.join(map(_text, value))}]" if isinstance(value, Sequence) else f"{value:.6g}"
