"""Take noise and fine detail away."""

from __future__ import annotations

from math import ceil
from typing import Annotated

import cv2
import numpy as np

from cellkit.core.kinds import Field, Image, Prob
from cellkit.core.stage import Span, stage
from cellkit.stages._blur import blur
from cellkit.stages._plane import by_channel

__all__ = ["bilateral", "gaussian", "median"]


@stage(reach=lambda p: ceil(4 * p["sigma"]))
def gaussian(
    image: Image | Prob | Field, /, *, sigma: Annotated[float, Span(0.1, 50, "px")] = 1.0
) -> Image | Prob | Field:
    """Blur with a Gaussian, each channel for itself.

    The kernel is cut off at 4 sigma; the image is mirrored at its edge, the edge pixel repeated (d c b a | a b c d).

    Source: scipy/ndimage/_filters.py, `gaussian_filter` with its default mode.

    >>> import cellkit as ck
    >>> picture, truth = ck.io.fluorescence_field(128)
    >>> image = ck.Sample.of(image=picture)["image"]
    >>> blurred = ck.stages.gaussian(image, sigma=3)
    >>> bool(blurred.max() < image.max())
    True
    """
    return by_channel(image, lambda part: blur(part, sigma))


@stage(reach=lambda p: p["radius"])
def median(image: Image | Prob, /, *, radius: Annotated[int, Span(1, 50, "px")] = 1) -> Image | Prob:
    """Take the median over a square of 2 `radius` + 1 px a side, each channel for itself.

    Exact at any radius. The image's edge pixels are repeated beyond it (a a a | a b c d).

    >>> import cellkit as ck
    >>> picture, truth = ck.io.fluorescence_field(128)
    >>> image = ck.Sample.of(image=picture)["image"]
    >>> filtered = ck.stages.median(image, radius=2)
    >>> bool(filtered[truth == 0].std() < image[truth == 0].std())
    True
    """
    return by_channel(image, lambda part: _median(part, radius), together=())


def _median(part: np.ndarray, radius: int) -> np.ndarray:
    side = 2 * radius + 1
    if radius <= 2:
        return cv2.medianBlur(part, side)
    levels = cv2.convertScaleAbs(part, alpha=255)
    steps = np.multiply(np.arange(256), np.float32(1 / 255), dtype=np.float32)
    if np.array_equal(cv2.LUT(levels, steps), part):
        return cv2.LUT(cv2.medianBlur(levels, side), steps)
    from cellkit.stages import _rank

    padded = cv2.copyMakeBorder(part, radius, radius, radius, radius, cv2.BORDER_REPLICATE)
    return _rank.median(padded, radius)


@stage(reach=lambda p: ceil(2 * p["sigma_space"]))
def bilateral(
    image: Image | Prob,
    /,
    *,
    sigma_space: Annotated[float, Span(0.5, 10, "px")] = 2.0,
    sigma_color: Annotated[float, Span(0.01, 1)] = 0.1,
) -> Image | Prob:
    """Smooth with a Gaussian that leaves edges: neighbours weigh less the more their value differs.

    The weight is exp(-d^2 / (2 sigma_space^2) - v^2 / (2 sigma_color^2)) within a circle of 2 `sigma_space`, d being
    the distance in px and v the difference in value. Three channels are filtered as one colour, v being the sum of
    their differences; any other number of channels each for itself. The image is mirrored at its edge, the edge pixel
    repeated (d c b a | a b c d).

    Source: Tomasi & Manduchi (1998), ICCV, 839-846; opencv modules/imgproc/src/bilateral_filter.dispatch.cpp.

    >>> import cellkit as ck
    >>> picture, truth = ck.io.fluorescence_field(128)
    >>> image = ck.Sample.of(image=picture)["image"]
    >>> smooth = ck.stages.bilateral(image, sigma_space=3, sigma_color=0.1)
    >>> bool(smooth[truth == 0].std() < image[truth == 0].std())
    True
    """
    side = 2 * ceil(2 * sigma_space) + 1
    return by_channel(
        image,
        lambda part: cv2.bilateralFilter(part, side, sigma_color, sigma_space, borderType=cv2.BORDER_REFLECT),
        together=(1, 3),
    )
