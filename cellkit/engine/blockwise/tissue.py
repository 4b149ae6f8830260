"""Blocks without tissue are left out: which blocks a mask of the image keeps, and what objects reach beyond them.

A block is kept where tissue lies in it or near enough to be seen from it. What the recipe keeps on disk between its
passes is made of the blocks around the kept ones as well, since windows look into them. An object counts where it has a
pixel in a kept block, and is then whole, wherever its other pixels lie; blocks that it reaches are written too.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellkit.core import registry
from cellkit.core.errors import UsageError
from cellkit.core.histogram import Histogram
from cellkit.core.sample import Layer
from cellkit.engine.blockwise.passes import BlockPlan
from cellkit.engine.blockwise.results import pack, unpack
from cellkit.grid.cover import Window
from cellkit.grid.zoom import zoom_window

if TYPE_CHECKING:
    from cellkit.engine.blockwise.block import Block
    from cellkit.engine.blockwise.job import BlockJob
    from cellkit.io.slides import Slide

__all__ = [
    "Region", "begin", "blocks_of", "filled", "found_of", "grow", "held", "mask_of", "reached", "region_of",
]  # fmt: skip

_COARSE = 2048
"""Pixels of the longer side, at most, at which tissue is looked for."""
_MARGIN = 2
"""Pixels of that coarse picture by which tissue is widened."""
_BAND = 2**24
_ASPECT = 0.01
_FILE, _AGAIN = "region.npz", "grown"


@dataclass(frozen=True, eq=False)
class Region:
    """Blocks, bool (down, across): `kept` hold tissue, `done` are those of which layers between passes are made."""

    kept: np.ndarray
    done: np.ndarray

    @property
    def whole(self) -> bool:
        """Whether no block is left out."""
        return bool(self.kept.all())


def mask_of(image: np.ndarray) -> np.ndarray:
    """Return where tissue lies in a coarse picture, float32 (y, x, c), as bool (y, x); False where all is alike.

    What counts is the saturation (max - min) / max of a colour picture whose background is bright, else how far a pixel
    is from the background's end of the scale, in the channel where it is farthest. Its square root, so that pale tissue
    counts as much as dark, is parted by Otsu's threshold, and the upper part widened by 2 px. The background is bright
    where the median lies above the midpoint of the 1st and 99th percentile, as `dark_background` has it.
    """
    import cv2

    low, middle, high = np.quantile(image, [0.01, 0.5, 0.99])
    bright = middle > (low + high) / 2
    top, bottom = image.max(axis=2), image.min(axis=2)
    if bright and image.shape[2] == 3:
        # Of black there is no saturation to speak of: the rim that some scanners leave is no tissue.
        value = np.where(top > 0.1, (top - bottom) / np.maximum(top, np.float32(0.1)), np.float32(0))
    else:
        value = image.max() - bottom if bright else top - image.min()
    value = np.sqrt(np.maximum(value, 0)).astype(np.float32)[..., None]
    if value.max() <= value.min():
        return np.zeros(image.shape[:2], bool)
    mask = registry.get("otsu").function(value, Histogram.of(value), scale=1.0)
    side = 2 * _MARGIN + 1
    return cv2.dilate(mask.view(np.uint8), np.ones((side, side), np.uint8)).view(bool)


def region_of(job: BlockJob, plan: BlockPlan, slide: Slide, tissue: str, room: int) -> Region:
    """Return which blocks hold tissue: ``auto``, or a mask image of which 0 is none, scaled to the image (nearest).

    `room`: pixels around a block, beside what steps reach, that count as seen from it.

    Raises `UsageError` where the mask's proportions are not the image's, `ReadError` where it cannot be read.
    """
    reach = max(some.reach for some in plan.passes) + room
    kept = np.zeros(job.grid, bool)
    for sees in _automatic(slide) if tissue == "auto" else _drawn(Path(tissue), job):
        for at in blocks_of(np.ones(job.grid, bool)):
            kept[at] = sees(job.around(job.core(at), reach, 1))
    between = any(some.store or some.join for some in plan.passes)
    return Region(kept, _wider(kept, 1) if between else kept)


Sees = Callable[[Window], bool]
"""Tells whether a window of the image holds tissue."""


def _automatic(slide: Slide) -> Iterator[Sees]:
    mask = mask_of(_coarse(slide))
    yield lambda window: bool(mask[_under(window, slide.shape, mask.shape).slices].any())


def _drawn(path: Path, job: BlockJob) -> Iterator[Sees]:
    from cellkit.io.slides import open_slide

    with open_slide(path) as mask:
        if abs(mask.shape[0] * job.shape[1] / job.shape[0] - mask.shape[1]) > max(1, _ASPECT * mask.shape[1]):
            raise UsageError(
                f"--tissue {path}: is {mask.shape[0]} x {mask.shape[1]} px, which is not in proportion to the image of "
                f"{job.shape[0]} x {job.shape[1]} px; draw it on that image, at any size"
            )
        yield lambda window: bool(mask.read(_under(window, job.shape, mask.shape))["raw"].any())


def _under(window: Window, shape: tuple[int, int], wanted: tuple[int, int]) -> Window:
    """Return the pixels of a mask of `wanted` that the pixels of `window` in an image of `shape` take (nearest)."""
    first = [(2 * at + 1) * small // (2 * side) for at, side, small in zip(window[:2], shape, wanted, strict=True)]
    last = [(2 * at - 1) * small // (2 * side) for at, side, small in zip(window[2:], shape, wanted, strict=True)]
    return Window(first[0], first[1], last[0] + 1, last[1] + 1)


def _coarse(slide: Slide) -> np.ndarray:
    """Return the image averaged to at most 2,048 px a side, of a low level of its pyramid where that shows the same."""
    spec = slide.spec
    fit = [i for i, shape in enumerate(slide.levels) if max(shape) >= _COARSE // 2]
    low = fit[-1] if fit and spec.options.crop is None else 0
    if low and max(slide.levels[low]) < max(slide.shape):
        with replace(spec, level=low, mpp=None).open() as some:
            return _averaged(some)
    return _averaged(slide)


def _averaged(slide: Slide) -> np.ndarray:
    height, width, channels = slide.info.shape
    step = math.ceil(max(height, width) / _COARSE)
    small = (math.ceil(height / step), math.ceil(width / step))
    rows = max(1, _BAND // (step * width * channels))
    bands = [
        zoom_window(
            lambda window: slide.read(window)["raw"], slide.shape, small,
            Window(top, 0, min(top + rows, small[0]), small[1]),
        )
        for top in range(0, small[0], rows)
    ]  # fmt: skip
    return np.concatenate(bands)


def _wider(grid: np.ndarray, by: int) -> np.ndarray:
    import cv2

    side = 2 * by + 1
    return cv2.dilate(grid.astype(np.uint8), np.ones((side, side), np.uint8)).view(bool)


def blocks_of(grid: np.ndarray) -> list[tuple[int, int]]:
    """Return the blocks (row, column) that `grid`, bool (down, across), holds, in raster order."""
    return [(int(row), int(column)) for row, column in np.argwhere(grid)]


def begin(job: BlockJob, find: Callable[[], Region]) -> BlockJob:
    """Return the job with what is left out beside its results: what was found before, else what `find` returns."""
    from cellkit.io import atomic

    while (Path(job.folder) / _AGAIN / _FILE).exists():
        job = _next(job)
    path = Path(job.folder) / _FILE
    if not path.exists():
        region = find()
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            temporary.write_bytes(pack({"kept": region.kept, "done": region.done}))
    return job


def found_of(job: BlockJob) -> Region:
    """Return what was found for a job; all blocks where nothing is left out."""
    path = Path(job.folder) / _FILE
    if not path.exists():
        everything = np.ones(job.grid, bool)
        return Region(everything, everything)
    found = unpack(path.read_bytes())
    return Region(found["kept"], found["done"])


def grow(job: BlockJob, region: Region, more: np.ndarray) -> BlockJob:
    """Return a job that begins anew, with the blocks `more` and those around them done too."""
    depth = Path(job.folder).parts.count(_AGAIN)
    done = region.done | _wider(more, 2**depth)
    after = begin(_next(job), lambda: Region(region.kept, done))
    for path in Path(job.folder).iterdir():  # of no more use, and as large as the image
        if path.is_dir() and path.name != _AGAIN:
            shutil.rmtree(path, ignore_errors=True)
    return after


def _next(job: BlockJob) -> BlockJob:
    return replace(job, folder=str(Path(job.folder) / _AGAIN))


def _pixels(job: BlockJob, grid: np.ndarray, window: Window) -> np.ndarray:
    """Return for every pixel of `window` what `grid` says of its block, (y, x)."""
    rows, columns = (np.arange(window[i], window[i + 2]) // job.side for i in (0, 1))
    return grid[np.ix_(rows, columns)]


def filled(layer: Layer, window: Window, job: BlockJob, region: Region) -> Layer:
    """Return a layer kept between passes with its median where no block has made it, which the store has as 0.

    0 may be anything but background, as in a picture of dark objects on white; masks, classes and labels stay 0.
    """
    if region.done.all() or layer.value.dtype != np.float32:
        return layer
    outside = ~_pixels(job, region.done, window)
    if not outside.any() or outside.all():
        return layer
    value = layer.value.copy()
    value[outside] = np.median(value[~outside], axis=0)
    return Layer(layer.kind, value, layer.names)


def held(job: BlockJob, region: Region, window: Window, labels: np.ndarray, count: int) -> np.ndarray:
    """Return for the ids 0 to `count` of a window whether they have a pixel in a block that holds tissue."""
    found = np.zeros(count + 1, bool)
    found[labels[_pixels(job, region.kept, window)]] = True
    return found


def reached(block: Block) -> dict[str, np.ndarray]:
    """Return the blocks (n, 2) without tissue in which objects of `block` have pixels: ``reach``.

    ``outgrown``: those that they come so near to that what is seen there is not right, as nothing was made there.
    """
    some, region = block.some, block.some.region
    job, between = some.job, bool(some.plan.passes[-1].given)
    margin = max(part.reach for part in some.plan.passes) + 1
    found: dict[str, set[tuple[int, int]]] = {"reach": set(), "outgrown": set()}
    for value in some.plan.emit:
        keys = block.objects(value).keys
        for share in block.shares:
            window, ids = share.scene.window, share.ids[value]
            there = np.isin(ids.keys, keys) & (ids.keys >= 0)
            for at in _met(job, job.around(window, margin, 1)):
                own = job.core(at)
                if not region.kept[at] and _any(there, ids.labels, own, window):
                    found["reach"].add(at)
                if between and not region.done[at] and _any(there, ids.labels, job.around(own, margin, 1), window):
                    found["outgrown"].add(at)
    return {name: np.array(sorted(ats), np.int64).reshape(-1, 2) for name, ats in found.items()}


def _any(there: np.ndarray, labels: np.ndarray, part: Window, window: Window) -> bool:
    """Tell whether one of the ids `there` has a pixel in `part`; `labels` are those of `window`."""
    part = part.clipped(window)
    if part.top >= part.bottom or part.left >= part.right:
        return False
    return bool(there[labels[part.within(window).slices]].any())


def _met(job: BlockJob, window: Window) -> Iterator[tuple[int, int]]:
    """Yield the blocks that share a pixel with `window`."""
    for row in range(window.top // job.side, (window.bottom - 1) // job.side + 1):
        for column in range(window.left // job.side, (window.right - 1) // job.side + 1):
            yield row, column
