"""Run a recipe on an image from where an earlier run with the same steps and parameters so far has come to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np

from cellkit.core.check import BoundStep, Plan
from cellkit.core.kinds import KINDS
from cellkit.core.sample import Sample
from cellkit.engine.execute import execute, live
from cellkit.engine.networks import Networks
from cellkit.tune.dimension import Dimension
from cellkit.tune.layers import LayerStore

__all__ = ["Mark", "Route", "Runner", "route"]


@dataclass(frozen=True)
class Mark:
    """A place between two steps: how many steps are done, a key of these with their parameters, the layers needed on.

    `kept`: what there is at this place is kept, since it may be asked for again; `lasting`: in any case.
    """

    at: int
    key: str
    needed: frozenset[str]
    kept: bool
    lasting: bool


@dataclass(frozen=True)
class Route:
    """The steps that make `layer`, the marks among them in order, and the key of all of it."""

    plan: Plan
    layer: str
    steps: tuple[BoundStep, ...]
    marks: tuple[Mark, ...]
    key: str

    def keeping(self, keys: Container[str]) -> Route:
        """Return the route with what has one of `keys` kept as well: what was asked for before may be again."""
        return replace(self, marks=tuple(replace(m, kept=m.kept or m.key in keys) for m in self.marks))

    @property
    def reads_raw(self) -> bool:
        """True where a step reads the values of the image as it was read, not only its size."""
        return self.layer == "raw" or any("raw" in step.reads for step in self.steps)


def route(bound: Plan, layer: str, dimensions: Sequence[Dimension] = (), values: Mapping[str, Any] | None = None) -> Route:  # fmt: skip # noqa: E501
    """Return how `layer` is made, with a mark before every step that `dimensions` vary.

    What stands before the first of them is kept in any case, for it is the same in all trials. At a later mark layers
    are kept where everything varied before it comes again: choices, whole numbers and, of `values`, those that the
    recipe has itself. A number from a continuum hardly ever comes twice by itself; see `Route.keeping`.
    """
    steps = tuple(live(bound, [layer]))
    needs = _needed(steps, layer)
    at = sorted({one.at for one in dimensions})
    digests = _digests(steps)
    values = values or {}
    marks = []
    for place in at:
        before = [one for one in dimensions if one.at < place]
        again = all(one.discrete or values.get(one.target) == one.default for one in before)
        marks.append(Mark(place, digests[place], needs[place], again, not before))
    return Route(bound, layer, steps, tuple(marks), digests[-1])


class Runner:
    """Carries routes out, keeping layers in `store`. Networks are opened once, in `networks`."""

    def __init__(self, store: LayerStore, networks: Networks) -> None:
        self.store, self.networks = store, networks

    def run(self, way: Route, name: str, read: Callable[[], Sample]) -> Any:
        """Return the layer that `way` makes of the image called `name`, which `read` reads if it is needed."""
        started = perf_counter()
        sample, done = self._start(way, name)
        if sample is None:
            sample, done = _light(way, read()), 0
            self._keep(way, name, sample, 0, started)
        for mark in way.marks:
            if mark.at > done:
                sample, done = self._go(way, sample, done, mark.at, mark.needed), mark.at
                started = self._keep(way, name, sample, done, started)
        return self._go(way, sample, done, len(way.steps), frozenset({way.layer}))[way.layer]

    def prepare(self, way: Route, name: str, read: Callable[[], Sample]) -> None:
        """Carry out what stands before the first mark, and keep it."""
        if not way.marks or self.store.get(way.marks[0].key, name) is not None:
            return
        mark, started = way.marks[0], perf_counter()
        self._keep(way, name, self._go(way, _light(way, read()), 0, mark.at, mark.needed), mark.at, started)

    def _start(self, way: Route, name: str) -> tuple[Sample | None, int]:
        for mark in reversed(way.marks):
            found = self.store.get(mark.key, name) if mark.kept else None
            if found is not None:
                return found, mark.at
        return None, 0

    def _keep(self, way: Route, name: str, sample: Sample, at: int, started: float) -> float:
        """Keep a sample at its mark, if it has one; return when what the next one costs begins to count."""
        for mark in way.marks:
            if mark.at == at and mark.kept:
                self.store.put(mark.key, name, sample, lasting=mark.lasting, seconds=perf_counter() - started)
                return perf_counter()
        return started

    def _go(self, way: Route, sample: Sample, first: int, end: int, needed: frozenset[str]) -> Sample:
        if first == end:
            return sample
        part = replace(way.plan, steps=way.steps[first:end])
        return execute(part, sample, sorted(needed), networks=self.networks)


def _light(way: Route, sample: Sample) -> Sample:
    """Return the sample with nothing but the size of `raw` where no step reads its values."""
    if way.reads_raw or "raw" not in sample:
        return sample
    nothing = np.broadcast_to(np.zeros((1, 1, 1), np.float32), (*sample.shape, 1))
    return sample.with_layer("raw", KINDS["image"], nothing)


def _needed(steps: Sequence[BoundStep], layer: str) -> list[frozenset[str]]:
    """Return, for every place between steps, the layers that those after it need."""
    needed = {layer, "raw"}
    found = [frozenset(needed)]
    for step in reversed(steps):
        needed = (needed - step.writes) | step.reads | {"raw"}
        found.append(frozenset(needed))
    return found[::-1]


def _digests(steps: Sequence[BoundStep]) -> list[str]:
    """Return, for every place between steps, a digest of all before it."""
    total = hashlib.sha256()
    found = [total.hexdigest()]
    for step in steps:
        total.update(repr(_identity(step)).encode())
        found.append(total.hexdigest())
    return found


def _identity(step: BoundStep) -> tuple[Any, ...]:
    """Return all that a step's result hangs on besides the layers it reads."""
    params = tuple(sorted(step.params.items()))
    inner = tuple(_identity(one) for one in step.inner)
    return step.spec.name, step.spec.origin, params, tuple(sorted(step.bindings.items())), step.output, inner
