"""A block put together from the shares that settle it: layers, objects, and a canvas of those that it owns.

An object belongs to the block that holds its first pixel in raster order, which every block that sees the object finds
alike, since each looks at the whole of it. So a block knows what its neighbours call an object that they share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cellkit.core.sample import Layer, Sample
from cellkit.engine.blockwise.job import Bench
from cellkit.engine.blockwise.settle import Ids, Share
from cellkit.engine.blockwise.tissue import held
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
            keys = np.unique(np.concatenate([self._keys(share, value) for share in self.shares]))
            ids = np.zeros(self.core.shape, np.int32)
            for share in self.shares:
                part = ids[share.rect.within(self.core).slices]
                part[share.mine] = _numbers(share.ids[value], keys)[share.ids[value].labels[share.inside][share.mine]]
            y, x = np.divmod(keys, self.some.job.shape[1])
            core = self.core
            owned = (y >= core.top) & (y < core.bottom) & (x >= core.left) & (x < core.right)
            self._objects[value] = Objects(ids, keys, owned)
        return self._objects[value]

    @cached_property
    def canvas(self) -> Window:
        """The smallest window that holds all owned objects, which hangs on nothing but them; 1 px without any.

        What is measured on it is the same to the last bit whatever windows the block was seen through.
        """
        boxes = []
        for value in self.some.plan.emit:
            keys = self._owned_keys(value)
            for share in self.shares:
                there = _numbers(share.ids[value], keys)[share.ids[value].labels] > 0
                rows, columns = (np.flatnonzero(there.any(axis=axis)) for axis in (1, 0))
                if len(rows):
                    top, left = share.scene.window[:2]
                    boxes.append((rows[0] + top, columns[0] + left, rows[-1] + 1 + top, columns[-1] + 1 + left))
        if not boxes:
            return Window(self.core.top, self.core.left, self.core.top + 1, self.core.left + 1)
        table = np.array(boxes)
        return Window(*table[:, :2].min(axis=0).tolist(), *table[:, 2:].max(axis=0).tolist())

    def sample(self) -> Sample:
        """Return the image as read, of the canvas."""
        scene = self.shares[0].scene
        if self.canvas.clipped(scene.window) != self.canvas:
            return self.some.slide.read(self.canvas)
        inside = self.canvas.within(scene.window).slices
        sample = scene.sample
        for name in ("raw", "image"):
            layer = sample.layer(name)
            sample = sample.with_layer(name, layer.kind, np.ascontiguousarray(layer.value[inside]), layer.names)
        return sample

    def drawn(self, value: Value, keys: np.ndarray | None = None) -> np.ndarray:
        """Return the owned objects of a layer on the canvas, numbered from 1; or those of `keys`, by their place."""
        if keys is None and value in self._drawn:
            return self._drawn[value]
        made = np.zeros(self.canvas.shape, np.int32)
        wanted = self._owned_keys(value) if keys is None else keys
        for share in self.shares:
            self._paint(made, share, _numbers(share.ids[value], wanted)[share.ids[value].labels])
        if keys is None:
            self._drawn[value] = made
        return made

    def behind(self, value: Value, objects: Value) -> Layer:
        """Return a layer on the canvas, where the owned objects of the layer `objects` lie; 0 elsewhere."""
        first = self.shares[0].scene.layers[value]
        made = np.zeros((*self.canvas.shape, *first.value.shape[2:]), first.value.dtype)
        for share in self.shares:
            there = _numbers(share.ids[objects], self._owned_keys(objects))[share.ids[objects].labels] > 0
            self._paint(made, share, share.scene.layers[value].value, there)
        return Layer(first.kind, made, first.names)

    def held_by(self, child: Value, parent: Value) -> np.ndarray:
        """Return the keys of all objects of `parent` that hold a pixel of an owned object of `child`."""
        found = []
        for share in self.shares:
            there = _numbers(share.ids[child], self._owned_keys(child))[share.ids[child].labels] > 0
            found.append(share.ids[parent].keys[np.unique(share.ids[parent].labels[there])])
        keys = np.unique(np.concatenate(found))
        return keys[keys >= 0]

    def _keys(self, share: Share, value: Value) -> np.ndarray:
        """Return the keys of the objects that `share` settles; in a block without tissue, of those that reach some."""
        here, ids, job, region = share.here(value), share.ids[value], self.some.job, self.some.region
        if not region.kept[self.core.top // job.side, self.core.left // job.side]:
            here = here[held(job, region, share.scene.window, ids.labels, len(ids.keys) - 1)[here]]
        return ids.keys[here]

    def _owned_keys(self, value: Value) -> np.ndarray:
        those = self.objects(value)
        return those.keys[those.owned]

    def _paint(self, made: np.ndarray, share: Share, what: np.ndarray, there: np.ndarray | None = None) -> None:
        window = share.scene.window
        region = window.clipped(self.canvas)
        if region.top >= region.bottom or region.left >= region.right:
            return
        source = what[region.within(window).slices]
        where = source > 0 if there is None else there[region.within(window).slices]
        np.copyto(made[region.within(self.canvas).slices], source, where=where if made.ndim == 2 else where[..., None])


def _numbers(ids: Ids, keys: np.ndarray) -> np.ndarray:
    """Return for each id of a window the place of its key in `keys`, from 1, or 0."""
    if not len(keys):
        return np.zeros(len(ids.keys), np.int32)
    at = np.minimum(np.searchsorted(keys, ids.keys), len(keys) - 1)
    return np.where((ids.keys >= 0) & (keys[at] == ids.keys), at + 1, 0).astype(np.int32)
