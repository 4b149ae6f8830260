"""What a worker needs to know of a run over blocks, and what it opens once and keeps."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellkit.core.check import plan
from cellkit.core.histogram import Histogram
from cellkit.core.recipe import load
from cellkit.engine.blockwise.passes import BlockPlan, plan_blocks
from cellkit.engine.blockwise.results import unpack, unpack_histogram
from cellkit.engine.blockwise.spill import Spill
from cellkit.engine.blockwise.store import CHUNK, Store
from cellkit.engine.blockwise.values import Value
from cellkit.engine.executors import Kept, ready_worker
from cellkit.engine.networks import Networks
from cellkit.grid.cover import Window

if TYPE_CHECKING:
    from cellkit.io.slides import Slide

__all__ = ["Bench", "BlockJob", "bench"]

_RESULTS = 24


@dataclass(frozen=True)
class BlockJob:
    """One image of a run over blocks, in words that any process on any machine understands.

    `recipe`: its text, with the outputs that are wanted. `paths`, `level`, `mpp`: the image. `folder`: where layers are
    kept between passes; `shape`, `side`: of the image and of a block; `most`: pixels that a window may have at most.
    `device`, `compiled`: how networks run. `plugins`: files of one's own stages. `target`: where label stores are
    written. `digest` tells jobs apart.
    """

    recipe: str
    name: str
    paths: tuple[str, ...]
    folder: str
    target: str
    shape: tuple[int, int]
    side: int
    most: int
    level: int | None = None
    mpp: float | None = None
    device: str = "auto"
    compiled: bool = False
    plugins: tuple[str, ...] = ()
    fields: tuple[tuple[str, str], ...] = ()
    channels: tuple[str, ...] = ()
    digest: str = ""

    @property
    def chunk(self) -> int:
        """Side of a chunk of what is kept on disk; a block's is a multiple of it."""
        return math.gcd(self.side, CHUNK) if self.side >= CHUNK else self.side

    @property
    def grid(self) -> tuple[int, int]:
        """How many blocks there are, down and across."""
        return -(-self.shape[0] // self.side), -(-self.shape[1] // self.side)

    def file(self, what: str, number: int, at: tuple[int, int]) -> Path:
        """Return where a block leaves what it came to; the file is there when, and only when, the block is done."""
        return Path(self.folder) / f"{what}-{number}" / f"{at[0]}-{at[1]}.npz"

    def result(self, value: Value) -> Path:
        """Return where the final store of a layer lies."""
        return Path(self.target) / value.name / f"{self.name}.zarr"

    def core(self, at: tuple[int, int]) -> Window:
        """Return the pixels that block `at` (row, column) owns."""
        top, left = at[0] * self.side, at[1] * self.side
        return Window(top, left, min(top + self.side, self.shape[0]), min(left + self.side, self.shape[1]))

    def around(self, part: Window, halo: int, align: int) -> Window:
        """Return `part` and `halo` pixels around it, within the image; its corner is a multiple of `align`."""
        top, left = (max(0, (side - halo) // align * align) for side in (part.top, part.left))
        return Window(top, left, part.bottom + halo, part.right + halo).clipped(Window(0, 0, *self.shape))


@dataclass(eq=False)
class Bench:
    """What a worker has at hand for one job: the plan, the image, what passes have left and found, and networks."""

    job: BlockJob
    plan: BlockPlan
    slide: Slide
    spill: Spill
    store: Store
    networks: Networks
    _histograms: dict[int, Mapping[int, Histogram]] = field(default_factory=dict)
    _results: OrderedDict[Any, dict[str, np.ndarray]] = field(default_factory=OrderedDict)
    _guard: Any = field(default_factory=threading.Lock)

    def histograms(self, number: int) -> Mapping[int, Histogram]:
        """Return the histograms, by step, that pass `number` can rely on."""
        if number not in self._histograms:
            found: dict[int, Histogram] = {}
            for some in self.plan.passes[:number]:
                if some.measure:
                    merged = unpack((Path(self.job.folder) / f"found-{some.number}.npz").read_bytes())
                    found |= {step: unpack_histogram(f"h{step}", merged) for step, _ in some.measure}
            self._histograms[number] = found
        return self._histograms[number]

    @cached_property
    def starts(self) -> Mapping[str, np.ndarray]:
        """For every numbered layer, how many objects the blocks before each own, and at the end of all."""
        return unpack((Path(self.job.folder) / "starts.npz").read_bytes())

    def result(self, what: str, number: int, at: tuple[int, int]) -> dict[str, np.ndarray]:
        """Return what a block came to."""
        key = (what, number, at)
        with self._guard:
            if key in self._results:
                self._results.move_to_end(key)
                return self._results[key]
        found = unpack(self.job.file(what, number, at).read_bytes())
        with self._guard:
            self._results[key] = found
            while len(self._results) > _RESULTS:
                self._results.popitem(last=False)
        return found


_benches: Kept[Bench] = Kept(2)


def bench(job: BlockJob) -> Bench:
    """Return what this process has opened for `job`, opening it the first time."""
    return _benches.get((job.digest, job.folder), lambda: _opened(job))


def forget(job: BlockJob) -> None:
    """Close what this process has opened for `job`."""
    found = _benches.pop((job.digest, job.folder))
    if found is not None:
        found.slide.close()


def _opened(job: BlockJob) -> Bench:
    from cellkit.engine.networks import networks_for
    from cellkit.io.slides import open_slide
    from cellkit.io.sources import Source

    ready_worker(job.plugins)
    bound = plan(load(job.recipe))
    source = Source(job.name, tuple(map(Path, job.paths)), dict(job.fields), job.channels)
    slide = open_slide(source, bound.recipe.read_options, level=job.level, mpp=job.mpp)
    networks = networks_for(bound, job.device, job.compiled, alone=True)
    layers = Path(job.folder) / "layers"
    spill, store = Spill(layers, job.shape, job.side), Store(layers, job.shape, job.chunk)
    return Bench(job, plan_blocks(bound), slide, spill, store, networks)
