"""The convolutions of VGG-16, and a U-Net on top of them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from cellkit.core import UsageError
from cellkit.models._blocks import UpConvolution, convolution, double, initialise
from cellkit.models._choices import EncoderWeights, Norm, Upsampling
from cellkit.models._encoders import fetch, refusing, smp_weights

__all__ = ["CONVOLUTIONS", "FACTORS", "VGGUNet", "vgg16"]

CONVOLUTIONS = (2, 2, 3, 3, 3)
"""How many convolutions each stage of VGG-16 has."""
FACTORS = (1, 2, 4, 8, 8)
"""Channels of each stage, as multiples of the first's."""


def vgg16(channels: int, width: int, depth: int, norm: Norm, encoder_weights: EncoderWeights) -> nn.ModuleList:
    """Return the first `depth` of the five stages of VGG-16, without the max-pooling between; the first has `width`.

    Source: Simonyan & Zisserman, ICLR 2015, arXiv:1409.1556, table 1, column D; 64 channels at first. Raises
    `UsageError` where weights are asked for and cannot be had.
    """
    stages = nn.ModuleList()
    before = channels
    for count, factor in zip(CONVOLUTIONS[:depth], FACTORS, strict=False):
        after = factor * width
        first, *rest = [before] + [after] * (count - 1)
        stages.append(nn.Sequential(convolution(first, after, norm), *(convolution(n, after, norm) for n in rest)))
        before = after
    initialise(stages)
    if encoder_weights == "imagenet":
        if width != 64:
            raise UsageError(f"encoder_weights: those of ImageNet are for VGG-16 of width 64, not {width}")
        name = "vgg16_bn" if norm == "batch" else "vgg16"
        with refusing(name):
            _load(stages, name)
    return stages


def _load(stages: nn.ModuleList, name: str) -> None:
    """Copy ImageNet's weights into the stages: the same layers in the same order, under other names."""
    from safetensors.torch import load_file

    stored: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(fetch(name, *smp_weights(name))).items():
        if key.startswith("features."):
            _, place, part = key.split(".")
            stored.setdefault(int(place), {})[part] = tensor
    layers = [m for m in stages.modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))]
    shift = torch.zeros(())
    with torch.no_grad():
        for layer, place in zip(layers, sorted(stored), strict=False):
            given = dict(stored[place])
            if isinstance(layer, nn.Conv2d):
                given["weight"] = _for_channels(given["weight"], layer.in_channels)
                shift = given["bias"] if layer.bias is not None else given.pop("bias")
                layer.load_state_dict(given)
            else:  # a bias that is subtracted with the mean again need not be added in the first place
                layer.load_state_dict({**given, "running_mean": given["running_mean"] - shift})


def _for_channels(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """Return weights for red, green and blue as weights for any number of channels, by summing or repeating them."""
    given = weight.shape[1]
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, [k % given for k in range(channels)]] * (given / channels)


class VGGUNet(nn.Module):
    """A U-Net whose way down is VGG-16, with more convolutions at the bottom, at stride 32.

    Source: Iglovikov & Shvets, TernausNet, arXiv:1801.05746, for the idea; VGG-16 as in `vgg16`.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        *,
        width: int,
        bottom_convolutions: int,
        upsampling: Upsampling,
        norm: Norm,
        encoder_weights: EncoderWeights,
    ) -> None:
        super().__init__()
        widths = [factor * width for factor in FACTORS]
        lowest = widths[-1]
        self.bottom = nn.Sequential(*(convolution(lowest, lowest, norm) for _ in range(bottom_convolutions)))
        sources = [*widths[1:], lowest]
        self.up = nn.ModuleList(UpConvolution(a, b, upsampling) for a, b in zip(sources, widths, strict=True))
        self.merge = nn.ModuleList(double(2 * w, w, norm) for w in widths)
        self.head = nn.Conv2d(width, outputs, 1)
        initialise(self)
        self.down = vgg16(channels, width, len(FACTORS), norm, encoder_weights)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (n, channels, y, x) to logits (n, outputs, y, x); y and x are multiples of 32."""
        skips = []
        features = images
        for stage in self.down:
            skips.append(stage(features))
            features = functional.max_pool2d(skips[-1], 2)
        features = self.bottom(features)
        for level in range(len(self.up) - 1, -1, -1):
            features = self.merge[level](torch.cat([skips.pop(), self.up[level](features)], 1))
        return self.head(features)
