"""Score a recipe on images with truth, trial after trial, each at the cost of what has changed."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cellkit.core.check import bind, plan
from cellkit.core.errors import CellkitError, RecipeError, UsageError
from cellkit.core.kinds import KINDS
from cellkit.core.sample import Layer, Sample
from cellkit.engine.execute import live
from cellkit.metrics import Protocol, Report, Settings
from cellkit.tune.layers import LayerStore
from cellkit.tune.prefix import Route, Runner, route
from cellkit.tune.space import Space

if TYPE_CHECKING:
    from cellkit.io import Source

__all__ = ["Case", "Means", "Scored", "Scorer", "worst"]

_SHARE_OF_FREE = 4
_COUNTS_KEPT = 200_000
_SHOWN = 10
_TRUTH = "truth"


@dataclass(frozen=True)
class Case:
    """An image and its truth: `truth` returns it as whole numbers (y, x), given the image's (height, width).

    `group` is what no fold may cut (a field, a slide, a patient); by default every image stands for itself.
    """

    name: str
    source: Source
    truth: Callable[[tuple[int, int]], np.ndarray]
    group: str = ""


@dataclass(frozen=True)
class Means:
    """With what a `Scorer` works, without a say in the scores but for rounding.

    `workers`: images in work at once (None: all cores). `memory`: bytes of layers kept between trials (None: a quarter
    of what is free); beyond it they go to a temporary folder. `device`: where networks run.
    """

    workers: int | None = None
    memory: int | None = None
    device: str = "auto"


@dataclass(frozen=True)
class Scored:
    """The counts of every image, and why those failed that did; a failed image is counted as wholly wrong."""

    counts: Mapping[str, Any]
    failed: Mapping[str, str] = field(default_factory=dict)


class Scorer:
    """Scores the recipes of a `Space` on `cases`, under `protocol`. A context manager.

    Layers that do not change between trials are made once, and no image is worked on twice with the same values.
    """

    def __init__(
        self,
        space: Space,
        cases: Sequence[Case],
        protocol: Protocol,
        settings: Settings | None = None,
        *,
        means: Means | None = None,
    ) -> None:
        if not cases:
            raise UsageError("no images to tune on")
        self.space, self.protocol = space, protocol
        self.cases = {case.name: case for case in cases}
        if len(self.cases) < len(cases):
            raise UsageError("several images to tune on have one name")
        self.settings = settings or Settings()
        means = means or Means()
        self.workers = means.workers or os.cpu_count() or 1
        self._device = means.device
        self._store = LayerStore(means.memory if means.memory is not None else _free_memory() // _SHARE_OF_FREE)
        self._known: OrderedDict[str, dict[str, tuple[Any, str]]] = OrderedDict()
        self._asked: set[str] = set()
        self._stack = ExitStack()

    def __enter__(self) -> Scorer:
        from cellkit.engine.batch import Settings as RunSettings
        from cellkit.engine.networks import open_networks
        from cellkit.engine.opencv import single_threaded_opencv
        from cellkit.engine.warm import warming

        bound = plan(self._scored_only(self.space.recipe))
        stopped = [fault for fault in bound.faults if fault.stops]
        if stopped:
            raise UsageError("\n".join(map(str, stopped)))
        self.networks = open_networks(bound, RunSettings(device=self._device), len(self.cases))
        with ExitStack() as stack:
            stack.callback(self.networks.close)
            for recipe in self.space.with_models:  # one that is damaged is told before the first trial
                self.networks.open(live(bind(self._scored_only(recipe)), [self.space.layer]))
            stack.enter_context(self._store)
            stack.enter_context(single_threaded_opencv(self.workers))
            stack.enter_context(warming(bound, self.workers))
            self._runner = Runner(self._store, self.networks)
            self._pool = ThreadPoolExecutor(self.workers, "tune")
            stack.callback(self._pool.shutdown, cancel_futures=True)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all images."""
        return tuple(self.cases)

    def prepare(self, done: Callable[[], object] = lambda: None) -> None:
        """Read every image and its truth, and carry out the steps that no trial changes.

        Calls `done` after each. Raises `UsageError` that names the images which cannot be read or have no truth of
        their size. An image on which a step fails is told of with the trials.
        """
        way = self._route({})
        faults = []
        for name, fault in self._map(lambda name: self._prepared(way, name), self.names):
            done()
            if fault:
                faults.append(f"{name}: {fault}")
        if faults:
            more = f"\n  and {len(faults) - _SHOWN:,} more" if len(faults) > _SHOWN else ""
            lines = "".join(f"\n  {fault}" for fault in faults[:_SHOWN])
            raise UsageError(f"{len(faults):,} of {len(self.cases):,} images cannot be scored:{lines}{more}")

    def count(self, values: Mapping[str, Any], names: Sequence[str]) -> Scored:
        """Run the recipe with `values`, by ``step.param``, on the images `names`, and count them.

        A stage that fails on an image, or values that no recipe can have, stop nothing.
        """
        try:
            way = self._route(values)
        except RecipeError as error:
            reason = "; ".join(map(str, error.faults))
            return Scored({name: self._all_wrong(name) for name in names}, dict.fromkeys(names, reason))
        self._store.begin()
        way = way.keeping(self._asked)
        self._asked.update(mark.key for mark in way.marks)
        known = self._known.setdefault(way.key, {})
        self._known.move_to_end(way.key)
        while len(self._known) > max(2, _COUNTS_KEPT // len(self.cases)):
            self._known.popitem(last=False)
        for name, found in self._map(lambda n: self._counted(way, n), [n for n in names if n not in known]):
            known[name] = found
        return Scored(
            {name: known[name][0] for name in names}, {name: known[name][1] for name in names if known[name][1]}
        )

    def report(self, counts: Mapping[str, Any]) -> Report:
        """Return the report of the protocol on the counts of images."""
        return self.protocol.report(counts, self.settings)

    def score(self, values: Mapping[str, Any], names: Sequence[str]) -> tuple[float, int]:
        """Return the headline of the protocol (0 where nothing counts) and the number of images that failed."""
        scored = self.count(values, names)
        value = self.report(scored.counts).value
        return (float(value) if np.isfinite(value) else 0.0), len(scored.failed)

    def _scored_only(self, recipe: Any) -> Any:
        return replace(recipe, outputs=(self.space.layer,))

    def _route(self, values: Mapping[str, Any]) -> Route:
        values = {**self.space.defaults, **values}
        bound = plan(self._scored_only(self.space.apply(values)))
        return route(bound, self.space.layer, self.space.dimensions, values)

    def _map(self, function: Callable[[str], Any], names: Sequence[str]) -> Iterator[tuple[str, Any]]:
        return zip(names, self._pool.map(function, names), strict=True)

    def _read(self, name: str) -> Sample:
        from cellkit.io import read

        return read(self.cases[name].source, self.space.recipe.read_options)

    def _prepared(self, way: Route, name: str) -> str:
        """Read image and truth and go to the first mark; return what is wrong with the files, if anything."""
        try:
            sample = self._read(name)
            self._truth(name, sample.shape)
        except CellkitError as error:
            return str(error)
        try:
            self._runner.prepare(way, name, lambda: sample)
        except CellkitError:
            return ""  # a step that fails here fails in every trial, where it is counted
        return ""

    def _truth(self, name: str, shape: tuple[int, int] | None = None) -> np.ndarray:
        kept = self._store.get(_TRUTH, name)
        if kept is not None:
            return kept["truth"]
        shape = shape or self._read(name).shape
        truth = np.ascontiguousarray(self.cases[name].truth(shape), np.int32)
        if truth.shape != shape:
            raise UsageError(f"its truth is {truth.shape[0]} x {truth.shape[1]} px, the image {shape[0]} x {shape[1]}")
        truth.setflags(write=False)
        self._store.put(_TRUTH, name, Sample({"truth": Layer(KINDS["labels"], truth)}, name), lasting=True)
        return truth

    def _counted(self, way: Route, name: str) -> tuple[Any, str]:
        truth = self._truth(name)
        try:
            found = self._runner.run(way, name, lambda: self._read(name))
            return self.protocol.count(truth, found.astype(np.int32, copy=False)), ""
        except CellkitError as error:
            return self._all_wrong(name), str(error)
        except MemoryError:
            return self._all_wrong(name), "does not fit in memory; fewer --workers may help"

    def _all_wrong(self, name: str) -> Any:
        truth = self._truth(name)
        return self.protocol.count(truth, worst(truth))


def worst(truth: np.ndarray) -> np.ndarray:
    """Return a prediction that shares no pixel with `truth`, int32 (y, x): under every protocol its image scores 0."""
    return (truth == 0).astype(np.int32)


def _free_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available)
