"""SegNet: a decoder that puts values back to where max-pooling took them from."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from cellkit.models._blocks import convolution, initialise
from cellkit.models._choices import EncoderWeights, Norm
from cellkit.models._vgg import CONVOLUTIONS, FACTORS, vgg16

__all__ = ["SegNet", "pool", "unpool"]


class SegNet(nn.Module):
    """VGG-16 and its mirror image, joined by the places of the maxima alone.

    Source: Badrinarayanan, Kendall & Cipolla, SegNet, TPAMI 2017, arXiv:1511.00561, figure 2.
    """

    def __init__(
        self, channels: int, outputs: int, *, width: int, depth: int, norm: Norm, encoder_weights: EncoderWeights
    ) -> None:
        super().__init__()
        widths = [factor * width for factor in FACTORS[:depth]]
        self.up = nn.ModuleList()
        for level, (count, inside) in enumerate(zip(CONVOLUTIONS[:depth], widths, strict=True)):
            layers: list[nn.Module] = [convolution(inside, inside, norm) for _ in range(count - 1)]
            last = nn.Conv2d(inside, outputs, 3, padding=1) if level == 0 else None
            self.up.append(nn.Sequential(*layers, last or convolution(inside, widths[level - 1], norm)))
        initialise(self)
        self.down = vgg16(channels, width, depth, norm, encoder_weights)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (n, channels, y, x) to logits (n, outputs, y, x); y and x are multiples of 2 to the power of depth."""
        places = []
        features = images
        for stage in self.down:
            features, place = pool(stage(features))
            places.append(place)
        for level in range(len(self.up) - 1, -1, -1):
            features = self.up[level](unpool(features, places.pop()))
        return features


def pool(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the maxima (n, c, y/2, x/2) of 2 x 2 windows and where they lie: bool (n, c, 4, y/2, x/2).

    The first, row by row, where several are equal. Places are flags, not indices as of `torch.max_pool2d`: they take an
    eighth of the memory, need no scattering, and can be exported.
    """
    largest = functional.max_pool2d(features, 2)
    first = features[..., ::2, ::2] == largest
    second = (features[..., ::2, 1::2] == largest) & ~first
    taken = first | second
    third = (features[..., 1::2, ::2] == largest) & ~taken
    fourth = (features[..., 1::2, 1::2] == largest) & ~(taken | third)
    return largest, torch.stack([first, second, third, fourth], 2)


def unpool(features: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return (n, c, 2 y, 2 x) with each value of (n, c, y, x) at its place and 0 elsewhere."""
    # A product, not a choice: what makes a value not a number may have moved its place too, so all four are marked.
    spread = features.unsqueeze(2) * places.to(features.dtype)
    return functional.pixel_shuffle(spread.flatten(1, 2), 2)
