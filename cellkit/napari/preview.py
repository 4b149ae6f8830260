"""What a recipe makes of the region that is looked at, equal to what a run makes of the whole image there.

Steps whose reach is bounded are carried out on a window around the region, which grows until every object that touches
the region is seen whole. What is measured on the whole image (`Histogram`), and steps that no window bounds, are done
on the whole image once and kept under everything that came before them, so that a change of a later parameter costs
the window only.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import psutil

from cellkit.core.check import BoundStep, Plan, leaves
from cellkit.core.errors import UsageError
from cellkit.core.histogram import Histogram
from cellkit.core.kinds import KINDS
from cellkit.core.sample import Layer
from cellkit.engine.blockwise.block import Block
from cellkit.engine.blockwise.job import Bench, BlockJob
from cellkit.engine.blockwise.joins import joins
from cellkit.engine.blockwise.passes import BlockPlan, pass_for, refuse
from cellkit.engine.blockwise.settle import settle
from cellkit.engine.blockwise.values import SOURCE, Graph, Value
from cellkit.engine.blockwise.window import Scene, look
from cellkit.engine.execute import apply, live
from cellkit.engine.footprint import bytes_per_pixel
from cellkit.engine.networks import Networks, loads
from cellkit.grid.cover import Window, cover
from cellkit.napari.pixels import Pixels

__all__ = ["VIEWABLE", "Preview", "Seen", "Stopped", "viewable"]

VIEWABLE = ("image", "prob", "field", "mask", "classes", "labels")
"""The kinds of layer that a preview shows."""

_WHOLE = 2**24
"""Pixels up to which pieces of any size (`fill_holes`, `hysteresis`) are looked at on the whole image."""
_WHOLE_PREDICTED = 2**22
"""The same behind a network, which takes about half a second a megapixel on two cores."""
_BLOCK = 2048
_KEPT = 2**30
"""Bytes of whole layers that are kept; least recently used go first."""


class Stopped(Exception):
    """The preview is no longer wanted."""


@dataclass(frozen=True, eq=False)
class Seen:
    """A layer on `window`. `notes` say where it may differ from what a run makes."""

    window: Window
    layer: Layer
    notes: tuple[str, ...] = ()


def viewable(bound: Plan) -> list[str]:
    """Return the layers of a recipe that a preview can show, the one that matters most first."""
    names = [name for name, kind in bound.layers.items() if kind.name in VIEWABLE and name != "raw"]
    rank = ("labels", "classes", "mask", "prob", "field", "image")
    wanted = [name for name in bound.outputs if name in names]
    rest = [name for name in reversed(names) if name not in wanted]
    return sorted([*wanted, *rest], key=lambda n: (n not in wanted, n == "seeds", rank.index(bound.layers[n].name)))


class Preview:
    """Previews of any recipe on one image, under the same `read:` options. Keeps what it found of the whole image."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels
        self.networks = Networks()
        self.layers: OrderedDict[str, Layer] = OrderedDict()
        self.histograms: dict[str, Histogram] = {}

    def look(
        self,
        bound: Plan,
        name: str,
        view: Window,
        stop: Callable[[], bool] = lambda: False,
        tell: Callable[[str], None] = lambda _: None,
    ) -> Seen:
        """Return the layer `name` on `view`; labels are numbered anew from 1.

        `stop` is asked between steps and windows; `tell` hears what takes long. Raises `Stopped` where `stop` says so,
        `StageError` where a step fails, `UsageError` where a step needs more of the image than fits in memory.
        """
        walk = _Walk(self, bound, name, stop, tell)
        layer = walk.window(walk.target, view)
        return Seen(view, layer, tuple(walk.notes))

    def keep(self, key: str, layer: Layer) -> None:
        """Keep a layer of the whole image."""
        self.layers[key] = layer
        while len(self.layers) > 1 and sum(kept.value.nbytes for kept in self.layers.values()) > _KEPT:
            self.layers.popitem(last=False)

    def kept(self, key: str) -> Layer | None:
        """Return a layer of the whole image that was kept."""
        if key in self.layers:
            self.layers.move_to_end(key)
        return self.layers.get(key)


@dataclass
class _Needs:
    """What steps are given: layers of the whole image, and histograms by step."""

    given: dict[Value, Layer]
    histograms: dict[int, Histogram]


class _Walk:
    """One look at one layer of one recipe."""

    def __init__(
        self, preview: Preview, bound: Plan, name: str, stop: Callable[[], bool], tell: Callable[[str], None]
    ) -> None:
        self.preview, self.pixels, self.bound = preview, preview.pixels, bound
        self.stop, self.tell = stop, tell
        self.name = name
        self.graph = Graph.of(live(bound, [name]))
        self.target = self.graph.ends[name]
        self.shape = preview.pixels.shape
        self.size = self.shape[0] * self.shape[1]
        self.notes: dict[str, None] = {}
        self._keys: dict[int, str] = {}

    def window(self, target: Value, core: Window) -> Layer:
        """Return a value on `core`."""
        self._go_on()
        if target.step == SOURCE:
            return self.pixels.read(core).layer(target.name)
        if self.preview.kept(self._key(target)) is not None or self._sees_whole(target.step):
            return _cut(self.whole(target), core)
        needs = self._needs([target])
        graph, labels = self.graph, self.graph.kinds[target] == KINDS["labels"]
        now = pass_for(graph, 0, [target], tuple(needs.given), objects=labels, last=True)
        plan = BlockPlan(self.bound, graph, (now,), emit=(target,) if labels else (), align=now.align)
        most = self.size if self.size <= _WHOLE else _WHOLE
        job = BlockJob("", self.name, (), "", "", self.shape, max(self.shape), most)
        # No file and no store: what a pass reads is cut out of what is at hand.
        none = cast(Any, None)
        bench = Bench(job, plan, none, none, none, self.preview.networks)

        def see(window: Window) -> Scene:
            self._go_on()
            given = {value: _cut(layer, window) for value, layer in needs.given.items()}
            means = (self.preview.networks, needs.histograms)
            return look(plan, now, window, self.shape, (self.pixels.read(window), True, given), means, {target})

        block = Block(bench, core, settle(bench, now, core, see))
        return Layer(KINDS["labels"], block.objects(target).ids) if labels else block.layer(target)

    def whole(self, value: Value) -> Layer:
        """Return a value on the whole image, and keep it. Raises `UsageError` where there is no memory for it."""
        everything = Window(0, 0, *self.shape)
        if value.step == SOURCE:
            return self.pixels.read(everything).layer(value.name)
        key = self._key(value)
        found = self.preview.kept(key)
        if found is not None:
            return found
        self._fits(self.graph.steps[value.step])
        needs = self._needs(self.graph.reads[value.step].values(), value.step)
        sample = self.pixels.read(everything)
        layers = {**needs.given, **{Value(name, SOURCE): sample.layer(name) for name in ("raw", "image")}}
        for number in self.graph.needed([value], needs.given):
            self._go_on()
            step = self.graph.steps[number]
            self.tell(f"{step.step.label} on the whole image")
            bound = {name: layers[read] for name, read in self.graph.reads[number].items()}
            inside = replace(sample, layers=MappingProxyType({"raw": sample.layer("raw"), **bound}))
            after = apply(step, inside, self.preview.networks, needs.histograms.get(number))
            made = {own: after.layer(own.name) for own in self.graph.made_by(number)}
            layers |= made
            for own in made if _calls_network(step) else ():
                self.preview.keep(self._key(own), made[own])  # what comes after is tried often, a network is slow
        self.preview.keep(key, layers[value])
        return layers[value]

    def histogram(self, number: int) -> Histogram:
        """Return what step `number` waits for, measured on the whole image."""
        value = self.graph.measured(number)
        assert value is not None
        key = self._key(value)
        if key not in self.preview.histograms:
            self.preview.histograms[key] = self._measured(value, self.graph.steps[number].step.label)
        return self.preview.histograms[key]

    def _measured(self, value: Value, label: str) -> Histogram:
        from cellkit.engine._count import histogram

        if self.size <= _WHOLE:
            return histogram(self.whole(value).value)
        tiles = cover(self.shape, (_BLOCK, _BLOCK), 0, clip=True)
        total: Histogram | None = None
        for done, tile in enumerate(tiles, 1):
            self.tell(f"{label}: measuring the whole image, block {done:,} of {len(tiles):,}")
            part = histogram(self.window(value, tile.core).value)
            total = part if total is None else total + part
        assert total is not None
        return total

    def _needs(self, targets: Iterable[Value], step: int | None = None) -> _Needs:
        """Find what `targets`, or a step that reads them, must be given."""
        needs = _Needs({}, {})
        if step is not None and self.graph.measured(step) is not None:
            needs.histograms[step] = self.histogram(step)
        queue, seen = list(targets), set()
        while queue:
            value = queue.pop()
            if value in seen or value.step == SOURCE:
                continue
            seen.add(value)
            kept = self.preview.kept(self._key(value))
            if kept is None and self._sees_whole(value.step):
                kept = self.whole(value)
            if kept is not None:
                needs.given[value] = kept
                continue
            if self.graph.measured(value.step) is not None:
                needs.histograms[value.step] = self.histogram(value.step)
            queue += self.graph.reads[value.step].values()
        return needs

    def _sees_whole(self, number: int) -> bool:
        """Tell whether a step is carried out on the whole image, as no window bounds what it looks at."""
        step = self.graph.steps[number]
        if joins(step):
            if self.size <= (_WHOLE_PREDICTED if self._predicted(number) else _WHOLE):
                return True
            self.notes[f"{step.step.label} sees a window of this large image, a run all of it"] = None
            return False
        try:
            refuse(self.graph, number, step, ())
        except UsageError:
            return True
        return False

    def _predicted(self, number: int) -> bool:
        """Tell whether a network works towards what a step reads."""
        before = self.graph.needed(self.graph.reads[number].values(), ())
        return any(_calls_network(self.graph.steps[i]) for i in before)

    def _fits(self, step: BoundStep) -> None:
        need = self.size * bytes_per_pixel(self.bound, [self.name], self.pixels.channels)
        there = psutil.virtual_memory().available // 2
        if need > there:
            raise UsageError(
                f"{step.where}: needs the whole image of {self.shape[0]:,} x {self.shape[1]:,} px at once, some "
                f"{need / 1e6:,.0f} MB, and there are {there / 1e6:,.0f} MB; crop it (`read: {{crop: ...}}`)"
            )

    def _go_on(self) -> None:
        if self.stop():
            raise Stopped

    def _key(self, value: Value) -> str:
        """Return a name for a value: that of all steps that led to it, with their parameters."""
        return f"{value.name}-{self._key_of(value.step)}"

    def _key_of(self, number: int) -> str:
        if number == SOURCE:
            return "source"
        if number not in self._keys:
            reads = {name: self._key(value) for name, value in self.graph.reads[number].items()}
            text = repr((_said(self.graph.steps[number]), sorted(reads.items())))
            self._keys[number] = hashlib.sha256(text.encode()).hexdigest()
        return self._keys[number]


def _said(step: BoundStep) -> tuple[Any, ...]:
    """Return what decides the result of a step besides what it reads."""
    own = (step.spec.name, step.spec.origin, sorted(step.params.items()), sorted(step.bindings.items()), step.output)
    return (*own, tuple(map(_said, step.inner)))


def _calls_network(step: BoundStep) -> bool:
    return any(loads(leaf.spec) for leaf in leaves((step,)))


def _cut(layer: Layer, window: Window) -> Layer:
    return Layer(layer.kind, np.ascontiguousarray(layer.value[window.slices]), layer.names)
