"""Dense prediction of an image of any size: windows, test-time augmentation, and putting the pieces together."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cellkit.core import StageError
from cellkit.grid.cover import Tile, Window
from cellkit.grid.fill import cut
from cellkit.grid.windows import best_side, padded, windows
from cellkit.models.runtime import Network, OutOfMemory
from cellkit.models.tta import Augmentation, Tta, see, undo, views

__all__ = ["Tiling", "plan_windows", "predict_dense"]

_MOST_AREA = 4096 * 4096
_WORKSPACE = 2.0  # bytes taken per byte of activations: reordered weights, im2col buffers, freed but not yet reused


_Waiting = tuple[Tile, list[tuple[Augmentation, Future[Any]]]]


@dataclass(frozen=True)
class Tiling:
    """How an image is cut: window side `size` (None: as memory allows), `halo` (None: the card's), `blend` at seams."""

    size: int | None = None
    halo: int | None = None
    blend: Literal["crop", "gaussian"] = "crop"


def predict_dense(
    network: Network, image: np.ndarray, *, tiling: Tiling | None = None, tta: Tta = "none"
) -> np.ndarray:
    """Return the probabilities, float32 (y, x, k), that a dense `network` gives for `image`, float32 (y, x, c).

    The image is mirrored up to a multiple of the card's divisor and, where it is too large for one, cut into windows
    on that grid. With a halo of the network's reach, the result is the same however it is cut.

    Raises `StageError` where the channels do not fit, the halo is smaller than the card's, or memory does not suffice.
    """
    tiling = tiling or Tiling()
    card = network.card
    if card.task != "dense":
        raise StageError(f"{card.name} finds {card.task}; use {'detect' if card.task == 'boxes' else 'detect_masks'}")
    if image.shape[2] != card.channels:
        fix = "put `grayscale` before it" if card.channels == 1 else "see `cellkit stages` for those that change them"
        raise StageError(f"{card.name} takes {card.channels} channel(s), the image has {image.shape[2]}; {fix}")
    if tiling.halo is not None and tiling.halo < card.halo:
        raise StageError(f"halo: {card.name} needs at least {card.halo} px, got {tiling.halo}")
    most = _most_area(network)
    while True:
        tiles = plan_windows(network, image.shape[:2], tiling, most)
        try:
            return _put_together(network, image, tiles, tiling, tta)
        except OutOfMemory as error:
            area = tiles[0].window.shape[0] * tiles[0].window.shape[1]
            most = area // 2
            if tiling.size is not None:  # as the user will have it: there are no smaller ones
                raise OutOfMemory(f"{error}; give a smaller size, or more memory") from error
            if len(tiles) == 1 and min(image.shape[:2]) <= card.divisor:
                raise
            network.notes.append(f"{error}; went on with smaller tiles")


def plan_windows(network: Network, shape: tuple[int, int], tiling: Tiling, most: int | None = None) -> tuple[Tile, ...]:
    """Return the tiles in which a picture of `shape` goes through `network`. Raises `StageError` where none can do."""
    card = network.card
    most = most if most is not None else _most_area(network)
    halo = tiling.halo if tiling.halo is not None else card.halo
    grid = card.divisor
    whole = (padded(shape[0], grid), padded(shape[1], grid))
    try:
        if card.reach is None and card.halo == 0 and tiling.halo is None and tiling.size is None:
            # Its context is the whole picture: no halo makes up for a cut.
            if whole[0] * whole[1] > most:
                raise ValueError(
                    f"its context is the whole picture of {shape[0]} x {shape[1]} px; give size and halo to cut it"
                )
            return windows(shape, whole, 0, grid)
        if tiling.size is not None:
            return windows(shape, (tiling.size, tiling.size), halo, grid)
        return windows(shape, best_side(shape, halo, grid, most, network.lanes if network.alone else 1), halo, grid)
    except ValueError as error:
        fix = "" if tiling.size is not None or "give" in str(error) else " by the memory there is; give more"
        raise StageError(f"{card.name}: {error}{fix}") from error


def _most_area(network: Network) -> int:
    if network.memory is None or network.bytes_per_pixel <= 0:
        return _MOST_AREA
    room = network.memory / (network.lanes * network.batch * network.bytes_per_pixel * _WORKSPACE)
    return max(1, min(_MOST_AREA, int(room)))


def _put_together(network: Network, image: np.ndarray, tiles: tuple[Tile, ...], tiling: Tiling, tta: Tta) -> np.ndarray:
    shape = image.shape[:2]
    out = np.empty((*shape, len(network.card.classes)), np.float32)
    if tiling.blend == "crop" or len(tiles) == 1:
        for tile, prob in _predicted(network, image, tiles, tta):
            inside = tile.core.within(tile.window).slices
            out[tile.core.slices] = np.moveaxis(prob[:, inside[0], inside[1]], 0, -1)
        return out
    out[:] = 0
    total = np.zeros(shape, np.float32)
    for tile, prob in _predicted(network, image, tiles, tta):
        weight = _bell(tile.window, shape)
        seen = tile.window.clipped(Window(0, 0, *shape))
        inside = seen.within(tile.window).slices
        out[seen.slices] += weight[inside][..., None] * np.moveaxis(prob[:, inside[0], inside[1]], 0, -1)
        total[seen.slices] += weight[inside]
    out /= total[..., None]
    return np.minimum(out, 1.0, out=out)


def _bell(window: Window, shape: tuple[int, int]) -> np.ndarray:
    """Return Gaussian weights (y, x), an eighth of the side wide, not falling off towards the picture's edge."""
    sides = []
    for start, stop, length in ((window.top, window.bottom, shape[0]), (window.left, window.right, shape[1])):
        side = stop - start
        offset = np.arange(side) - (side - 1) / 2
        if start <= 0:
            offset = np.maximum(offset, 0)
        if stop >= length:
            offset = np.minimum(offset, 0)
        sides.append(np.maximum(np.exp(-((offset / (side / 8)) ** 2) / 2), 1e-4))
    return np.outer(*sides).astype(np.float32)


def _predicted(
    network: Network, image: np.ndarray, tiles: tuple[Tile, ...], tta: Tta
) -> Iterator[tuple[Tile, np.ndarray]]:
    """Yield each tile with its probabilities (k, y, x), in order; only a few are under way at a time."""
    ahead = network.lanes * network.batch + 1
    chosen = views(tta)
    waiting: deque[_Waiting] = deque()
    try:
        for tile in tiles:
            while len(waiting) * len(chosen) >= ahead:
                yield _next(waiting)
            pixels = np.moveaxis(cut(image, tile.window, "reflect"), -1, 0)
            waiting.append((tile, [(view, network.submit(see(pixels, view)[None])[0]) for view in chosen]))
        while waiting:
            yield _next(waiting)
    finally:
        for _, futures in waiting:
            for _, future in futures:
                future.cancel()


def _next(waiting: deque[_Waiting]) -> tuple[Tile, np.ndarray]:
    done = _finished(*waiting[0])
    waiting.popleft()  # only now: where one view fails, the others still have to leave the line
    return done


def _finished(tile: Tile, futures: list[tuple[Augmentation, Future[Any]]]) -> tuple[Tile, np.ndarray]:
    first, *others = (undo(future.result(), view) for view, future in futures)
    if not others:
        return tile, first
    total = first.astype(np.float32)
    for other in others:
        total += other
    total /= np.float32(len(futures))
    return tile, total
