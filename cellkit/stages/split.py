"""Splitting: from a mask of touching objects to one label each."""

from __future__ import annotations

from typing import Annotated, Literal

import cv2
import numpy as np

from cellkit.core.errors import KindError, StageError
from cellkit.core.kinds import Field, Image, Labels, Mask
from cellkit.core.stage import OBJECT, Span, stage

__all__ = ["distance", "maxima", "watershed"]

MOST_PIXELS = 1_400_000_000
"""Pixels whose window the flood can still number with 32 bits."""


@stage(reach=OBJECT)
def distance(mask: Mask, /) -> Field:
    """Give every foreground pixel its exact Euclidean distance to the background.

    `mask`: (y, x). Returns float32 (y, x), pixels, 0 in the background: the float32 nearest to the root of a whole
    number. The edge of the image is no background: an object that it cuts goes on beyond it. Only where the whole image
    is foreground, and there is nothing else to measure to, do the pixels just outside the edge count as background.

    The nearest background pixel always touches the object itself, so the distance hangs on nothing but the object.

    Source: Meijster, Roerdink & Hesselink 2000, "A general algorithm for computing distance transforms in linear time".
    `cv2.distanceTransform` is not used: the last bits of its result vary with the number of threads.

    >>> import cellkit as ck
    >>> picture, truth = ck.io.fluorescence_field(128)
    >>> field = ck.stages.distance(truth > 0)
    >>> bool((field > 0).sum() == (truth > 0).sum())
    True
    """
    mask = np.ascontiguousarray(mask, bool)
    if mask.all():
        y, x = (np.minimum(np.arange(1, n + 1), np.arange(n, 0, -1)).astype(np.float32) for n in mask.shape)
        return np.minimum(y[:, None], x)
    from cellkit.stages._distance import distance as transform

    return transform(mask)


@stage(reach=lambda p: OBJECT if p["h"] > 0 else 2 * p["min_distance"], out="seeds")
def maxima(
    field: Field,
    /,
    *,
    min_distance: Annotated[int, Span(1, 500, "px")] = 5,
    h: Annotated[float, Span(0, 1e6)] = 0.0,
    threshold: Annotated[float, Span(0, 1e6)] = 0.0,
) -> Labels:
    """Mark the local maxima of a field, one pixel each, as seeds for `watershed`.

    `field`: float32 (y, x). Returns int32 (y, x): 1 to n in raster order, 0 elsewhere. Only pixels above `threshold`
    are marked.

    With `h` 0, a maximum is a pixel that no other exceeds within `min_distance` rows and columns. Of equally high ones
    that near to one another only those stay that have none before them in raster order, so a plateau gets one seed.

    With `h` above 0, a maximum is kept where every way to a higher one goes down by at least `h` (a single pixel of it,
    the first of the highest). An object, a connected piece of ``field > 0``, is surrounded by height 0. Of two kept
    maxima of one object within `min_distance` rows and columns the lower goes, or the later in raster order of two
    that are equally high. This is gentler than with `h` 0, where the slope of a higher maximum is enough.

    Source: Grimaud 1992, "A new measure of contrast: the dynamics"; Vincent 1993, "Morphological grayscale
    reconstruction", section 5.

    >>> import cellkit as ck
    >>> picture, truth = ck.io.fluorescence_field(128)
    >>> field = ck.stages.distance(truth > 0)
    >>> seeds = ck.stages.maxima(field, h=1)
    >>> int(truth.max()), int(seeds.max())
    (7, 7)
    """
    field = np.ascontiguousarray(field, np.float32)
    if h > 0:
        from cellkit.stages._dynamics import h_maxima

        _check_size("maxima", field)
        return h_maxima(field, h, min_distance, threshold)
    from cellkit.stages._peaks import window_maxima

    side = 2 * min(min_distance, max(field.shape)) + 1
    top = cv2.dilate(field, np.ones((side, side), np.uint8))
    return window_maxima(field, top, min_distance, threshold)


@stage(reach=OBJECT)
def watershed(
    field: Field | Image, seeds: Labels, mask: Mask, /, *, flood: Literal["peaks", "basins"] = "peaks"
) -> Labels:
    """Grow seeds over a mask until they meet, along the valleys between peaks or the crests between basins.

    `field`: float32 (y, x), or an image of one channel; `seeds`: int32 (y, x), 0 where there is none; `mask`: (y, x).
    Returns int32 (y, x) with the seeds' numbers. `flood: peaks` takes the highest pixels first (distances, bright
    nuclei), `basins` the lowest (gradients, bright membranes).

    Pixels wait in order of value, then of arrival; neighbours are the four that share a side, and a pixel takes the
    label of the neighbour that first reaches it, and waits no better than that neighbour did. Seeds outside the mask
    are ignored; what no seed can reach within the mask becomes 0. Labels equal those of
    ``skimage.segmentation.watershed(-field, seeds, mask=mask)`` (0.26), save that seeds of equal value start in raster
    order here and in no defined order there, which can move pixels that are equally near to both.

    Raises `KindError` where an image has several channels, `StageError` where the layers differ in size.

    Source: Meyer 1994, "Topographic distance and watershed lines"; Beucher & Meyer 1993.

    >>> import cellkit as ck
    >>> picture, truth = ck.io.fluorescence_field(128)
    >>> mask = truth > 0
    >>> field = ck.stages.distance(mask)
    >>> seeds = ck.stages.maxima(field, h=1)
    >>> labels = ck.stages.watershed(field, seeds, mask)
    >>> int(ck.stages.components(mask).max()), int(labels.max())
    (6, 7)
    """
    if field.ndim == 3:
        if field.shape[2] != 1:
            raise KindError(
                f"watershed: wanted a field or an image of one channel, got {field.shape[2]} channels; "
                "put `grayscale` or `channel` before it"
            )
        field = field[..., 0]
    if not field.shape == seeds.shape == mask.shape:
        raise StageError(
            "watershed: wanted field, seeds and mask of one size, "
            f"got {field.shape}, {seeds.shape} and {mask.shape}; make all three from the same layer"
        )
    _check_size("watershed", field)
    from cellkit.stages._flood import flood as flood_from

    return flood_from(
        np.ascontiguousarray(field, np.float32),
        np.ascontiguousarray(seeds, np.int32),
        np.ascontiguousarray(mask, bool),
        np.float32(-1 if flood == "peaks" else 1),
    )


def _check_size(name: str, field: np.ndarray) -> None:
    if field.size > MOST_PIXELS:
        raise StageError(
            f"{name}: wanted at most {MOST_PIXELS:,} pixels at once, got {field.shape[0]} x {field.shape[1]}; "
            "run it in blocks or put it inside `tile`"
        )
