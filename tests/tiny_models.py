"""A tiny, quick instance of every registered architecture, for tests."""

from __future__ import annotations

from typing import Any

_ENCODER = {"encoder": "tu-test_resnet"}  # 0.4 million parameters
_DETECTOR = {
    **_ENCODER,
    "anchor_sizes": (8.0, 16.0, 32.0),
    "aspect_ratios": (1.0,),
    "proposals": 50,
    "boxes_per_image": 20,
    "pyramid_channels": 16,
    "head_channels": 32,
}

TINY: dict[str, dict[str, Any]] = {
    "deeplabv3": {**_ENCODER, "decoder_channels": 8},
    "deeplabv3plus": {**_ENCODER, "decoder_channels": 8},
    "dpt": {"encoder": "tu-test_vit", "decoder_channels": 8},
    "fcn8": {"width": 4, "head_channels": 16},
    "faster-rcnn": _DETECTOR,
    "fpn": {**_ENCODER, "pyramid_channels": 8, "decoder_channels": 64},
    "linknet": _ENCODER,
    "manet": {**_ENCODER, "decoder_channels": (16, 16, 16, 16, 16), "attention_channels": 8},
    "mask-rcnn": _DETECTOR,
    "pan": {**_ENCODER, "decoder_channels": 8},
    "pspnet": {**_ENCODER, "decoder_channels": 8},
    "segformer": {**_ENCODER, "decoder_channels": 16},
    "segnet": {"width": 4, "depth": 3},
    "unet": {"width": 4, "depth": 2},
    "unet-compact": {"width": 8, "most": 16, "depth": 2},
    "unet-smp": {**_ENCODER, "decoder_channels": (16, 8, 8, 8, 8)},
    "unet-vgg16bn": {"width": 4},
    "unetplusplus": {**_ENCODER, "decoder_channels": (16, 8, 8, 8, 8)},
    "upernet": {**_ENCODER, "decoder_channels": 8},
}
"""Parameters by architecture."""


def tiny(name: str, channels: int = 1, outputs: int = 1, seed: int = 0) -> Any:
    """Return a tiny network of that architecture in eval mode, its weights drawn from `seed` alone."""
    import torch

    from cellkit.models import build

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(name, channels, outputs, TINY[name]).eval()
    for module in network.modules():
        # Residual branches of timm begin multiplied by 0, which would hide all that they do.
        if isinstance(module, torch.nn.BatchNorm2d) and not module.weight.any():
            torch.nn.init.ones_(module.weight)
    return network
