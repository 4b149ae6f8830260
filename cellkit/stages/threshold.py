"""From intensities to foreground: fixed, automatic, local and two-level thresholds.

A pixel is foreground where its value is strictly greater than the threshold, everywhere. The automatic ones never fail:
where an image holds one value only, nothing is foreground.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np

from cellkit.core.errors import StageError
from cellkit.core.histogram import Histogram
from cellkit.core.kinds import Classes, Image, Mask, Prob
from cellkit.core.stage import WHOLE, Span, stage
from cellkit.stages import _levels
from cellkit.stages._plane import plane

__all__ = ["li", "multi_otsu", "otsu", "threshold", "triangle"]


@stage(reach=0)
def threshold(image: Image | Prob, /, *, value: Annotated[float, Span(-10, 10)] = 0.5) -> Mask:
    """Take as foreground what is greater than a fixed value.

    Raises `KindError` for more than one channel.
    """
    return np.greater(plane(image, "threshold"), np.float32(value))


@stage(reach=0)
def otsu(image: Image | Prob, histogram: Histogram, /, *, scale: Annotated[float, Span(0.1, 10)] = 1.0) -> Mask:
    """Take as foreground what is greater than Otsu's threshold, measured on the whole image.

    The threshold makes the variance between the two sides largest, over every split of the values that occur (to 11
    significant bits); it is the midpoint between the two values beside the split, times `scale`.

    Raises `KindError` for more than one channel.
    Source: Otsu (1979), IEEE Trans. Syst. Man Cybern. 9, 62-66, equation 12.
    """
    return _above(plane(image, "otsu"), histogram, _levels.otsu_split, scale)


@stage(reach=0)
def li(image: Image | Prob, histogram: Histogram, /, *, scale: Annotated[float, Span(0.1, 10)] = 1.0) -> Mask:
    """Take as foreground what is greater than Li's minimum cross entropy threshold, measured on the whole image.

    Of every split of the values that occur (to 11 significant bits, counted from the least one up) the one with the
    least cross entropy, where the iteration of Li & Tam finds the one next to the mean; the threshold is the midpoint
    between the two values beside the split, times `scale`. Finds dimmer objects than Otsu where they are few.

    Raises `KindError` for more than one channel.
    Source: Li & Lee (1993), Pattern Recognition 26, 617-625; skimage/filters/thresholding.py, `threshold_li`.
    """
    return _above(plane(image, "li"), histogram, _levels.li_split, scale)


@stage(reach=0)
def triangle(image: Image | Prob, histogram: Histogram, /, *, scale: Annotated[float, Span(0.1, 10)] = 1.0) -> Mask:
    """Take as foreground what is greater than the triangle threshold, measured on the whole image.

    The threshold, times `scale`, lies where the counts fall farthest below a line from the peak to the end of the
    longer tail: for few objects on a wide, single peak of background. More than 256 values are counted in 256 bins.

    Raises `KindError` for more than one channel.
    Source: Zack, Rogers & Latt (1977), J. Histochem. Cytochem. 25, 741-753.
    """
    part = plane(image, "triangle")
    values, counts, cuts = _levels.reduced(histogram)
    if len(values) < 2:
        return np.zeros(part.shape, bool)
    # Past the tail's own far end there is nothing to part it from.
    at = min(_levels.triangle_split(values, counts), len(cuts) - 1)
    return np.greater(part, np.float32(cuts[at] * scale))


def _above(part: np.ndarray, histogram: Histogram, split: Callable[..., int], scale: float) -> np.ndarray:
    values, counts = histogram.filled(0)
    if len(values) < 2:
        return np.zeros(part.shape, bool)
    at = split(values, counts)
    return np.greater(part, np.float32(_levels.between(values[at], values[at + 1]) * scale))


@stage(reach=0, names=lambda *_: ())
def multi_otsu(image: Image | Prob, histogram: Histogram, /, *, classes: Annotated[int, Span(2, 16)] = 3) -> Classes:
    """Part the values into classes, 0 the darkest, so that the variance between classes is largest.

    Measured on the whole image; more than 256 values are counted in 256 bins. Fewer values than `classes` make fewer
    classes; the numbers still start at 0.

    Raises `KindError` for more than one channel.
    Source: Liao, Chen & Chung (2001), J. Inf. Sci. Eng. 17, 713-727; solved for every cut at once by dynamic
    programming.
    """
    part = plane(image, "multi_otsu")
    values, counts, cuts = _levels.reduced(histogram)
    result = np.zeros(part.shape, np.uint8)
    if len(values) > 1:
        for at in _levels.multi_otsu_splits(values, counts, min(classes, len(values))):
            result += np.greater(part, np.float32(cuts[at]))
    return result


@stage(reach=lambda p: p["radius"])
def local(
    image: Image | Prob,
    /,
    *,
    method: Literal["sauvola", "mean"] = "mean",
    radius: Annotated[int, Span(1, 127, "px")] = 25,
    k: Annotated[float, Span(-1, 1)] = 0.2,
    r: Annotated[float, Span(0.01, 10)] = 0.5,
    offset: Annotated[float, Span(-1, 1)] = 0.0,
) -> Mask:
    """Take as foreground what is greater than a threshold measured around each pixel.

    From the mean and the standard deviation s of the square of 2 `radius` + 1 px a side the threshold is
    mean - `offset`, or for `sauvola` mean * (1 + k * (s / r - 1)) - `offset`. Sauvola's is made for dark print on
    bright paper: there the flat background comes out as foreground; for bright objects on a dark ground take k < 0.
    Values count in steps of 1 / 65,536 and the sums are exact, so a flat region has no noise in it. The image is
    mirrored at its edge, the edge pixel repeated (d c b a | a b c d).

    Raises `KindError` for more than one channel, `StageError` for values beyond 127 (an image that was not scaled).
    Source: Sauvola & Pietikainen (2000), Pattern Recognition 33, 225-236, equation 5.
    """
    from cellkit.stages import _local

    part = np.ascontiguousarray(plane(image, "local"))
    most = float(max(part.max(), -part.min()))
    if most > _local.LIMIT:
        raise StageError(f"local wants an image scaled to about [0, 1], got values up to {most:g}: add `normalize`")
    rows, columns = (_local.mirrored(length, radius) for length in part.shape)
    return _local.above(part, rows, columns, k if method == "sauvola" else 0.0, r, offset)


@stage(reach=WHOLE)
def hysteresis(
    image: Image | Prob,
    /,
    *,
    low: Annotated[float, Span(-10, 10)] = 0.3,
    high: Annotated[float, Span(-10, 10)] = 0.5,
    connectivity: Literal[4, 8] = 8,
) -> Mask:
    """Take as foreground every piece of what is greater than `low` in which something is greater than `high`.

    `connectivity` 8 joins pixels at corners too, 4 along sides only, as scikit-image does.

    Raises `KindError` for more than one channel, `StageError` where `low` is greater than `high`.
    Source: Canny (1986), IEEE Trans. Pattern Anal. Mach. Intell. 8, 679-698, section VII.
    """
    from cellkit.formats.pieces import paint, pieces, touched

    part = plane(image, "hysteresis")
    if low > high:
        raise StageError(f"hysteresis: `low` must not be greater than `high`, got {low:g} and {high:g}")
    result = np.greater(part, np.float32(low))
    runs, piece, count = pieces(result, connectivity)
    weak = np.ones(count, bool)
    weak[piece[touched(np.greater(part, np.float32(high)), runs)]] = False
    paint(result, runs, weak[piece], False)
    return result
