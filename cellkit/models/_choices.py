"""What the parameters of several architectures have in common. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from cellkit.core import Span

__all__ = ["EncoderWeights", "Norm", "Smooth", "Upsampling", "Width", "halvings"]

EncoderWeights = Literal["none", "imagenet"]
Norm = Literal["none", "batch"]
Smooth = Literal["nearest", "bilinear"]
Upsampling = Literal["nearest", "bilinear", "transposed"]
Width = Annotated[int, Span(1, 1024, "channels")]


def halvings(parameters: Mapping[str, Any]) -> int:
    """Return the divisor of a network that halves `depth` times."""
    return int(2 ** parameters["depth"])
