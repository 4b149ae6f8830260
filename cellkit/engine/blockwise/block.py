"""A block put together from the shares that settle it: layers, objects, and a canvas of those that it owns.

An object belongs to the block that holds its first pixel in raster order, which every block that sees the object finds
alike, since each looks at the whole of it. So a block knows what its neighbours call an object that they share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

import numpy as np

from cellkit.core.sample import Layer, Sample
from cellkit.engine.blockwise._paint import bounds, draw
from cellkit.engine.blockwise.job import Bench
from cellkit.engine.blockwise.settle import Ids, Share
from cellkit.engine.blockwise.values import Value
from cellkit.grid.cover import Window

__all__ = ["Block", "Objects"]


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of one layer that have a pixel in a block.

    `ids`: int32 (y, x) of the block, 1 to n in the order of `keys`, the index of each one's first pixel in the whole
    image; `owned`: which of them belong to the block.
    """

    ids: np.ndarray
    keys: np.ndarray
    owned: np.ndarray


class Block:
    """What a pass made of the block `core` of a job. `shares`: the first is of the block as a whole."""

    def __init__(self, some: Bench, core: Window, shares: Sequence[Share]) -> None:
        self.some, self.core, self.shares = some, core, shares
        self._objects: dict[Value, Objects] = {}
        self._drawn: dict[Value, np.ndarray] = {}
        self._numbers: dict[Value, list[np.ndarray]] = {}

    def layer(self, value: Value) -> Layer:
        """Return a layer that is no labels, of the block's pixels."""
        first = self.shares[0]
        layer = first.scene.layers[value]
        made = layer.value[first.inside]
        if len(self.shares) > 1:
            made = made.copy()
            for share in self.shares[1:]:
                part = made[share.rect.within(self.core).slices]
                part[share.mine] = share.scene.layers[value].value[share.inside][share.mine]
        return Layer(layer.kind, made, layer.names)

    def objects(self, value: Value) -> Objects:
        """Return the objects of a layer of labels."""
        if value not in self._objects:
            keys = np.unique(np.concatenate([share.ids[value].keys[share.here(value)] for share in self.shares]))
            made = np.zeros(self.core.shape, np.int32)
            for share in self.shares:
                part, ids = made[share.rect.within(self.core).slices], share.ids[value]
                if share.mine.all():
                    draw(part, ids.labels[share.inside], _numbers(ids, keys))
                else:
                    own = np.zeros_like(part)
                    draw(own, ids.labels[share.inside], _numbers(ids, keys))
                    np.copyto(part, own, where=share.mine)
            y, x = np.divmod(keys, self.some.job.shape[1])
            core = self.core
            owned = (y >= core.top) & (y < core.bottom) & (x >= core.left) & (x < core.right)
            self._objects[value] = Objects(made, keys, owned)
        return self._objects[value]

    @cached_property
    def canvas(self) -> Window:
        """The smallest window that holds all owned objects, which hangs on nothing but them; 1 px without any.

        What is measured on it is the same to the last bit whatever windows the block was seen through.
        """
        boxes = []
        for value in self.some.plan.emit:
            for share, numbers in zip(self.shares, self._owned(value), strict=True):
                top, left = share.scene.window[:2]
                box = bounds(share.ids[value].labels, numbers)
                if box is not None:
                    boxes.append((box.top + top, box.left + left, box.bottom + top, box.right + left))
        if not boxes:
            return Window(self.core.top, self.core.left, self.core.top + 1, self.core.left + 1)
        table = np.array(boxes)
        return Window(*table[:, :2].min(axis=0).tolist(), *table[:, 2:].max(axis=0).tolist())

    def sample(self, seen: bool) -> Sample:
        """Return the image as read, of the canvas; blank where it need not be `seen`."""
        scene = self.shares[0].scene
        if not seen:
            return self.some.slide.blank(self.canvas.shape)
        if not scene.seen or self.canvas.clipped(scene.window) != self.canvas:
            return self.some.slide.read(self.canvas)
        raw = scene.sample.layer("raw")
        part = np.ascontiguousarray(raw.value[self.canvas.within(scene.window).slices])
        return replace(scene.sample, layers=MappingProxyType({"raw": replace(raw, value=part)}))

    def drawn(self, value: Value, keys: np.ndarray | None = None) -> np.ndarray:
        """Return the owned objects of a layer on the canvas, numbered from 1; or those of `keys`, by their place."""
        if keys is None and value in self._drawn:
            return self._drawn[value]
        made = np.zeros(self.canvas.shape, np.int32)
        those = self._owned(value) if keys is None else [_numbers(share.ids[value], keys) for share in self.shares]
        for share, numbers in zip(self.shares, those, strict=True):
            region = share.scene.window.clipped(self.canvas)
            if region.top < region.bottom and region.left < region.right:
                labels = share.ids[value].labels[region.within(share.scene.window).slices]
                draw(made[region.within(self.canvas).slices], labels, numbers)
        if keys is None:
            self._drawn[value] = made
        return made

    def behind(self, value: Value, objects: Value) -> Layer:
        """Return a layer on the canvas, where the owned objects of the layer `objects` lie; 0 elsewhere."""
        first = self.shares[0].scene.layers[value]
        made = np.zeros((*self.canvas.shape, *first.value.shape[2:]), first.value.dtype)
        for share, numbers in zip(self.shares, self._owned(objects), strict=True):
            window = share.scene.window
            region = window.clipped(self.canvas)
            if region.top >= region.bottom or region.left >= region.right:
                continue
            inside = region.within(window).slices
            there = numbers[share.ids[objects].labels[inside]] > 0
            part = made[region.within(self.canvas).slices]
            np.copyto(
                part, share.scene.layers[value].value[inside], where=there if made.ndim == 2 else there[..., None]
            )
        return Layer(first.kind, made, first.names)

    def held_by(self, child: Value, parent: Value) -> np.ndarray:
        """Return the keys of all objects of `parent` that hold a pixel of an owned object of `child`."""
        found = []
        for share, numbers in zip(self.shares, self._owned(child), strict=True):
            there = numbers[share.ids[child].labels] > 0
            found.append(share.ids[parent].keys[np.unique(share.ids[parent].labels[there])])
        keys = np.unique(np.concatenate(found))
        return keys[keys >= 0]

    def _owned(self, value: Value) -> list[np.ndarray]:
        """Return for each share the numbers, from 1, of the owned objects by their ids in its window."""
        if value not in self._numbers:
            those = self.objects(value)
            keys = those.keys[those.owned]
            self._numbers[value] = [_numbers(share.ids[value], keys) for share in self.shares]
        return self._numbers[value]


def _numbers(ids: Ids, keys: np.ndarray) -> np.ndarray:
    """Return for each id of a window the place of its key in `keys`, from 1, or 0."""
    if not len(keys):
        return np.zeros(len(ids.keys), np.int32)
    at = np.minimum(np.searchsorted(keys, ids.keys), len(keys) - 1)
    return np.where((ids.keys >= 0) & (keys[at] == ids.keys), at + 1, 0).astype(np.int32)
