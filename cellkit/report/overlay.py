"""Thin coloured contours of objects on their image."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Sequence

import numpy as np

from cellkit.core.errors import KindError
from cellkit.core.kinds import Boxes, Instances
from cellkit.report.display import display
from cellkit.report.palette import BRIGHT, STRONG, assigned, colored, edges

__all__ = ["Contours", "draw", "looked_at", "overlay", "palette_for", "palette_of"]


def overlay(
    image: np.ndarray,
    objects: np.ndarray | Boxes | Instances,
    *,
    channels: Sequence[int | str] = (),
    names: Sequence[str] = (),
) -> np.ndarray:
    """Return `image` as a picture, uint8 (y, x, 3), with the one-pixel contours of `objects` on it.

    `image`: any image, brought to the screen as `display` does (`channels`, `names`); a picture, uint8 (y, x, 3), is
    taken as it is, so that overlays can be laid on each other. `objects`: `Labels` (neighbours in different colours),
    `Classes`, uint8 (one colour a class), `Mask` (one colour), `Boxes` (one colour a class) or `Instances`. Contours
    are the inner pixels of each object. Colours are safe for colour-blind eyes and follow the picture's brightness.
    Raises `KindError` where sizes differ.
    """
    picture = np.array(display(image, channels=channels, names=names))
    draw(picture, objects, palette_for(picture))
    return picture


def draw(picture: np.ndarray, objects: np.ndarray | Boxes | Instances, palette: np.ndarray) -> None:
    """Draw the contours of `objects` into `picture`, uint8 (y, x, c), in the colours of `palette`, uint8 (n, c)."""
    if isinstance(objects, Boxes):
        _draw_boxes(picture, objects, palette)
    elif isinstance(objects, Instances):
        _draw_instances(picture, objects, palette)
    else:
        _draw_labels(picture, objects, palette)


def palette_for(picture: np.ndarray) -> np.ndarray:
    """Return the colours that stand out on a picture: strong ones where most of it is bright."""
    steps = looked_at(picture.shape[:2])
    return palette_of(picture[:: steps[0], :: steps[1]])


def looked_at(shape: Sequence[int]) -> tuple[int, int]:
    """Return of how many rows and of how many columns `palette_for` looks at one."""
    return max(1, shape[0] // 256), max(1, shape[1] // 256)


def palette_of(sample: np.ndarray) -> np.ndarray:
    """As `palette_for`, of an even sample of the picture's pixels."""
    return STRONG if np.median(sample) > 128 else BRIGHT


class Contours:
    """Draws the contours of one layer of labels into part after part of a picture, an object in one colour everywhere.

    Parts come row by row; what was not seen in a row and the one before it is forgotten.
    """

    def __init__(self, palette: np.ndarray) -> None:
        self.palette = palette
        self._before: dict[int, int] = {}
        self._now: dict[int, int] = {}

    def next_row(self) -> None:
        """Begin a new row of parts."""
        self._before, self._now = self._now, {}

    def draw(self, picture: np.ndarray, labels: np.ndarray) -> None:
        """Draw into `picture`, uint8 (y, x, 3); parts should overlap by 6 px, and be cut to what is theirs."""
        if labels.dtype in (bool, np.uint8):
            _draw_labels(picture, labels, self.palette)
            return
        edge = edges(labels)
        ids, numbers = assigned(labels, edge, len(self.palette), ChainMap(self._now, self._before))
        self._now.update(zip(ids.tolist(), numbers.tolist(), strict=True))
        picture[edge] = colored(labels[edge], ids, numbers, self.palette)


def _draw_labels(picture: np.ndarray, labels: np.ndarray, palette: np.ndarray) -> None:
    if labels.ndim != 2 or labels.dtype.kind not in "bui":
        raise KindError(f"contours are drawn of labels or a mask (y, x), got {labels.dtype} {labels.shape}")
    if labels.shape != picture.shape[:2]:
        raise KindError(f"the image is {picture.shape[:2]} (y, x) but the objects are {labels.shape}")
    edge = edges(labels)
    if labels.dtype == bool:
        picture[edge] = palette[0]
        return
    if labels.dtype == np.uint8:
        picture[edge] = palette[(labels[edge] - 1) % len(palette)]
        return
    ids, numbers = assigned(labels, edge, len(palette))
    picture[edge] = colored(labels[edge], ids, numbers, palette)


def _draw_boxes(picture: np.ndarray, boxes: Boxes, palette: np.ndarray) -> None:
    height, width = picture.shape[:2]
    corners = np.rint(boxes.xyxy).astype(np.int64)
    for (x0, y0, x1, y1), kind in zip(corners.tolist(), boxes.classes.tolist(), strict=True):
        color = palette[kind % len(palette)]
        left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        if left >= right or top >= bottom:
            continue
        # A side beyond the image is not drawn: the box goes on there.
        if y0 >= 0:
            picture[top, left:right] = color
        if y1 <= height:
            picture[bottom - 1, left:right] = color
        if x0 >= 0:
            picture[top:bottom, left] = color
        if x1 <= width:
            picture[top:bottom, right - 1] = color


def _draw_instances(picture: np.ndarray, instances: Instances, palette: np.ndarray) -> None:
    height, width = picture.shape[:2]
    corners = np.floor(instances.boxes.xyxy[:, :2]).astype(np.int64).tolist()
    for i, ((x0, y0), mask) in enumerate(zip(corners, instances.masks, strict=True)):
        # One pixel of nothing around the crop, so that contours on its edge are found.
        edge = edges(np.pad(mask, 1))[1:-1, 1:-1]
        rows, columns = np.nonzero(edge)
        rows, columns = rows + y0, columns + x0
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        picture[rows[inside], columns[inside]] = palette[i % len(palette)]
