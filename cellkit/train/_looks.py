"""Changes of a picture's values: light, colours, stains, noise, sharpness.

Each function takes a picture, float32 (y, x, c) with values nominally in [0, 1], which it may overwrite, and draws what
it does to it. One that is about red, green and blue leaves pictures of other than three channels as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np

from cellkit.core import Span

__all__ = ["LOOKS"]

Rng: TypeAlias = np.random.Generator
_ONE = np.float32(1)
_LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Optical density of red, green and blue per unit of hematoxylin, eosin and DAB: Ruifrok & Johnston (2001)."""
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_DARKEST = np.float32(1 / 255)
_KEPT = 1 << 21
_GREY = 0.02
"""Mean difference between the largest and smallest of red, green and blue below which a picture counts as grey."""


def brightness(image: np.ndarray, rng: Rng, /, *, amount: Annotated[float, Span(0, 1)] = 0.2) -> np.ndarray:
    """Add up to `amount`, or take it away."""
    image += np.float32(rng.uniform(-amount, amount))
    return image


def gain(image: np.ndarray, rng: Rng, /, *, factor: Annotated[float, Span(1, 10)] = 1.3) -> np.ndarray:
    """Multiply, as a longer or shorter exposure does, by up to `factor` or its inverse."""
    image *= np.float32(_about_one(rng, factor))
    return image


def white_balance(image: np.ndarray, rng: Rng, /, *, factor: Annotated[float, Span(1, 5)] = 1.3) -> np.ndarray:
    """Multiply each channel by a factor of its own, up to `factor` or its inverse, as lamps and cameras differ."""
    factors = [_about_one(rng, factor) for _ in range(image.shape[2])]
    image *= np.array(factors, np.float32)
    return image


def contrast(image: np.ndarray, rng: Rng, /, *, factor: Annotated[float, Span(1, 10)] = 1.4) -> np.ndarray:
    """Multiply what lies above and below the picture's mean by up to `factor` or its inverse."""
    image -= (mean := np.float32(image.mean(dtype=np.float64)))
    image *= np.float32(_about_one(rng, factor))
    image += mean
    return image


def gamma(image: np.ndarray, rng: Rng, /, *, factor: Annotated[float, Span(1, 5)] = 1.5) -> np.ndarray:
    """Raise values to a power up to `factor` or its inverse; below 0 they become 0."""
    import cv2

    np.maximum(image, np.float32(0), out=image)
    return cv2.pow(image, _about_one(rng, factor)).reshape(image.shape)


def shade(image: np.ndarray, rng: Rng, /, *, factor: Annotated[float, Span(1, 5)] = 1.4) -> np.ndarray:
    """Light unevenly: multiply by a smooth field that reaches up to `factor` or its inverse."""
    import cv2

    height, width = image.shape[:2]
    coarse = rng.uniform(-math.log(factor), math.log(factor), (3, 3)).astype(np.float32)
    field = cv2.exp(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR))
    image *= field.reshape(height, width, 1)
    return image


def saturation(image: np.ndarray, rng: Rng, /, *, amount: Annotated[float, Span(0, 1)] = 0.4) -> np.ndarray:
    """Make colours stronger or weaker by up to `amount`; at 1 they may vanish."""
    factor = 1 + rng.uniform(-amount, amount)
    return _mixed(image, factor * np.eye(3) + (1 - factor) * _LUMINANCE)


def hue(image: np.ndarray, rng: Rng, /, *, degrees: Annotated[float, Span(0, 180, "degrees")] = 20.0) -> np.ndarray:
    """Turn the circle of colours by up to `degrees` to either side; luminance stays (a turn of I and Q in YIQ)."""
    angle = math.radians(rng.uniform(-degrees, degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    turn = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    return _mixed(image, np.linalg.inv(_TO_YIQ) @ turn @ _TO_YIQ)


def stain_jitter(
    image: np.ndarray,
    rng: Rng,
    /,
    *,
    amount: Annotated[float, Span(0, 1)] = 0.2,
    offset: Annotated[float, Span(0, 0.5)] = 0.02,
) -> np.ndarray:
    """Change how much hematoxylin, eosin and DAB there is: each by a factor up to 1 ± `amount`, and ± `offset` more.

    Amounts are optical densities in units of log 255, as the stage `stain` measures them. Pictures without colour are
    not stained and stay as they are.

    Source: Ruifrok & Johnston (2001), Anal. Quant. Cytol. Histol. 23, 291-299; Tellez et al. (2018), IEEE TMI 37,
    2126-2136 (the jitter).
    """
    import cv2

    factors, more = rng.uniform(1 - amount, 1 + amount, 3), rng.uniform(-offset, offset, 3)
    if image.shape[2] != 3 or _is_grey(image):
        return image
    # A row of densities d holds the stains d M^-1; changed ones s give back s M.
    matrix = np.linalg.inv(_STAINS) @ np.diag(factors) @ _STAINS
    constant = -math.log(255) * (more @ _STAINS)
    light = cv2.log(np.maximum(image, _DARKEST))
    changed = cv2.transform(light, np.column_stack([matrix.T, constant]).astype(np.float32))
    return cv2.exp(changed)


def invert(image: np.ndarray, _: Rng, /) -> np.ndarray:
    """Turn dark into bright: 1 - value."""
    return np.subtract(_ONE, image, out=image)


def channel_drop(image: np.ndarray, rng: Rng, /) -> np.ndarray:
    """Set one channel of several to 0."""
    if image.shape[2] > 1:
        image[..., rng.integers(image.shape[2])] = 0
    return image


def channel_shuffle(image: np.ndarray, rng: Rng, /) -> np.ndarray:
    """Put the channels into another order, all orders as often."""
    if image.shape[2] == 1:
        return image
    return np.ascontiguousarray(image[..., rng.permutation(image.shape[2])])


def grayscale(image: np.ndarray, _: Rng, /) -> np.ndarray:
    """Take the colours away: red, green and blue each become the luminance."""
    return _mixed(image, np.tile(_LUMINANCE, (3, 1)))


def tint(image: np.ndarray, rng: Rng, /, *, amount: Annotated[float, Span(0, 1)] = 0.5) -> np.ndarray:
    """Colour a grey picture: dark and bright each take a random colour, up to `amount` away from black and white.

    Pictures with colours of their own stay as they are.
    """
    dark, bright = rng.uniform(0, amount, 3), 1 - rng.uniform(0, amount, 3)
    if image.shape[2] != 3 or not _is_grey(image):
        return image
    image *= (bright - dark).astype(np.float32)
    image += dark.astype(np.float32)
    return image


def noise(image: np.ndarray, rng: Rng, /, *, sigma: Annotated[float, Span(0, 1)] = 0.05) -> np.ndarray:
    """Add Gaussian noise with a standard deviation up to `sigma`."""
    drawn = _normal(rng, image.shape) * np.float32(rng.uniform(0, sigma))
    image += drawn
    return image


def shot_noise(
    image: np.ndarray, rng: Rng, /, *, photons: Annotated[float, Span(1, 1e6, log=True)] = 100.0
) -> np.ndarray:
    """Add the noise of counting light, where a value of 1 stands for `photons` or more, up to a hundred times those.

    Gaussian with a variance of value / photons, which Poisson's comes close to from some ten photons on.
    """
    count = photons * math.exp(rng.uniform(0, math.log(100)))
    image += _normal(rng, image.shape) * np.sqrt(np.maximum(image, np.float32(0)) * np.float32(1 / count))
    return image


def blur(image: np.ndarray, rng: Rng, /, *, sigma: Annotated[float, Span(0, 20, "px")] = 1.5) -> np.ndarray:
    """Blur by a Gaussian with a standard deviation up to `sigma`."""
    return _blurred(image, rng.uniform(0, sigma))


def median_blur(image: np.ndarray, _: Rng, /, *, side: Literal[3, 5] = 3) -> np.ndarray:
    """Replace each value by the median of a square of this side around it, channel by channel."""
    import cv2

    planes = [cv2.medianBlur(np.ascontiguousarray(image[..., c]), side) for c in range(image.shape[2])]
    return np.stack(planes, axis=2)


def sharpen(
    image: np.ndarray,
    rng: Rng,
    /,
    *,
    amount: Annotated[float, Span(0, 10)] = 1.0,
    sigma: Annotated[float, Span(0.3, 20, "px")] = 1.0,
) -> np.ndarray:
    """Add up to `amount` of what a Gaussian blur by `sigma` takes away."""
    strength = np.float32(rng.uniform(0, amount))
    image += strength * (image - _blurred(image, sigma))
    return image


@lru_cache(maxsize=1)
def _normals() -> np.ndarray:
    values = np.random.default_rng(0).standard_normal(_KEPT, np.float32)
    values.flags.writeable = False
    return values


def _normal(rng: Rng, shape: tuple[int, ...]) -> np.ndarray:
    """Return normal deviates, float32, from a random place of a kept row of them: drawing took as long as all else."""
    count = math.prod(shape)
    if 2 * count > _KEPT:
        return rng.standard_normal(shape, np.float32)
    start = int(rng.integers(_KEPT - count))
    return _normals()[start : start + count].reshape(shape)


def _about_one(rng: Rng, factor: float) -> float:
    """Return a number from 1 / `factor` to `factor`, evenly by its logarithm."""
    return math.exp(rng.uniform(-math.log(factor), math.log(factor)))


def _mixed(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.transform(image, matrix.astype(np.float32)) if image.shape[2] == 3 else image


def _is_grey(image: np.ndarray) -> bool:
    few = image[:: max(1, image.shape[0] // 64), :: max(1, image.shape[1] // 64)]
    return float(np.ptp(few, axis=2).mean()) < _GREY


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    import cv2

    if sigma < 0.1:  # the nearest pixel would weigh less than 1e-21
        return image
    planes = [
        cv2.GaussianBlur(image[..., c : c + 4], (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
        for c in range(0, image.shape[2], 4)
    ]
    return (
        np.concatenate([p.reshape(*image.shape[:2], -1) for p in planes], axis=2)
        if len(planes) > 1
        else (planes[0].reshape(image.shape))
    )


LOOKS: Mapping[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        brightness, gain, white_balance, contrast, gamma, shade, saturation, hue, stain_jitter, invert, channel_drop,
        channel_shuffle, grayscale, tint, noise, shot_noise, blur, median_blur, sharpen,
    )
}  # fmt: skip
"""By name."""
