"""The overlay of an image done in blocks: a tiled picture with a pyramid, drawn strip by strip."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellkit.engine.blockwise.outputs import label_store
from cellkit.engine.blockwise.values import Value
from cellkit.grid.cover import Window

if TYPE_CHECKING:
    from cellkit.engine.blockwise.job import Bench

__all__ = ["strips", "write_overlay"]

_WIDE = 4096
"""Pixels of a strip that are drawn at once."""


def write_overlay(some: Bench, path: Path) -> None:
    """Write the picture of the image with the contours of its objects, as `cellkit.report.overlay` draws them."""
    from cellkit.io.pyramid import write_pyramid

    path.parent.mkdir(parents=True, exist_ok=True)
    write_pyramid(path, some.job.shape, strips(some), some.slide.info.pixel_size)


def strips(some: Bench) -> Iterator[np.ndarray]:
    """Yield the picture from the top, uint8 (256 or what is left, x, 3).

    Contours and the picture behind them are to the pixel those of the whole image's overlay; which of the palette's
    colours an object has hangs on its number.
    """
    from cellkit.io.pyramid import TILE
    from cellkit.report.display import display
    from cellkit.report.overlay import Contours
    from cellkit.report.palette import FAR

    spans, palette = _looks(some)
    layers = [(value, Contours(palette)) for value in some.plan.drawn]
    height, width = some.job.shape
    for top in range(0, height, TILE):
        bottom = min(top + TILE, height)
        strip = np.empty((bottom - top, width, 3), np.uint8)
        for _, contours in layers:
            contours.next_row()
        for left in range(0, width, _WIDE):
            part = Window(top, left, bottom, min(left + _WIDE, width))
            window = some.job.around(part, FAR, 1)
            picture = np.array(display(some.slide.read(window)["raw"], spans=spans))
            for value, contours in layers:
                contours.draw(picture, _read(some, value, window))
            strip[:, part.left : part.right] = picture[part.within(window).slices]
        yield strip


def _read(some: Bench, value: Value, window: Window) -> np.ndarray:
    if some.plan.graph.kinds[value].name == "labels":
        return label_store(some, value, int(some.starts[value.key][-1])).read(window).astype(np.int64)
    if not some.ended.any():  # nothing was made anywhere
        return np.zeros(window.shape, bool)
    return some.store.read(value, window)


def _looks(some: Bench) -> tuple[list[tuple[float, float]], np.ndarray]:
    """Return the limits of the channels that are shown, and the palette, of the same pixels the whole image's are."""
    from cellkit.report.display import display, every, spread
    from cellkit.report.overlay import looked_at, palette_of

    job = some.job
    (height, width), channels = job.shape, some.slide.info.shape[2]
    colour, shown = channels == 3, min(3, channels)
    step, apart = every(height * width * (3 if colour else 1)), looked_at(job.shape)
    samples, behind, ends = [], [], []
    for at in np.ndindex(job.grid):
        core = job.core((at[0], at[1]))
        raw = some.slide.read(core)["raw"]
        rows, columns = np.arange(core.top, core.bottom), np.arange(core.left, core.right)
        samples.append(raw[(rows[:, None] * width + columns) % step == 0])
        behind.append(raw[rows % apart[0] == 0][:, columns % apart[1] == 0].reshape(-1, 1, channels))
        ends.append((raw.min(axis=(0, 1)), raw.max(axis=(0, 1))))
    sample = np.concatenate(samples)
    low = np.min([pair[0] for pair in ends], axis=0)
    high = np.max([pair[1] for pair in ends], axis=0)
    if colour:
        spans = [spread(sample, lambda: (float(low.min()), float(high.max())))] * 3
    else:
        spans = [_span(sample[:, i], float(low[i]), float(high[i])) for i in range(shown)]
    return spans, palette_of(display(np.concatenate(behind), spans=spans))


def _span(sample: np.ndarray, low: float, high: float) -> tuple[float, float]:
    from cellkit.report.display import spread

    return spread(sample, lambda: (low, high))
