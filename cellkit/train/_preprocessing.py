"""The steps of a recipe before the step it trains, so that training sees what a run will see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cellkit.core import KINDS, Kind, Plan, ReadOptions, Recipe, RecipeError, Sample, StageError, UsageError, bind
from cellkit.core.check import BoundStep
from cellkit.core.errors import Fault, suggest
from cellkit.engine.execute import execute
from cellkit.engine.networks import Networks

__all__ = ["Preprocessing", "preprocessing"]


@dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before the trained step reads its `layer`.

    `stages`: plans one after the other; between them, and after the last, the brackets `resizes` change the frame.
    `options`: how files are read.
    """

    stages: tuple[Plan, ...] = ()
    resizes: tuple[BoundStep, ...] = ()
    layer: str = "image"
    options: ReadOptions | None = None

    def image(self, sample: Sample) -> np.ndarray:
        """Return the image, float32 (y, x, c), that the trained step reads. Raises `StageError` where a step fails."""
        networks = Networks()
        for number, stage in enumerate(self.stages):
            later = [step for plan in self.stages[number + 1 :] for step in plan.steps]
            keep = [self.layer, *(name for step in later for name in step.reads)]
            sample = execute(stage, sample, [name for name in keep if name in stage.layers], networks=networks)
            if number < len(self.resizes):
                sample = _entered(self.resizes[number], sample)
        return sample[self.layer]

    def shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) that an image of `shape` has when the trained step reads it."""
        for step in self.resizes:
            shape = _part(step, shape).shape
        return shape

    def truth(self, kind: str, value: Any, shape: tuple[int, int]) -> Any:
        """Return truth of this kind, of an image of `shape`, in the frame that the trained step reads."""
        for step in self.resizes:
            part = _part(step, shape)
            value, shape = part.enter(KINDS[kind], value), part.shape
        return value


def preprocessing(recipe: Recipe, trains: str) -> Preprocessing:
    """Return what `recipe` does before its step called `trains` (a stage's name, or a step's `name:`).

    Steps in a `tile` or `pad` around the trained step are done on the whole image; where they depend on more than a few
    pixels around, a crop would not see what a tile sees, and that is a fault. A `resize` around it is done to image and
    truth.

    Raises `UsageError` where there is no such step or several, `RecipeError` where a step before it has a fault.
    """
    bound = bind(recipe)
    paths = list(_paths(bound.steps, trains))
    wrong = [fault for fault in bound.faults if not fault.warning]
    if len(paths) != 1:
        if not paths and wrong:
            raise RecipeError(wrong)
        labels = [step.step.label for _, step in bound.walk()]
        fix = suggest(trains, labels) or f"steps: {', '.join(labels) or 'none'}"
        many = f"{len(paths)} steps are called {trains!r}; give the one that is meant a `name:`"
        raise UsageError(f"trains: {many if paths else f'no step is called {trains!r}; {fix}'}")
    (path,) = paths
    target = path[-1][-1]
    before = [step for steps in path for step in steps[:-1]]
    found = [fault for fault in wrong if any(_concerns(fault, step) for step in before)]
    inside = [step for place, steps in enumerate(path[1:]) for step in steps[:-1] if not _resizes(path[place][-1])]
    found += [
        Fault(step.where, "depends on more than a few pixels, so that a tile is not what a crop is", "put it before")
        for step in inside
        if not (isinstance(step.spec.reach(step.params), int) or _measures(step))
    ]
    if found:
        raise RecipeError(found)
    layer = target.bindings[target.spec.arguments[0].name] if target.spec.arguments else None
    if not isinstance(layer, str):
        raise UsageError(f"trains: {trains!r} reads no single image")
    stages, resizes, steps = [], [], []
    for level in path:
        steps += level[:-1]
        if _resizes(level[-1]):
            stages.append(_plan(bound, steps))
            resizes.append(level[-1])
            steps = []
    stages.append(_plan(bound, steps))
    return Preprocessing(tuple(stages), tuple(resizes), layer, recipe.read_options)


def _paths(steps: Sequence[BoundStep], trains: str) -> Any:
    """Yield, for each step called `trains`, the steps of each level from the top down to the one that leads there."""
    for index, step in enumerate(steps):
        if step.step.label == trains and not step.spec.bracket:
            yield [list(steps[: index + 1])]
        for path in _paths(step.inner, trains):
            yield [list(steps[: index + 1]), *path]


def _plan(bound: Plan, steps: Sequence[BoundStep]) -> Plan:
    layers: dict[str, Kind] = {"raw": KINDS["image"], "image": KINDS["image"], **bound.layers}
    for step in steps:
        layers.update({step.output: step.kind} if step.kind is not None else dict(step.exports))
    return replace(bound, steps=tuple(steps), layers=layers, outputs=(), faults=())


def _concerns(fault: Fault, step: BoundStep) -> bool:
    return fault.where == step.where or fault.where.startswith((f"{step.where}.", f"{step.where} "))


def _resizes(step: BoundStep) -> bool:
    return step.spec.bracket and step.spec.name == "resize"


def _measures(step: BoundStep) -> bool:
    return any(argument.kinds[0] == KINDS["histogram"] for argument in step.spec.arguments)


def _part(step: BoundStep, shape: tuple[int, int]) -> Any:
    try:
        frame = step.spec.function(shape, **step.params)
    except StageError as error:
        raise StageError(f"{step.where}: {error}") from error
    return frame.parts[0]


def _entered(step: BoundStep, sample: Sample) -> Sample:
    """Return the sample in the frame of a bracket with one part, as the engine hands it to the steps inside."""
    part = _part(step, sample.shape)
    out = sample
    for name, layer in sample.layers.items():
        out = out.with_layer(name, layer.kind, part.enter(layer.kind, layer.value), layer.names)
    if sample.pixel_size is not None:
        old = sample.shape
        factors = [part.shape[axis] / old[axis] for axis in range(2)]
        out = replace(out, pixel_size=(sample.pixel_size[0] / factors[0], sample.pixel_size[1] / factors[1]))
    return out
