"""The networks that cellkit builds itself, by name. Torch is imported by each function, not here."""

from __future__ import annotations

from typing import Annotated, Any

from cellkit.core import Span
from cellkit.models._choices import EncoderWeights, Norm, Smooth, Upsampling, Width, halvings
from cellkit.models.architecture import architecture

__all__ = ["fcn8", "segnet", "unet", "unet_compact", "unet_vgg16bn"]

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


@architecture(
    name="unet-vgg16bn",
    task="dense",
    source="after Iglovikov & Shvets, 2018, arXiv:1801.05746; VGG-16: Simonyan & Zisserman, ICLR 2015, arXiv:1409.1556",
    divisor=32,
)
def unet_vgg16bn(
    channels: int,
    outputs: int,
    /,
    *,
    width: Width = 64,
    bottom_convolutions: Annotated[int, Span(0, 16)] = 4,
    upsampling: Upsampling = "nearest",
    norm: Norm = "batch",
    encoder_weights: EncoderWeights = "none",
) -> Any:
    """U-Net whose way down is VGG-16 of `width` channels at the top, batch-normalised or not.

    `bottom_convolutions`: 3 x 3 convolutions after the fifth pooling, at stride 32. `encoder_weights`: ImageNet's are
    for width 64.
    """
    from cellkit.models._vgg import VGGUNet

    return VGGUNet(
        channels,
        outputs,
        width=width,
        bottom_convolutions=bottom_convolutions,
        upsampling=upsampling,
        norm=norm,
        encoder_weights=encoder_weights,
    )


@architecture(
    name="segnet", task="dense", source="Badrinarayanan et al., TPAMI 2017, arXiv:1511.00561", divisor=halvings
)
def segnet(
    channels: int,
    outputs: int,
    /,
    *,
    width: Width = 64,
    depth: Annotated[int, Span(1, 5)] = 5,
    norm: Norm = "batch",
    encoder_weights: EncoderWeights = "none",
) -> Any:
    """SegNet: the first `depth` stages of VGG-16 and their mirror image, joined by where the maxima of pooling lay."""
    from cellkit.models._segnet import SegNet

    return SegNet(channels, outputs, width=width, depth=depth, norm=norm, encoder_weights=encoder_weights)


@architecture(name="fcn8", task="dense", source="Long et al., CVPR 2015, arXiv:1411.4038", divisor=32)
def fcn8(
    channels: int,
    outputs: int,
    /,
    *,
    width: Width = 64,
    head_channels: Annotated[int, Span(1, 8192)] = 4096,
    dropout: Annotated[float, Span(0, 0.95)] = 0.5,
    norm: Norm = "none",
    encoder_weights: EncoderWeights = "none",
) -> Any:
    """FCN-8s on VGG-16: scores at strides 8, 16 and 32, added. 134 million parameters; `head_channels` holds most."""
    from cellkit.models._fcn8 import FCN8

    return FCN8(
        channels,
        outputs,
        width=width,
        head_channels=head_channels,
        dropout=dropout,
        norm=norm,
        encoder_weights=encoder_weights,
    )
