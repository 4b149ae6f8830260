"""U-Net, with same-padding, and a residual one made for CPUs."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from cellkit.models._blocks import BatchNorm, UpConvolution, convolution, double, enlarge, initialise
from cellkit.models._choices import Norm, Smooth, Upsampling

__all__ = ["CompactUNet", "UNet"]


class UNet(nn.Module):
    """Two convolutions a level, halved by max-pooling and doubled by up-convolutions, levels joined by concatenation.

    Source: Ronneberger, Fischer & Brox, U-Net, MICCAI 2015, arXiv:1505.04597, figure 1; but same-padding, so that the
    output has the size of the input, and no dropout.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        *,
        width: int,
        depth: int,
        final_convolutions: int,
        upsampling: Upsampling,
        norm: Norm,
    ) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(double(a, b, norm) for a, b in pairwise([channels, *widths]))
        self.up = nn.ModuleList(UpConvolution(2 * w, w, upsampling) for w in widths[:-1])
        self.merge = nn.ModuleList(double(2 * w, w, norm) for w in widths[1:-1])
        finals = [convolution(2 * width if k == 0 else width, width, norm) for k in range(final_convolutions)]
        self.final = nn.Sequential(*finals)
        self.head = nn.Conv2d(width if finals else 2 * width, outputs, 1)
        initialise(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (n, channels, y, x) to logits (n, outputs, y, x); y and x are multiples of 2 to the power of depth."""
        skips = []
        features = images
        for block in self.down[:-1]:
            skips.append(block(features))
            features = functional.max_pool2d(skips[-1], 2)
        features = self.down[-1](features)
        for level in range(len(self.up) - 1, -1, -1):
            features = torch.cat([skips.pop(), self.up[level](features)], 1)
            features = self.merge[level - 1](features) if level else self.final(features)
        return self.head(features)


class _Residual(nn.Module):
    """Two convolutions beside a shortcut.

    Source: He et al., Deep Residual Learning, CVPR 2016, arXiv:1512.03385, figure 2 and option B for the shortcut.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs, "batch", stride=stride)
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), BatchNorm(outputs))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), BatchNorm(outputs))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.second(self.first(features)) + self.shortcut(features), inplace=True)


class CompactUNet(nn.Module):
    """A U-Net of residual blocks with few channels: halved by strides, joined by sums, batch-normalised throughout.

    Level k has width x growth^k channels, at most `most`. Going up, channels are reduced by a 1 x 1 convolution before
    the upsampling, where it costs a quarter of what it would after.

    Source: the shape is the U-Net's (arXiv:1505.04597); sums in place of concatenation are those of LinkNet, Chaurasia
    & Culurciello, VCIP 2017, arXiv:1707.03718.
    """

    def __init__(  # noqa: PLR0913
        self,
        channels: int,
        outputs: int,
        *,
        width: int,
        growth: float,
        most: int,
        depth: int,
        blocks: int,
        upsampling: Smooth,
    ) -> None:
        super().__init__()
        # Multiples of 8 fill the vector registers of a CPU.
        widths = [min(most, max(width, 8 * round(width * growth**k / 8))) for k in range(depth + 1)]
        self.mode = upsampling
        self.down = nn.ModuleList()
        for level, (before, after) in enumerate(pairwise([channels, *widths])):
            first = _Residual(before, after, 1 if level == 0 else 2)
            self.down.append(nn.Sequential(first, *(_Residual(after, after) for _ in range(blocks - 1))))
        self.reduce = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(widths))
        self.up = nn.ModuleList(_Residual(w, w) for w in widths[:-1])
        self.head = nn.Conv2d(width, outputs, 1)
        initialise(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (n, channels, y, x) to logits (n, outputs, y, x); y and x are multiples of 2 to the power of depth."""
        skips = []
        features = images
        for block in self.down[:-1]:
            features = block(features)
            skips.append(features)
        features = self.down[-1](features)
        for level in range(len(self.up) - 1, -1, -1):
            features = self.up[level](enlarge(self.reduce[level](features), self.mode) + skips.pop())
        return self.head(features)
