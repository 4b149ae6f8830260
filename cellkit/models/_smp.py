"""Networks of segmentation_models_pytorch, made fit for tiles and for training on single images."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cellkit.core import UsageError
from cellkit.models._blocks import BatchNorm
from cellkit.models._choices import EncoderWeights
from cellkit.models._encoders import check_encoder, drop_unused, hub_weights, refusing

__all__ = ["decoder_widths", "smp_network"]


def smp_network(
    kind: str, channels: int, outputs: int, encoder: str, encoder_weights: EncoderWeights, side: int, **settings: Any
) -> nn.Module:
    """Return the network that segmentation_models_pytorch calls `kind`, with logits of the size of its input.

    `side` is the smallest that its input can have. Three things differ from the library: the last upsampling does not
    align corners (it would hang on the size of the input), batch normalisation of a single value a channel uses the
    running statistics (it would fail in training, after global pooling), and what the output does not hang on is left
    out. Raises `UsageError` for an encoder that is unknown or cannot be used so.
    """
    import segmentation_models_pytorch as smp

    check_encoder(encoder)
    weights = hub_weights(encoder, encoder_weights)
    with refusing(encoder):
        network = getattr(smp, kind)(
            encoder_name=encoder, encoder_weights=weights, in_channels=channels, classes=outputs, **settings
        )
        for module in network.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = BatchNorm
        _unalign(network.segmentation_head)
        drop_unused(network, lambda: [network(torch.zeros(1, channels, side, side))])
    return network


def decoder_widths(widths: tuple[int, ...], depth: int) -> tuple[int, ...]:
    """Return `widths`, one a level, deepest first. Raises `UsageError` where there are not `depth` of them."""
    if len(widths) != depth or min(widths, default=0) < 1:
        raise UsageError(f"decoder_channels: wanted {depth} positive numbers, one a level of depth, got {list(widths)}")
    return widths


def _unalign(head: nn.Module) -> None:
    for module in head.modules():
        if isinstance(module, nn.Upsample):
            module.align_corners = False


def vision_transformer(
    channels: int, outputs: int, encoder: str, encoder_weights: EncoderWeights, decoder_channels: int
) -> nn.Module:
    """Return a dense prediction transformer for inputs of any size that 32 divides. Raises `UsageError` as above."""
    check_encoder(encoder)
    if "patch16" not in encoder and not encoder.startswith("tu-test_vit"):
        raise UsageError(
            f"encoder {encoder!r}: dpt wants a vision transformer with patches of 16, as 'vit_small_patch16_224'"
        )
    settings = {
        "decoder_fusion_channels": decoder_channels,
        "decoder_intermediate_channels": tuple(decoder_channels * k for k in (1, 2, 4, 4)),
        "dynamic_img_size": True,
    }
    return smp_network("DPT", channels, outputs, encoder, encoder_weights, 64, **settings)
