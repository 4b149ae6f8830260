"""Bring intensities of different images onto one scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import cv2
import numpy as np

from cellkit.core.errors import StageError
from cellkit.core.histogram import Histogram
from cellkit.core.kinds import Image
from cellkit.core.stage import WHOLE, Reach, Span, stage
from cellkit.stages._plane import by_channel

__all__ = ["background", "clahe", "dark_background", "gamma", "normalize"]


@stage(reach=0)
def dark_background(image: Image, histogram: Histogram, /) -> Image:
    """Invert an image whose background is bright, and leave any other as it is.

    The background counts as bright where the median lies above the midpoint of lo and hi, the 1st and 99th percentile;
    then every value x becomes lo + hi - x. Decided once for the whole image, on the values of all channels together.

    >>> import cellkit as ck
    >>> picture, truth = ck.io.stained_section(128)
    >>> image = ck.Sample.of(image=picture)["image"]
    >>> dark = ck.stages.dark_background(image, ck.stages.histogram(image))
    >>> bool(image[truth > 0].mean() < image[truth == 0].mean())
    True
    >>> bool(dark[truth > 0].mean() > dark[truth == 0].mean())
    True
    """
    low, middle, high = (float(v) for v in histogram.quantile(np.array([0.01, 0.5, 0.99])))
    if middle <= (low + high) / 2:
        return image
    return np.subtract(np.float32(low + high), image)


@stage(reach=0)
def normalize(
    image: Image,
    histogram: Histogram,
    /,
    *,
    low: Annotated[float, Span(0, 100, "%")] = 1.0,
    high: Annotated[float, Span(0, 100, "%")] = 99.0,
    clip: bool = True,
    together: bool = False,
) -> Image:
    """Stretch each channel so that one percentile becomes 0 and another 1.

    The percentiles are those of the whole image, to 11 significant bits. What lies beyond them is cut off to 0 and 1
    unless `clip` is false. Where both percentiles are one value (few bright pixels on black), the least and the
    greatest value take their place; a channel of one value becomes 0. `together`: all channels alike, by the
    percentiles of all their values, so that colours stay and an empty channel's noise is not magnified.

    Raises `StageError` where `low` is not below `high`.

    >>> import cellkit as ck
    >>> picture, truth = ck.io.fluorescence_field(128)
    >>> image = ck.Sample.of(image=picture)["image"]
    >>> stretched = ck.stages.normalize(image, ck.stages.histogram(image))
    >>> round(float(image.max()), 2), round(float(stretched.max()), 2)
    (0.74, 1.0)
    """
    if low >= high:
        raise StageError(f"normalize: `low` must be below `high`, got {low:g} and {high:g} percent")
    result = np.empty(image.shape, np.float32)
    for channel in [None] if together else range(image.shape[2]):
        dark, bright = _ends(histogram, low, high, channel)
        part = np.s_[...] if channel is None else np.s_[..., channel]
        if bright == dark:
            result[part] = 0
            continue
        np.subtract(image[part], np.float32(dark), out=result[part])
        result[part] *= np.float32(1 / (bright - dark))
    return np.clip(result, 0, 1, out=result) if clip else result


def _ends(histogram: Histogram, low: float, high: float, channel: int | None) -> tuple[float, float]:
    """Return two percentiles of a channel (None: of all), or where they are one value, the least and the greatest."""
    dark, bright = (float(v) for v in histogram.quantile(np.array([low, high]) / 100, channel))
    if bright == dark:
        values, _ = histogram.filled(channel)
        dark, bright = (float(values[0]), float(values[-1])) if len(values) else (0.0, 0.0)
    return dark, bright


@stage(reach=0)
def gamma(image: Image, /, *, gamma: Annotated[float, Span(0.1, 10, log=True)] = 1.0) -> Image:
    """Raise every value to a power: below 1 brightens what is dim, above 1 darkens it.

    Negative values count as 0.

    >>> import cellkit as ck
    >>> picture, truth = ck.io.fluorescence_field(128)
    >>> image = ck.Sample.of(image=picture)["image"]
    >>> brighter = ck.stages.gamma(image, gamma=0.5)
    >>> bool(brighter.mean() > image.mean())
    True
    """
    return np.power(np.maximum(image, np.float32(0)), np.float32(gamma))


@stage(reach=WHOLE)
def clahe(
    image: Image,
    /,
    *,
    clip_limit: Annotated[float, Span(1, 100)] = 2.0,
    tiles: Annotated[int, Span(1, 64)] = 8,
) -> Image:
    """Equalise the histogram place by place, with a limit on how much contrast rises (CLAHE).

    Each channel for itself. The image is parted into `tiles` x `tiles`; in each, values (cut off to [0, 1]) are counted
    in 256 levels, counts above `clip_limit` times the mean count are spread over all levels, and the cumulative
    counts say what a value becomes. Between levels and between the middles of tiles they are interpolated linearly, so
    that images of more than 8 bits keep their gradations. `clip_limit` 1 changes least.

    Source: Zuiderveld (1994), Graphics Gems IV, 474-485; opencv modules/imgproc/src/clahe.cpp.

    >>> import cellkit as ck
    >>> picture, truth = ck.io.fluorescence_field(128)
    >>> image = ck.Sample.of(image=picture)["image"]
    >>> even = ck.stages.clahe(image, clip_limit=4, tiles=3)
    >>> bool(even.std() > image.std())
    True
    """
    from cellkit.stages import _equalize

    return by_channel(image, lambda part: _equalize.equalize(part, tiles, clip_limit), together=())


# One pixel of a ball's radius stands for one grey level of 8 bits, as in ImageJ.
_BALL_UNIT = 1 / 255
_SHRINK = ((10, 1), (30, 2), (100, 4), (float("inf"), 8))


def _shrink(radius: float) -> int:
    return next(factor for most, factor in _SHRINK if radius <= most)


def _background_reach(params: Mapping[str, Any]) -> Reach:
    radius, method = params["radius"], params["method"]
    return WHOLE if method == "rolling_ball" and _shrink(radius) > 1 else 2 * int(radius)


@stage(reach=_background_reach)
def background(
    image: Image,
    /,
    *,
    method: Literal["tophat", "rolling_ball"] = "tophat",
    radius: Annotated[float, Span(1, 250, "px", log=True)] = 25.0,
) -> Image:
    """Subtract a background that varies slowly: what is left stands out from its surroundings.

    Each channel for itself; objects must be bright and less than 2 `radius` wide. `tophat` takes the greatest level
    at which a flat disc fits under the image (white top-hat: image - opening); `rolling_ball` the height that the
    surface of a ball rolling under it reaches, 1 px of its radius standing for 1/255 of intensity, so that sloping
    backgrounds are followed more closely. Above 10, 30 and 100 px the ball rolls under an image shrunk 2, 4 and 8
    times (least values), and its surface is interpolated. Outside the image nothing counts.

    Source: Sternberg (1983), Computer 16(1), 22-34; ImageJ, ij/plugin/filter/BackgroundSubtracter.java.

    >>> import cellkit as ck
    >>> picture, truth = ck.io.fluorescence_field(128)
    >>> image = ck.Sample.of(image=picture)["image"]
    >>> flat = ck.stages.background(image, radius=20)
    >>> bool(flat[truth == 0].mean() < image[truth == 0].mean())
    True
    """
    opened = _opened_by_disc if method == "tophat" else _opened_by_ball
    return by_channel(image, lambda part: part - opened(part, radius), together=())


def _opened_by_disc(part: np.ndarray, radius: float) -> np.ndarray:
    from cellkit.stages import _disc

    half = _disc.chords(radius)
    eroded = _disc.erode(part, half, np.inf)
    return -_disc.erode(np.negative(eroded, out=eroded), half, np.inf)


def _opened_by_ball(part: np.ndarray, radius: float) -> np.ndarray:
    from cellkit.stages import _disc

    step = _shrink(radius)
    height, width = part.shape
    small = part
    if step > 1:
        wide = cv2.copyMakeBorder(part, 0, -height % step, 0, -width % step, cv2.BORDER_REPLICATE)
        small = wide.reshape(wide.shape[0] // step, step, wide.shape[1] // step, step).min(axis=(1, 3))
    ball = _disc.ball(radius, _BALL_UNIT, step)
    risen = _disc.erode_ball(np.ascontiguousarray(small), ball)
    surface = -_disc.erode_ball(np.negative(risen, out=risen), ball)
    if step > 1:
        surface = cv2.resize(surface, (wide.shape[1], wide.shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.minimum(surface[:height, :width], part)
