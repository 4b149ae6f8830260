"""The networks that cellkit builds itself, by name. Torch is imported by each function, not here."""

from __future__ import annotations

from typing import Annotated, Any

from cellkit.core import Span
from cellkit.models._choices import Norm, Smooth, Upsampling, Width, halvings
from cellkit.models.architecture import architecture

__all__ = ["unet", "unet_compact"]

# Every parameter is one of a published network; a record of them would only hide their names from a recipe.
# ruff: noqa: PLR0913

Depth = Annotated[int, Span(1, 6)]


@architecture(name="unet", task="dense", source="Ronneberger et al., MICCAI 2015, arXiv:1505.04597", divisor=halvings)
def unet(
    channels: int,
    outputs: int,
    /,
    *,
    width: Width = 64,
    depth: Depth = 4,
    final_convolutions: Annotated[int, Span(0, 4)] = 2,
    upsampling: Upsampling = "nearest",
    norm: Norm = "none",
) -> Any:
    """U-Net of `width` channels at the top, doubled at each of `depth` halvings: 64 to 1024 in the paper.

    `final_convolutions`: 3 x 3 convolutions after the last concatenation, before the outputs; 3 is one more, 0 two
    fewer than in the paper. `upsampling`: by interpolation before a 2 x 2 convolution, or learned (``transposed``).
    Padded, so that the output has the size of the input; the paper's loses 92 pixels a side.
    """
    from cellkit.models._unet import UNet

    return UNet(
        channels,
        outputs,
        width=width,
        depth=depth,
        final_convolutions=final_convolutions,
        upsampling=upsampling,
        norm=norm,
    )


@architecture(
    name="unet-compact",
    task="dense",
    source="after Ronneberger et al., MICCAI 2015, arXiv:1505.04597, and He et al., CVPR 2016, arXiv:1512.03385",
    divisor=halvings,
)
def unet_compact(
    channels: int,
    outputs: int,
    /,
    *,
    width: Width = 16,
    growth: Annotated[float, Span(1, 4)] = 2.0,
    most: Width = 128,
    depth: Depth = 4,
    blocks: Annotated[int, Span(1, 8)] = 1,
    upsampling: Smooth = "nearest",
) -> Any:
    """Residual U-Net with few channels, for CPUs: 1.0 million parameters, or 1.8 with `width` 24 and `most` 160.

    `growth`: factor from one level's channels to the next's, up to `most`. `blocks`: residual blocks a level on the way
    down; on the way up there is one. Batch-normalised.
    """
    from cellkit.models._unet import CompactUNet

    return CompactUNet(
        channels,
        outputs,
        width=width,
        growth=growth,
        most=max(width, most),
        depth=depth,
        blocks=blocks,
        upsampling=upsampling,
    )
