"""Bring intensities of different images onto one scale."""

from __future__ import annotations

import numpy as np

from cellkit.core.histogram import Histogram
from cellkit.core.kinds import Image
from cellkit.core.stage import stage

__all__ = ["dark_background"]


@stage(reach=0)
def dark_background(image: Image, histogram: Histogram, /) -> Image:
    """Invert an image whose background is bright, and leave any other as it is.

    The background counts as bright where the median lies above the midpoint of lo and hi, the 1st and 99th percentile;
    then every value x becomes lo + hi - x. Decided once for the whole image, on the values of all channels together.
    """
    low, middle, high = (float(v) for v in histogram.quantile(np.array([0.01, 0.5, 0.99])))
    if middle <= (low + high) / 2:
        return image
    return np.subtract(np.float32(low + high), image)
