"""How much memory the layers of an image take while a recipe runs, and a bound on the images in work."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from cellkit.core.check import BoundStep, Plan
from cellkit.engine.execute import live

__all__ = ["Room", "bytes_per_pixel", "resize_factor"]

_BYTES: Mapping[str, int] = {"image": 4, "prob": 4, "field": 4, "mask": 1, "classes": 1, "labels": 4}
_WORKSPACE = 12
"""Bytes a pixel that a step takes beside what it reads and makes: a copy or two, a queue, run-length codes."""


def bytes_per_pixel(plan: Plan, keep: Sequence[str], channels: int) -> int:
    """Return the most bytes a pixel that the layers of one image of `channels` take at any step towards `keep`."""
    held: dict[str, int] = {"raw": 4 * channels, "image": 0}  # one array until a step changes the image
    most = 4.0 * channels
    needed_later = _last_use(plan, keep)
    for index, step in enumerate(live(plan, keep)):
        made = dict(_made(step, channels))
        held.update(made)
        most = max(most, sum(held.values()) + _apart(step) * sum(made.values()))
        held = {n: size for n, size in held.items() if n in keep or n == "raw" or needed_later.get(n, -1) > index}
    return math.ceil(most) + _WORKSPACE


def _made(step: BoundStep, channels: int) -> list[tuple[str, int]]:
    """Return the layers a step writes, each with its bytes a pixel."""
    if step.spec.bracket:
        inner = {name: size for part in step.inner for name, size in _made(part, channels)}
        return [(name, inner.get(name, 4)) for name, _ in step.exports]
    kind = step.kind.name if step.kind is not None else ""
    size = _BYTES.get(kind, 0)
    if kind == "prob":
        names = step.spec.names(step.params, ()) if step.spec.names is not None else ()
        size *= len(names) or channels
    return [(step.output, size * channels if kind == "image" else size)]


def _apart(step: BoundStep) -> float:
    """Return how often a bracket holds a pixel of what it makes in its parts, until they are put together."""
    if not step.spec.bracket:
        return 0.0
    if step.spec.name == "resize":
        return max(1.0, (resize_factor(step.params) or 1.0) ** 2)
    size, halo = step.params.get("size"), step.params.get("halo")
    if not isinstance(size, int) or not isinstance(halo, int):
        return 1.0
    return ((size + 2 * halo) / size) ** 2


def resize_factor(params: Mapping[str, Any]) -> float | None:
    """Return by how much a `resize` multiplies both sides; None where that hangs on the image."""
    if params["standard"] is not None:
        return float(params["standard"] / params["diameter"]) if params["diameter"] is not None else 1.0
    factor: float | None = params["factor"]
    return factor


def _last_use(plan: Plan, keep: Sequence[str]) -> dict[str, int]:
    last: dict[str, int] = {}
    for index, step in enumerate(live(plan, keep)):
        for name in step.reads:
            last[name] = index
    return last


class Room:
    """Lets images in while their bytes together stay under `limit` (None: no bound); one alone always gets in."""

    def __init__(self, limit: int | None) -> None:
        self.limit, self.held, self.closed = limit, 0, False
        self.changed = threading.Condition()

    def enter(self, size: int) -> None:
        """Wait until there is room for `size` bytes, and take it."""
        with self.changed:
            limit = self.limit
            if limit is not None:
                self.changed.wait_for(lambda: not self.held or self.held + size <= limit or self.closed)
            self.held += size

    def leave(self, size: int) -> None:
        """Give back what was taken."""
        with self.changed:
            self.held -= size
            self.changed.notify_all()

    def close(self) -> None:
        """Let everybody in, because the run is ending."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
