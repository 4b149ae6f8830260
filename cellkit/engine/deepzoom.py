"""Pictures of any size as Deep Zoom tiles: the image, and contours and numbers of its objects from their pyramid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellkit.core.errors import CellkitError
from cellkit.core.recipe import ReadOptions
from cellkit.engine.files import Files
from cellkit.engine.gather import source_of
from cellkit.engine.manifest import Record
from cellkit.grid.cover import Window
from cellkit.report.display import display, nearest, ranges
from cellkit.report.overlay import palette_for
from cellkit.report.packed import label_part, objects_of
from cellkit.report.palette import BRIGHT, STRONG, edges

if TYPE_CHECKING:
    from cellkit.io import LabelStore, Slide

__all__ = ["THUMB", "Levels", "deep_zoom"]

TILE = 512
PART = 1024
"""Sides of a tile of a picture, and of a part of the label numbers, px."""
_SAMPLES = 5
THUMB = 208
"""Longer side of the picture of an image in the grid, px."""


@dataclass(frozen=True)
class Levels:
    """The levels of a label image: `part` gives rows and columns of a level, each half of the one above it."""

    shape: tuple[int, int]
    part: Callable[[int, slice, slice], np.ndarray]

    @classmethod
    def of_store(cls, store: LabelStore) -> Levels:
        """Return the pyramid of a store; below its smallest level every second pixel of that one is taken."""
        last = len(store.levels) - 1

        def part(level: int, rows: slice, columns: slice) -> np.ndarray:
            step = 2 ** max(0, level - last)
            large = [slice(side.start * step, side.stop * step) for side in (rows, columns)]
            return store.read_level(min(level, last), *large)[::step, ::step]

        return cls(store.shape, part)

    @classmethod
    def of_array(cls, array: np.ndarray) -> Levels:
        """Return the levels of labels that are in memory."""
        return cls(array.shape[:2], lambda level, rows, columns: array[:: 2**level, :: 2**level][rows, columns])


@dataclass(frozen=True)
class _Pyramid:
    """The sizes of a Deep Zoom picture; `depth` 0 is the full one, and `top` the one that fits one tile."""

    shape: tuple[int, int]

    @property
    def top(self) -> int:
        return max(0, ceil(np.log2(max(self.shape) / TILE))) if max(self.shape) > TILE else 0

    @property
    def number(self) -> int:
        """The number that Deep Zoom gives the full level."""
        return (max(self.shape) - 1).bit_length()

    def size(self, depth: int) -> tuple[int, int]:
        return ceil(self.shape[0] / 2**depth), ceil(self.shape[1] / 2**depth)

    def grid(self, depth: int) -> Iterator[tuple[int, int]]:
        height, width = self.size(depth)
        return ((y, x) for y in range(ceil(height / TILE)) for x in range(ceil(width / TILE)))

    def window(self, depth: int, y: int, x: int) -> Window:
        height, width = self.size(depth)
        return Window(y * TILE, x * TILE, min((y + 1) * TILE, height), min((x + 1) * TILE, width))


def deep_zoom(
    files: Files, number: int, record: Record, options: ReadOptions, labels: Sequence[tuple[str, Path]],
    entry: dict[str, Any],
) -> None:  # fmt: skip
    """Write the tiles of a large image, and of the contours and numbers of its objects; say where in `entry`.

    Raises `CellkitError` where neither the image nor its labels can be read.
    """
    from cellkit.io import LabelStore, read_labels

    levels = {
        name: Levels.of_store(LabelStore.open(path)) if path.suffix == ".zarr" else Levels.of_array(read_labels(path))
        for name, path in labels
    }
    shapes = [level.shape for level in levels.values()]
    size = shapes[0] if shapes else (int(entry["height"]), int(entry["width"]))
    top: np.ndarray | None = None
    try:
        with _slide(record, options, size, entry) as slide:
            pyramid = _Pyramid(slide.shape)
            entry["height"], entry["width"] = slide.shape
            names = slide.info.channels
            spans = ranges(_sampled(slide), names=names)

            def draw(window: Window) -> np.ndarray:
                return display(np.asarray(slide.read(window)["raw"]), names=names, spans=spans)

            top = _write_down(files, f"deep/{number}", pyramid, draw)
            entry["images"].append({"name": "image", "dzi": f"deep/{number}", "max": pyramid.number,
                                    "min": pyramid.number - pyramid.top, "form": "jpg", "tile": TILE})  # fmt: skip
    except (CellkitError, OSError) as error:
        if not levels:
            raise
        entry["height"], entry["width"] = shapes[0]
        entry["unread"] = f"the image cannot be read any more: {error}"
    palette = BRIGHT if top is None else palette_for(top)
    entry["bright"] = palette is STRONG
    for name, level in levels.items():
        if level.shape != (entry["height"], entry["width"]):
            continue
        pyramid = _Pyramid(level.shape)
        own = f"deep/{name}-{number}"
        small = _contours(files, own, pyramid, level, palette)
        numbers = _numbers(files, f"labels/{name}-{number}", level)
        entry["labels"].append({"name": name, "dzi": own, "max": pyramid.number, "min": pyramid.number - pyramid.top,
                                "form": "png", "tile": TILE, "part": PART, "parts": numbers})  # fmt: skip
        top = small[..., :3] if top is None else np.where(small[..., 3:] > 0, small[..., :3], top)
    if top is not None:
        files.picture(f"thumbs/{number}.jpg", nearest(top, _fit(top.shape[:2])))
        entry["thumb"] = f"thumbs/{number}.jpg"


def _fit(shape: tuple[int, ...]) -> tuple[int, int]:
    times = min(1.0, THUMB / max(shape))
    return max(1, round(shape[0] * times)), max(1, round(shape[1] * times))


@contextmanager
def _slide(
    record: Record, options: ReadOptions, size: tuple[int, int], entry: dict[str, Any]
) -> Iterator[Slide]:  # fmt: skip
    """Open the image at the level, or the resolution, at which the run read it."""
    from cellkit.io import open_slide

    source = source_of(record, options)
    slide = open_slide(source, options)
    if size[0] and slide.shape != size:
        levels, um = slide.levels, entry.get("um")
        slide.close()
        if size in levels:
            slide = open_slide(source, options, level=levels.index(size))
        elif um:
            slide = open_slide(source, options, mpp=float(np.mean(um)))
    try:
        yield slide
    finally:
        slide.close()


def _sampled(slide: Slide) -> np.ndarray:
    """Return windows spread over an image, beside each other: enough to see how bright it is."""
    height, width = slide.shape
    side = min(256, height, width)
    rows = np.linspace(0, height - side, _SAMPLES).astype(int).tolist()
    columns = np.linspace(0, width - side, _SAMPLES).astype(int).tolist()
    return np.concatenate(
        [np.asarray(slide.read(Window(y, x, y + side, x + side))["raw"]) for y in rows for x in columns], axis=1
    )


def _write_down(files: Files, own: str, pyramid: _Pyramid, draw: Callable[[Window], np.ndarray]) -> np.ndarray:
    """Write every level, each tile made of the four below it, and return the one tile at the top."""
    split = max(0, pyramid.top - 2)
    with ThreadPoolExecutor() as pool:  # sixteen branches, each by a thread; the trunk after them
        branches = pool.map(lambda at: _branch(files, own, pyramid, draw, (split, *at)), pyramid.grid(split))
        made = dict(zip(pyramid.grid(split), branches, strict=True))
    top = _branch(files, own, pyramid, draw, (pyramid.top, 0, 0), {(split, *at): tile for at, tile in made.items()})
    files.text(f"{own}.dzi", _description(pyramid, "jpg"))
    return top


def _branch(
    files: Files, own: str, pyramid: _Pyramid, draw: Callable[[Window], np.ndarray], at: tuple[int, int, int],
    made: dict[tuple[int, int, int], np.ndarray] | None = None,
) -> np.ndarray:  # fmt: skip
    import cv2

    if made is not None and at in made:
        return made[at]
    depth, y, x = at
    window = pyramid.window(*at)
    if depth == 0:
        tile = draw(window)
    else:
        below = set(pyramid.grid(depth - 1))
        rows = []
        for row in (2 * y, 2 * y + 1):
            four = [
                _branch(files, own, pyramid, draw, (depth - 1, row, column), made)
                for column in (2 * x, 2 * x + 1)
                if (row, column) in below
            ]
            if four:
                rows.append(np.concatenate(four, axis=1))
        large = np.ascontiguousarray(np.concatenate(rows, axis=0))
        tile = cv2.resize(large, window.shape[::-1], interpolation=cv2.INTER_AREA)
    files.picture(f"{own}_files/{pyramid.number - depth}/{x}_{y}.jpg", tile)
    return tile


def _contours(files: Files, own: str, pyramid: _Pyramid, levels: Levels, palette: np.ndarray) -> np.ndarray:
    """Write contours on nothing as tiles of every level, and return the one tile at the top."""

    def one(at: tuple[int, int, int]) -> np.ndarray:
        depth, y, x = at
        window = pyramid.window(*at)
        # One pixel more on each side, so that an outline along the edge of a tile is seen.
        top, left = max(0, window.top - 1), max(0, window.left - 1)
        labels = levels.part(depth, slice(top, window.bottom + 1), slice(left, window.right + 1))
        edge = edges(labels)
        inner = np.s_[window.top - top :, window.left - left :]
        labels, edge = (a[inner][: window.shape[0], : window.shape[1]] for a in (labels, edge))
        picture = np.zeros((*window.shape, 4), np.uint8)
        colors = np.insert(palette, 3, 255, axis=1)
        picture[: edge.shape[0], : edge.shape[1]][edge] = colors[(labels[edge] % len(palette)).astype(np.intp)]
        files.picture(f"{own}_files/{pyramid.number - depth}/{x}_{y}.png", picture)
        return picture

    with ThreadPoolExecutor() as pool:
        for depth in range(pyramid.top):
            for _ in pool.map(one, ((depth, *at) for at in pyramid.grid(depth))):
                pass
    files.text(f"{own}.dzi", _description(pyramid, "png"))
    return one((pyramid.top, 0, 0))


def _numbers(files: Files, own: str, levels: Levels) -> list[int]:
    """Write the label numbers in parts of 1,024 px, and return which there are, row by row; empty ones are left out."""
    height, width = levels.shape
    across = ceil(width / PART)

    def one(index: int) -> bool:
        top, left = (part * PART for part in divmod(index, across))
        labels = levels.part(0, slice(top, min(top + PART, height)), slice(left, min(left + PART, width)))
        if not labels.any():
            return False
        labels = np.ascontiguousarray(labels)
        files.data(f"{own}-{index}", label_part(labels, objects_of(labels), alone=False))
        return True

    with ThreadPoolExecutor() as pool:
        found = pool.map(one, range(ceil(height / PART) * across))
        return [index for index, written in enumerate(found) if written]


def _description(pyramid: _Pyramid, form: str) -> str:
    height, width = pyramid.shape
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="{form}" Overlap="0" TileSize="{TILE}">'
        f'<Size Width="{width}" Height="{height}"/></Image>\n'
    )
