"""What several networks are made of: convolutions, upsampling, initial weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from cellkit.models._choices import Norm, Upsampling

__all__ = ["BatchNorm", "UpConvolution", "convolution", "double", "enlarge", "initialise"]


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that trains on single images too.

    Where one value a channel is all there is (a small image at the bottom of a network, or a global average), there is
    no variance, and torch fails: the running statistics are used then.
    """

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map (n, c, y, x) to the same shape."""
        if self.training and features.shape[0] * features.shape[2] * features.shape[3] == 1:
            known = (self.running_mean, self.running_var, self.weight, self.bias)
            return functional.batch_norm(features, *known, eps=self.eps)
        return super().forward(features)


def convolution(inputs: int, outputs: int, norm: Norm, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Return a same-padded convolution, batch normalisation where asked for, and ReLU."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=norm == "none")]
    if norm == "batch":
        layers.append(BatchNorm(outputs))
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


def double(inputs: int, outputs: int, norm: Norm) -> nn.Sequential:
    """Return two 3 x 3 convolutions, each with ReLU."""
    return nn.Sequential(convolution(inputs, outputs, norm), convolution(outputs, outputs, norm))


class UpConvolution(nn.Module):
    """Doubles height and width and changes the number of channels: the "up-convolution" of the U-Net, then ReLU.

    ``nearest`` and ``bilinear``: that upsampling, then a 2 x 2 convolution; ``transposed``: a learned 2 x 2 one.
    """

    def __init__(self, inputs: int, outputs: int, upsampling: Upsampling) -> None:
        super().__init__()
        self.mode = upsampling
        self.layer: nn.Module
        if upsampling == "transposed":
            self.layer = nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
        else:
            self.layer = nn.Conv2d(inputs, outputs, 2)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map (n, inputs, y, x) to (n, outputs, 2 y, 2 x)."""
        if self.mode != "transposed":
            # An even kernel has no middle: the row and column that it lacks are added at the far end.
            features = functional.pad(enlarge(features, self.mode), (0, 1, 0, 1))
        return functional.relu(self.layer(features), inplace=True)


def enlarge(features: torch.Tensor, mode: str) -> torch.Tensor:
    """Double height and width by ``nearest`` or ``bilinear`` interpolation, the same wherever a pixel lies."""
    # With align_corners=True the weights would hang on the size of the whole input, and tiles would not fit together.
    return functional.interpolate(
        features, scale_factor=2, mode=mode, align_corners=None if mode == "nearest" else False
    )


def initialise(network: nn.Module) -> None:
    """Draw the weights of convolutions before ReLU from a normal distribution of variance 2 / fan-in; biases are 0.

    Source: He et al., Delving Deep into Rectifiers, ICCV 2015, arXiv:1502.01852, equation 10.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
