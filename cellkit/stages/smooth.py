"""Take noise and fine detail away."""

from __future__ import annotations

from math import ceil
from typing import Annotated

import cv2

from cellkit.core.kinds import Field, Image, Prob
from cellkit.core.stage import Span, stage
from cellkit.stages._plane import by_channel

__all__ = ["gaussian"]


@stage(reach=lambda p: ceil(4 * p["sigma"]))
def gaussian(
    image: Image | Prob | Field, /, *, sigma: Annotated[float, Span(0.1, 50, "px")] = 1.0
) -> Image | Prob | Field:
    """Blur with a Gaussian, each channel for itself.

    The kernel is cut off at 4 sigma; the image is mirrored at its edge, the edge pixel repeated (d c b a | a b c d).

    Source: scipy/ndimage/_filters.py, `gaussian_filter` with its default mode.
    """
    side = 2 * ceil(4 * sigma) + 1
    return by_channel(image, lambda part: cv2.GaussianBlur(part, (side, side), sigma, borderType=cv2.BORDER_REFLECT))
