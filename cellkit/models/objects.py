"""Detectors on images of any size: window by window, every object once."""

from __future__ import annotations

from typing import Any

import numpy as np

from cellkit.core import Boxes, Instances, StageError
from cellkit.grid.owners import own_boxes, own_instances
from cellkit.grid.windows import windows

__all__ = ["predict_objects"]


def predict_objects(
    network: Any, image: np.ndarray, *, size: int, halo: int, batch: int | None = None
) -> Boxes | Instances:
    """Return what a detector finds on an image, float32 (y, x, c): `Boxes`, or `Instances` where its task is masks.

    `network` has a `card` and maps float32 tiles (n, c, y, x) to n `Boxes` or `Instances`. An image of up to `size` px
    a side goes through as one picture. A larger one is seen in windows of `size`, `batch` at a time (by default as
    many as the network works on at once), that overlap by at least twice the `halo`. What several windows see is kept
    once, as the window saw it in whose part of the image its centre lies. So an object of up to twice the halo across
    is found as on the whole image, as far as the network's answer hangs on no more than the window; of a larger one a
    part may be cut off.

    Raises `StageError` where the windows have no room for the halo, or the network gives other than it should.
    """
    if image.shape[0] == 0 or image.shape[1] == 0:
        raise StageError(f"wanted an image of at least 1 x 1 px, got {image.shape[0]} x {image.shape[1]}")
    outer = (image.shape[0], image.shape[1])
    try:
        tiles = windows(outer, (size, size), halo)
    except ValueError as error:
        raise StageError(f"{error}; give a larger size or a smaller halo") from error
    wanted = Instances if network.card.task == "masks" else Boxes
    step = batch or max(1, getattr(network, "lanes", 1) * getattr(network, "batch", 1))
    parts: list[Any] = []
    for first in range(0, len(tiles), step):
        seen = [image[tile.window.slices].transpose(2, 0, 1) for tile in tiles[first : first + step]]
        found = network(np.stack(seen))
        if len(found) != len(seen) or not all(isinstance(one, wanted) for one in found):
            raise StageError(
                f"{network.card.name}: wanted {wanted.__name__} for each of {len(seen)} tiles, got "
                f"{', '.join(sorted({type(one).__name__ for one in found})) or 'nothing'} for {len(found)}"
            )
        parts += found
    if len(tiles) == 1:
        return parts[0]
    return own_instances(parts, tiles, outer) if wanted is Instances else own_boxes(parts, tiles, outer)
