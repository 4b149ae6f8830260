"""FCN-8s: scores at strides 8, 16 and 32, added."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from cellkit.models._blocks import initialise
from cellkit.models._choices import EncoderWeights, Norm
from cellkit.models._vgg import FACTORS, vgg16

__all__ = ["FCN8"]


class FCN8(nn.Module):
    """VGG-16 with its fully connected layers as convolutions, and learned upsampling that begins as bilinear.

    Source: Long, Shelhamer & Darrell, Fully Convolutional Networks, CVPR 2015, arXiv:1411.4038, section 4.2; but
    same-padding in place of a border of 100 pixels and cropping, and scores that begin random, not at 0.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        *,
        width: int,
        head_channels: int,
        dropout: float,
        norm: Norm,
        encoder_weights: EncoderWeights,
    ) -> None:
        super().__init__()
        widths = [factor * width for factor in FACTORS]
        self.head = nn.Sequential(
            nn.Conv2d(widths[4], head_channels, 7, padding=3),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
            nn.Conv2d(head_channels, head_channels, 1),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
            nn.Conv2d(head_channels, outputs, 1),
        )
        self.score4 = nn.Conv2d(widths[3], outputs, 1)
        self.score3 = nn.Conv2d(widths[2], outputs, 1)
        initialise(self)
        self.up5 = _bilinear(outputs, 2)
        self.up4 = _bilinear(outputs, 2)
        self.up3 = _bilinear(outputs, 8)
        self.down = vgg16(channels, width, len(FACTORS), norm, encoder_weights)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (n, channels, y, x) to logits (n, outputs, y, x); y and x are multiples of 32."""
        pooled = []
        features = images
        for stage in self.down:
            features = functional.max_pool2d(stage(features), 2)
            pooled.append(features)
        scores = self.up5(self.head(features)) + self.score4(pooled[3])
        return self.up3(self.up4(scores) + self.score3(pooled[2]))


def _bilinear(outputs: int, factor: int) -> nn.ConvTranspose2d:
    """Return a transposed convolution that enlarges each channel by `factor`, and begins as bilinear interpolation."""
    layer = nn.ConvTranspose2d(outputs, outputs, 2 * factor, factor, factor // 2, bias=False)
    ramp = 1 - (torch.arange(2 * factor) + 0.5 - factor).abs() / factor
    with torch.no_grad():
        layer.weight.copy_(torch.eye(outputs)[:, :, None, None] * torch.outer(ramp, ramp))
    return layer
