"""Bring out edges and detail."""

from __future__ import annotations

from math import ceil
from typing import Annotated

import cv2
import numpy as np

from cellkit.core.kinds import Image
from cellkit.core.stage import Span, stage
from cellkit.stages._plane import by_channel
from cellkit.stages.smooth import gaussian

__all__ = ["sharpen", "unsharp"]

_KERNEL = np.array([[-1, -1, -1], [-1, 9, -1], [-1, -1, -1]], np.float32)


@stage(reach=lambda p: ceil(4 * p["sigma"]))
def unsharp(
    image: Image,
    /,
    *,
    sigma: Annotated[float, Span(0.1, 50, "px")] = 1.0,
    amount: Annotated[float, Span(0, 10)] = 1.0,
) -> Image:
    """Sharpen by adding back the detail that a Gaussian blur removes.

    image + amount * (image - blurred), each channel for itself. Nothing is clipped: values may leave [0, 1] beside an
    edge, and a threshold measured afterwards sees them as they are. Blur and edge rule are those of `gaussian`.

    Source: skimage/filters/_unsharp_mask.py.

    >>> import cellkit as ck
    >>> picture, truth = ck.io.fluorescence_field(128)
    >>> image = ck.Sample.of(image=picture)["image"]
    >>> sharp = ck.stages.unsharp(image, sigma=2, amount=2)
    >>> bool(sharp.max() > image.max())
    True
    """
    rows = image.shape[0]
    blurred = gaussian(image, sigma=sigma).reshape(rows, -1)
    return cv2.addWeighted(image.reshape(rows, -1), 1 + amount, blurred, -amount, 0).reshape(image.shape)


@stage(reach=1)
def sharpen(image: Image, /) -> Image:
    """Sharpen with the 3 x 3 kernel of nine in the middle and minus one all round.

    Each channel for itself; the image is mirrored at its edge, the edge pixel repeated (d c b a | a b c d). Nothing is
    clipped: values may leave [0, 1].

    >>> import cellkit as ck
    >>> picture, truth = ck.io.fluorescence_field(128)
    >>> image = ck.Sample.of(image=picture)["image"]
    >>> sharp = ck.stages.sharpen(ck.stages.gaussian(image, sigma=1))
    >>> bool(sharp.max() > image.max())
    True
    """
    return by_channel(image, lambda part: cv2.filter2D(part, -1, _KERNEL, borderType=cv2.BORDER_REFLECT))
