"""Networks of segmentation_models_pytorch, by name, on its encoders or timm's. Torch is imported by each function."""

from __future__ import annotations

from typing import Annotated, Any

from cellkit.core import Span, UsageError
from cellkit.models._choices import EncoderWeights as Weights
from cellkit.models._choices import Width, halvings
from cellkit.models.architecture import architecture

__all__ = [
    "deeplabv3",
    "deeplabv3plus",
    "dpt",
    "fpn",
    "linknet",
    "manet",
    "pan",
    "pspnet",
    "segformer",
    "unet_smp",
    "unetplusplus",
    "upernet",
]

Levels = Annotated[int, Span(3, 5)]


@architecture(
    name="unet-smp",
    task="dense",
    source="Ronneberger et al., MICCAI 2015, arXiv:1505.04597; on an encoder, as in segmentation_models_pytorch",
    divisor=halvings,
)
def unet_smp(
    channels: int,
    outputs: int,
    /,
    *,
    encoder: str = "resnet34",
    encoder_weights: Weights = "none",
    depth: Levels = 5,
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16),
) -> Any:
    """U-Net on any encoder of segmentation_models_pytorch, or of timm as ``tu-`` and its name there.

    `depth`: how often the encoder halves. `decoder_channels`: one a level of depth, deepest first.
    """
    from cellkit.models._smp import decoder_widths, smp_network

    widths = decoder_widths(decoder_channels, depth)
    return smp_network(
        "Unet", channels, outputs, encoder, encoder_weights, 64, encoder_depth=depth, decoder_channels=widths
    )


@architecture(name="unetplusplus", task="dense", source="Zhou et al., DLMIA 2018, arXiv:1807.10165", divisor=halvings)
def unetplusplus(
    channels: int,
    outputs: int,
    /,
    *,
    encoder: str = "resnet34",
    encoder_weights: Weights = "none",
    depth: Levels = 5,
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16),
) -> Any:
    """U-Net++: a U-Net whose skip connections are convolved and densely linked. Parameters: see unet-smp."""
    from cellkit.models._smp import decoder_widths, smp_network

    widths = decoder_widths(decoder_channels, depth)
    return smp_network(
        "UnetPlusPlus", channels, outputs, encoder, encoder_weights, 64, encoder_depth=depth, decoder_channels=widths
    )


@architecture(
    name="manet",
    task="dense",
    source="Fan et al., IEEE Access 2020, doi:10.1109/ACCESS.2020.3025372",
    divisor=halvings,
    context="WHOLE",
)
def manet(
    channels: int,
    outputs: int,
    /,
    *,
    encoder: str = "resnet34",
    encoder_weights: Weights = "none",
    depth: Levels = 5,
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16),
    attention_channels: Annotated[int, Span(1, 1024)] = 64,
) -> Any:
    """MA-Net: a U-Net with attention among positions and among channels. Other parameters: see unet-smp."""
    from cellkit.models._smp import decoder_widths, smp_network

    settings = {
        "encoder_depth": depth,
        "decoder_channels": decoder_widths(decoder_channels, depth),
        "decoder_pab_channels": attention_channels,
    }
    return smp_network("MAnet", channels, outputs, encoder, encoder_weights, 64, **settings)


@architecture(
    name="linknet", task="dense", source="Chaurasia & Culurciello, VCIP 2017, arXiv:1707.03718", divisor=halvings
)
def linknet(
    channels: int, outputs: int, /, *, encoder: str = "resnet18", encoder_weights: Weights = "none", depth: Levels = 5
) -> Any:
    """LinkNet: as a U-Net, but levels are joined by sums. Parameters: see unet-smp."""
    from cellkit.models._smp import smp_network

    return smp_network("Linknet", channels, outputs, encoder, encoder_weights, 64, encoder_depth=depth)


@architecture(
    name="pspnet", task="dense", source="Zhao et al., CVPR 2017, arXiv:1612.01105", divisor=halvings, context="WHOLE"
)
def pspnet(
    channels: int,
    outputs: int,
    /,
    *,
    encoder: str = "resnet34",
    encoder_weights: Weights = "none",
    depth: Levels = 3,
    decoder_channels: Width = 512,
) -> Any:
    """PSPNet: averages over the whole input and its halves, thirds and sixths. Parameters: see unet-smp."""
    from cellkit.models._smp import smp_network

    settings = {"encoder_depth": depth, "psp_out_channels": decoder_channels, "upsampling": 2**depth}
    return smp_network("PSPNet", channels, outputs, encoder, encoder_weights, 64, **settings)


@architecture(
    name="fpn",
    task="dense",
    source="Kirillov et al., CVPR 2019, arXiv:1901.02446; Lin et al., CVPR 2017, arXiv:1612.03144",
    divisor=halvings,
    context="WHOLE",
)
def fpn(
    channels: int,
    outputs: int,
    /,
    *,
    encoder: str = "resnet34",
    encoder_weights: Weights = "none",
    depth: Levels = 5,
    pyramid_channels: Width = 256,
    decoder_channels: Width = 128,
) -> Any:
    """Feature pyramid network: all levels brought to one size and added. Its group normalisation sees the whole input.

    `decoder_channels`: 64, 96, 128 ..., as there are 32 groups of at least two. Other parameters: see unet-smp.
    """
    from cellkit.models._smp import smp_network

    if decoder_channels % 32 or decoder_channels < 64:
        raise UsageError(f"decoder_channels: wanted a multiple of 32 from 64 on, got {decoder_channels}")
    settings = {
        "encoder_depth": depth,
        "upsampling": 2 ** (depth - 3),
        "decoder_pyramid_channels": pyramid_channels,
        "decoder_segmentation_channels": decoder_channels,
    }
    return smp_network("FPN", channels, outputs, encoder, encoder_weights, 64, **settings)


@architecture(
    name="upernet", task="dense", source="Xiao et al., ECCV 2018, arXiv:1807.10221", divisor=halvings, context="WHOLE"
)
def upernet(
    channels: int,
    outputs: int,
    /,
    *,
    encoder: str = "resnet34",
    encoder_weights: Weights = "none",
    depth: Levels = 5,
    decoder_channels: Width = 256,
) -> Any:
    """UPerNet: PSPNet's averages at the bottom of a feature pyramid. Parameters: see unet-smp."""
    from cellkit.models._smp import smp_network

    settings = {"encoder_depth": depth, "decoder_channels": decoder_channels}
    return smp_network("UPerNet", channels, outputs, encoder, encoder_weights, 64, **settings)


@architecture(
    name="segformer",
    task="dense",
    source="Xie et al., NeurIPS 2021, arXiv:2105.15203",
    divisor=halvings,
    context="WHOLE",
)
def segformer(
    channels: int,
    outputs: int,
    /,
    *,
    encoder: str = "mit_b0",
    encoder_weights: Weights = "none",
    depth: Levels = 5,
    decoder_channels: Width = 256,
) -> Any:
    """SegFormer: a perceptron over the levels of a mix transformer, mit_b0 to mit_b5. Parameters: see unet-smp."""
    from cellkit.models._smp import smp_network

    settings = {"encoder_depth": depth, "decoder_segmentation_channels": decoder_channels}
    return smp_network("Segformer", channels, outputs, encoder, encoder_weights, 64, **settings)


@architecture(name="deeplabv3", task="dense", source="Chen et al., 2017, arXiv:1706.05587", divisor=8, context="WHOLE")
def deeplabv3(
    channels: int,
    outputs: int,
    /,
    *,
    encoder: str = "resnet34",
    encoder_weights: Weights = "none",
    decoder_channels: Width = 256,
) -> Any:
    """DeepLabV3: dilated convolutions, and an average over the whole input, at stride 8. Parameters: see unet-smp."""
    from cellkit.models._smp import smp_network

    settings = {"decoder_channels": decoder_channels, "encoder_output_stride": 8}
    return smp_network("DeepLabV3", channels, outputs, encoder, encoder_weights, 64, **settings)


@architecture(
    name="deeplabv3plus", task="dense", source="Chen et al., ECCV 2018, arXiv:1802.02611", divisor=16, context="WHOLE"
)
def deeplabv3plus(
    channels: int,
    outputs: int,
    /,
    *,
    encoder: str = "resnet34",
    encoder_weights: Weights = "none",
    decoder_channels: Width = 256,
) -> Any:
    """DeepLabV3+: DeepLabV3 at stride 16, refined by features of stride 4. Parameters: see unet-smp."""
    from cellkit.models._smp import smp_network

    settings = {"decoder_channels": decoder_channels, "encoder_output_stride": 16}
    return smp_network("DeepLabV3Plus", channels, outputs, encoder, encoder_weights, 64, **settings)


@architecture(name="pan", task="dense", source="Li et al., BMVC 2018, arXiv:1805.10180", divisor=128, context="WHOLE")
def pan(
    channels: int,
    outputs: int,
    /,
    *,
    encoder: str = "resnet34",
    encoder_weights: Weights = "none",
    decoder_channels: Width = 32,
) -> Any:
    """Pyramid attention network, at stride 16 with three halvings more. Parameters: see unet-smp."""
    from cellkit.models._smp import smp_network

    return smp_network("PAN", channels, outputs, encoder, encoder_weights, 128, decoder_channels=decoder_channels)


@architecture(
    name="dpt", task="dense", source="Ranftl et al., ICCV 2021, arXiv:2103.13413", divisor=32, context="WHOLE"
)
def dpt(
    channels: int,
    outputs: int,
    /,
    *,
    encoder: str = "tu-vit_small_patch16_224",
    encoder_weights: Weights = "none",
    decoder_channels: Width = 256,
) -> Any:
    """Dense prediction transformer on a vision transformer of timm with patches of 16 pixels. Parameters: see unet-smp.

    The position embedding is interpolated to the size of the input.
    """
    from cellkit.models._smp import vision_transformer

    return vision_transformer(channels, outputs, encoder, encoder_weights, decoder_channels)
