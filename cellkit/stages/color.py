"""From colours and channels to one intensity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import cv2
import numpy as np

from cellkit.core.errors import KindError, StageError
from cellkit.core.kinds import Image, Prob
from cellkit.core.stage import FromSample, Span, stage
from cellkit.stages._channels import channel_number

__all__ = ["channel", "grayscale", "invert", "stain", "to_rgb"]

_LUMINANCE = {"rec601": (0.299, 0.587, 0.114), "rec709": (0.2125, 0.7154, 0.0721)}

# Optical density of red, green and blue light per unit of each stain.
_STAINS = {"hematoxylin": (0.65, 0.70, 0.29), "eosin": (0.07, 0.99, 0.11), "dab": (0.27, 0.57, 0.78)}
_MIXTURES = {
    "hematoxylin-eosin-dab": ("hematoxylin", "eosin", "dab"),
    "hematoxylin-eosin": ("hematoxylin", "eosin"),
    "hematoxylin-dab": ("hematoxylin", "dab"),
}


@stage(reach=0, names=lambda _, names: names if len(names) == 1 else ())
def grayscale(image: Image, /, *, weights: Literal["rec601", "rec709", "mean"] = "rec601") -> Image:
    """Turn red, green and blue into one channel of luminance.

    `rec601` weighs 0.299, 0.587, 0.114 (as OpenCV and Pillow do), `rec709` 0.2125, 0.7154, 0.0721 (as scikit-image
    does); `mean` is the plain mean of any number of channels. One channel passes through unchanged.

    Raises `KindError` for the luminance of 2 or more than 3 channels.
    Source: ITU-R BT.601-7, section 2.5.1; ITU-R BT.709-6, item 3.2 (the figures scikit-image rounds it to).

    >>> import cellkit as ck
    >>> picture, truth = ck.io.stained_section(128)
    >>> image = ck.Sample.of(image=picture)["image"]
    >>> gray = ck.stages.grayscale(image)
    >>> image.shape, gray.shape
    ((128, 128, 3), (128, 128, 1))
    """
    count = image.shape[2]
    if count == 1:
        return image
    if weights == "mean":
        mean = cv2.reduce(image.reshape(-1, count), 1, cv2.REDUCE_AVG)
        return mean.reshape(*image.shape[:2], 1)
    if count != 3:
        raise KindError(
            f"grayscale weighs red, green and blue, got {count} channels: "
            "choose one with `channel: {name: 0}`, or ask for `weights: mean`"
        )
    return cv2.transform(image, np.array([_LUMINANCE[weights]], np.float32))[..., None]


@stage(reach=0, names=lambda _, names: names if len(names) == 3 else ())
def to_rgb(image: Image, /) -> Image:
    """Make three equal channels of one, for a network that takes red, green and blue; three pass through unchanged.

    Raises `KindError` for another number of channels.

    >>> import cellkit as ck
    >>> picture, truth = ck.io.fluorescence_field(128)
    >>> image = ck.Sample.of(image=picture)["image"]
    >>> rgb = ck.stages.to_rgb(image)
    >>> image.shape, rgb.shape
    ((128, 128, 1), (128, 128, 3))
    """
    count = image.shape[2]
    if count == 3:
        return image
    if count != 1:
        raise KindError(
            f"to_rgb wants one channel, or red, green and blue, got {count}: choose one with `channel: {{name: 0}}`, "
            "or three under `read: channels`"
        )
    return cv2.merge([image[..., 0]] * 3)


def _channel_names(params: Mapping[str, Any], names: tuple[str, ...]) -> tuple[str, ...]:
    name = params["name"]
    if isinstance(name, str):
        return (name,)
    return (names[name],) if name < len(names) else ()


@stage(reach=0, names=_channel_names)
def channel(
    image: Image | Prob,
    /,
    *,
    name: Annotated[int | str, Span(0, 511)] = 0,
    names: Annotated[tuple[str, ...], FromSample("names:image")] = (),
) -> Image | Prob:
    """Pick one channel, by its number counted from 0 or by its name.

    Raises `StageError` where there is no such channel.

    >>> import cellkit as ck
    >>> picture, truth = ck.io.stained_section(128)
    >>> image = ck.Sample.of(image=picture)["image"]
    >>> red = ck.stages.channel(image, name=0)
    >>> red.shape
    (128, 128, 1)
    """
    index = channel_number("channel", name, image.shape[2], names, "image")
    return image[..., index : index + 1].copy()


@stage(reach=0, names=lambda params, _: (params["stain"],))
def stain(
    image: Image,
    /,
    *,
    stain: Literal["hematoxylin", "eosin", "dab"] = "hematoxylin",
    mixture: Literal["hematoxylin-eosin-dab", "hematoxylin-eosin", "hematoxylin-dab"] = "hematoxylin-eosin-dab",
) -> Image:
    """Tell how much of one stain a bright-field image of a stained section holds, by colour deconvolution.

    (y, x, 3) to (y, x, 1): the optical density -log(max(value, 1/255)) of each channel, in units of log 255, times the
    inverse of the matrix of the stains' colours; below 0 counts as 0. 0 is unstained, dense nuclei reach about 0.5.
    A `mixture` of two takes the colour perpendicular to both as the third. The scale is fixed, so that it depends on
    no other pixel; it is 2.49 times that of scikit-image, which counts densities in units of log 1,000,000.

    Raises `KindError` for other than 3 channels, `StageError` for a stain that the mixture lacks.
    Source: Ruifrok & Johnston (2001), Anal. Quant. Cytol. Histol. 23, 291-299.

    >>> import cellkit as ck
    >>> picture, truth = ck.io.stained_section(128)
    >>> image = ck.Sample.of(image=picture)["image"]
    >>> amount = ck.stages.stain(image, mixture="hematoxylin-eosin")
    >>> bool(amount[truth > 0].mean() > 3 * amount[truth == 0].mean())
    True
    """
    if image.shape[2] != 3:
        raise KindError(f"stain wants red, green and blue, got {image.shape[2]} channels; declare them under `read:`")
    members = _MIXTURES[mixture]
    if stain not in members:
        raise StageError(f"stain: {stain} is not part of {mixture}; choose another `mixture`")
    colors = [np.array(_STAINS[m]) for m in members]
    if len(colors) == 2:
        colors.append(np.cross(colors[0], colors[1]))
    weights = np.linalg.inv(np.array(colors))[:, members.index(stain)] / -math.log(255)
    light = np.maximum(image, np.float32(1 / 255))
    amount = cv2.transform(cv2.log(light, light), weights.astype(np.float32)[None])
    return np.maximum(amount, np.float32(0))[..., None]


@stage(reach=0)
def invert(image: Image | Prob, /) -> Image | Prob:
    """Turn dark into bright: 1 - value.

    >>> import cellkit as ck
    >>> picture, truth = ck.io.fluorescence_field(128)
    >>> image = ck.Sample.of(image=picture)["image"]
    >>> inverted = ck.stages.invert(image)
    >>> bool((inverted == 1 - image).all())
    True
    """
    return np.subtract(np.float32(1), image)
