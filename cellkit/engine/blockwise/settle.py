"""Look at a block through windows until everything that it owns is right.

Most of a block is settled by one window with some room around it. What an object reaches farther than that is looked at
again through larger windows of its own, so that one long object does not make the whole block be done again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from cellkit.core.errors import StageError
from cellkit.engine.blockwise._paint import ids_under, mark
from cellkit.engine.blockwise._spread import first_pixels
from cellkit.engine.blockwise.job import Bench
from cellkit.engine.blockwise.passes import Pass
from cellkit.engine.blockwise.validity import broken_ids
from cellkit.engine.blockwise.values import Value
from cellkit.engine.blockwise.window import Scene
from cellkit.grid.cover import Window

__all__ = ["ROOM", "Ids", "Share", "settle"]

ROOM = 64
"""Pixels around a block, beside what steps reach, in which most of its objects end."""
_POOL = 32
"""Pixels: unsettled places nearer to one another than about twice this are looked at together."""


@dataclass(frozen=True, eq=False)
class Ids:
    """The objects of one layer in a window: int32 `labels` (y, x), and of each id, 0 included, two things.

    `broken`: part of it is not right, or out of sight; `keys`: the index of its first pixel in the whole image, -1 for
    the broken ones.
    """

    labels: np.ndarray
    broken: np.ndarray
    keys: np.ndarray


@dataclass(frozen=True, eq=False)
class Share:
    """What one window settles: the pixels `mine` of `rect`, a part of the block, and the objects that lie there."""

    scene: Scene
    rect: Window
    mine: np.ndarray
    ids: Mapping[Value, Ids]

    @property
    def inside(self) -> tuple[slice, slice]:
        """Where `rect` lies in the window."""
        return self.rect.within(self.scene.window).slices

    def here(self, value: Value) -> np.ndarray:
        """Return the ids of the objects of a layer that this share settles."""
        ids = self.ids[value]
        return ids_under(ids.labels[self.inside], self.mine, len(ids.broken))


def settle(some: Bench, now: Pass, core: Window, look: Callable[[Window], Scene]) -> list[Share]:
    """Return the shares that together settle `core`.

    `look` carries the pass out on a window. Raises `StageError` where an object is too large for the memory there is.
    """
    job, whole = some.job, Window(0, 0, *some.job.shape)
    shares: list[Share] = []
    queue = [(core, np.ones(core.shape, bool), ROOM if now.objects else 0)]
    while queue:
        rect, mine, room = queue.pop(0)
        window = job.around(rect, now.reach + room, now.align)
        if shares and (window.bottom - window.top) * (window.right - window.left) > job.most:
            raise StageError(
                f"an object near row {rect.top:,} to {rect.bottom:,}, column {rect.left:,} to {rect.right:,} reaches "
                f"more than {room // 2:,} px farther, and --memory leaves no room for a larger window; give more "
                "memory, or part what touches (a higher threshold, `open`) before the step that looks at whole objects"
            )
        scene = look(window)
        share = Share(scene, rect, mine, _ids(some, now, scene))
        wrong = _wrong(share) & mine
        if not wrong.any():
            shares.append(share)
            continue
        if window == whole or not now.objects:
            raise StageError(
                f"rows {rect.top:,} to {rect.bottom:,} cannot be settled; a stage's `reach` is not what it says"
            )
        shares.append(Share(scene, rect, mine & ~wrong, share.ids))
        queue += [(part, own, max(2 * room, 32)) for part, own in _clusters(rect, wrong)]
    return shares


def _ids(some: Bench, now: Pass, scene: Scene) -> dict[Value, Ids]:
    found: dict[Value, Ids] = {}
    for value in some.plan.emit if now.last else ():
        labels = _dense(scene.layers[value].value)
        broken = broken_ids(labels, scene.valid[value], scene.sides)
        first = first_pixels(labels, len(broken) - 1)
        y, x = np.divmod(first, labels.shape[1])
        keys = (y + scene.window.top) * scene.shape[1] + x + scene.window.left
        found[value] = Ids(labels, broken, np.where(broken | (first < 0), -1, keys))
    for number in some.plan.tables if now.last else ():
        step, reads = some.plan.graph.steps[number], some.plan.graph.reads[number]
        if step.spec.name == "relate":  # a child is seen whole only where the objects that may hold it are
            child, parent = (found[reads[str(step.bindings[name])]] for name in ("child", "parent"))
            child.broken[child.labels[parent.broken[parent.labels]]] = True
            child.broken[0] = False
            child.keys[child.broken] = -1
    return found


def _dense(labels: np.ndarray) -> np.ndarray:
    """Return labels whose largest is no more than a few times their number of pixels."""
    if int(labels.max(initial=0)) <= 4 * labels.size + 1024:
        return np.ascontiguousarray(labels)
    values, inverse = np.unique(labels, return_inverse=True)
    return np.ascontiguousarray(inverse.reshape(labels.shape).astype(np.int32) + np.int32(values[0] != 0))


def _wrong(share: Share) -> np.ndarray:
    """Return the pixels of the share's part that its window does not settle; of an object all, or none."""
    rect, scene = share.rect.within(share.scene.window), share.scene
    wrong = np.zeros(share.rect.shape, bool)
    for value in scene.layers:
        state = scene.valid[value]
        if state.rect.clipped(rect) != rect:
            wrong[:] = True
            return wrong
        if state.bad is not None:
            wrong |= state.bad[share.inside]
    inner = {value: ids.labels[share.inside] for value, ids in share.ids.items()}
    for value, ids in share.ids.items():
        if ids.broken.any():
            mark(wrong, inner[value], ids.broken)
    more = bool(wrong.any())
    while more:
        more = False
        for value, ids in share.ids.items():
            touched = np.zeros(len(ids.broken), bool)
            touched[ids_under(inner[value], wrong, len(ids.broken))] = True
            more |= mark(wrong, inner[value], touched)
    return wrong


def _clusters(rect: Window, wrong: np.ndarray) -> list[tuple[Window, np.ndarray]]:
    """Return the parts of `rect` that hold wrong pixels, and which of theirs are wrong."""
    import cv2

    height, width = wrong.shape
    down, across = -(-height // _POOL), -(-width // _POOL)
    padded = np.zeros((down * _POOL, across * _POOL), bool)
    padded[:height, :width] = wrong
    pooled = padded.reshape(down, _POOL, across, _POOL).any(axis=(1, 3)).view(np.uint8)
    count, parts = cv2.connectedComponents(cv2.dilate(pooled, np.ones((3, 3), np.uint8)), connectivity=8)
    found = []
    for number in range(1, count):
        rows, columns = np.nonzero((parts == number) & (pooled > 0))
        top, bottom = int(rows.min()) * _POOL, min((int(rows.max()) + 1) * _POOL, height)
        left, right = int(columns.min()) * _POOL, min((int(columns.max()) + 1) * _POOL, width)
        own = parts[top // _POOL : -(-bottom // _POOL), left // _POOL : -(-right // _POOL)] == number
        own = own.repeat(_POOL, 0).repeat(_POOL, 1)[: bottom - top, : right - left]
        part = Window(rect.top + top, rect.left + left, rect.top + bottom, rect.left + right)
        found.append((part, wrong[top:bottom, left:right] & own))
    return found
