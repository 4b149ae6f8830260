"""Carry out one pass of a recipe on one window of the image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from cellkit.core.check import BoundStep
from cellkit.core.histogram import Histogram
from cellkit.core.kinds import KINDS
from cellkit.core.sample import Layer, Sample
from cellkit.core.stage import OBJECT
from cellkit.engine.blockwise.passes import BlockPlan, Pass, pixels_of
from cellkit.engine.blockwise.validity import Sides, Validity, after_objects, after_pixels, together
from cellkit.engine.blockwise.values import SOURCE, Value
from cellkit.engine.execute import apply
from cellkit.engine.networks import Networks
from cellkit.grid.cover import Window

__all__ = ["Scene", "look"]


@dataclass(frozen=True, eq=False)
class Scene:
    """What a pass made of a window: the values it was asked for, and which of their pixels are right.

    `window` lies in the image of `shape`; `sample` is the window as read, or blank where it was not `seen`.
    """

    window: Window
    shape: tuple[int, int]
    sample: Sample
    seen: bool
    layers: Mapping[Value, Layer]
    valid: Mapping[Value, Validity]

    @property
    def sides(self) -> Sides:
        """Which sides of the window are edges of the image."""
        return Sides.of(self.window, self.shape)


def look(
    plan: BlockPlan,
    some: Pass,
    window: Window,
    shape: tuple[int, int],
    inputs: tuple[Sample, bool, Mapping[Value, Layer]],
    means: tuple[Networks, Mapping[int, Histogram]],
    keep: set[Value],
) -> Scene:
    """Carry out the steps of `some` on `window` and return the values `keep`.

    `inputs`: the window as read, whether it was, and of every value given to the pass. `means`: networks, and
    histograms by step.

    Raises `StageError` where a step fails.
    """
    sample, seen, given = inputs
    networks, histograms = means
    graph, sides = plan.graph, Sides.of(window, shape)
    whole = Validity(Window(0, 0, *window.shape))
    layers: dict[Value, Layer] = dict(given)
    layers |= {Value(name, SOURCE): sample.layer(name) for name in ("raw", "image")}
    valid = dict.fromkeys(layers, whole)
    later = _last_uses(graph.reads, some.steps)
    for number in some.steps:
        step, reads = graph.steps[number], graph.reads[number]
        bound = {name: layers[value] for name, value in reads.items()}
        own = replace(sample, layers=MappingProxyType({"raw": sample.layer("raw"), **bound}))
        after = apply(step, own, networks, histograms.get(number))
        state = _after(step, [valid[value] for value in reads.values()], bound, window, sides)
        for value in graph.made_by(number):
            layers[value] = after.layer(value.name)
            valid[value] = _of_labels(layers[value], state, step, sides)
        for value in [v for v in layers if v.step != SOURCE and v not in keep and later.get(v, -1) <= number]:
            del layers[value]
    found = {value: layers[value] for value in keep}
    return Scene(window, shape, sample, seen, found, {value: valid[value] for value in keep})


def _last_uses(reads: tuple[Mapping[str, Value], ...], steps: tuple[int, ...]) -> dict[Value, int]:
    return {value: number for number in steps for value in reads[number].values()}


def _after(
    step: BoundStep, before: list[Validity], bound: Mapping[str, Layer], window: Window, sides: Sides
) -> Validity:
    state = after_pixels(together(before, window), pixels_of(step), sides)
    if step.spec.bracket or not (step.spec.reach(step.params) is OBJECT or step.spec.name == "components"):
        return state
    return after_objects(state, _support(step, bound), sides)


def _of_labels(layer: Layer, state: Validity, step: BoundStep, sides: Sides) -> Validity:
    """Labels that tiles were joined to: an object is right as a whole or not at all."""
    if step.spec.bracket and layer.kind == KINDS["labels"]:
        return after_objects(state, layer.value, sides)
    return state


def _support(step: BoundStep, bound: Mapping[str, Layer]) -> np.ndarray:
    """Return the objects a step looks at as a whole: its mask, else its labels, else where its field is above 0."""
    names = [name for name in step.bindings.values() if isinstance(name, str)]
    tests: tuple[tuple[str, Callable[[Any], np.ndarray]], ...] = (
        ("mask", lambda value: value),
        ("labels", lambda value: value),
        ("classes", lambda value: value > 0),
        ("field", lambda value: value > 0),
        ("prob", lambda value: (value > 0).any(axis=2)),
        ("image", lambda value: (value > 0).any(axis=2)),
    )
    for kind, support in tests:
        for name in names:
            if bound[name].kind.name == kind:
                return support(bound[name].value)
    return np.ones(next(iter(bound.values())).value.shape[:2], bool)
