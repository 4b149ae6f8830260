"""A network as it predicts: normalisation in front, the head's activation behind."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cellkit.models.card import Card, Head

__all__ = ["Inference", "activate", "fold_norms"]


class Inference(nn.Module):
    """Maps images, float32 (n, c, y, x) in the card's input range, to what its head means, as float32.

    Dense networks give probabilities (n, k, y, x) in [0, 1]; detectors the list of dictionaries that torchvision's do,
    and normalise by themselves.
    """

    def __init__(self, network: nn.Module, card: Card) -> None:
        super().__init__()
        self.network = network
        self.head = card.head
        shape = (1, card.channels, 1, 1)
        self.normalises = card.task == "dense" and bool(card.mean or card.std)
        if self.normalises:
            self.register_buffer("mean", torch.tensor(card.mean or (0.0,) * card.channels).reshape(shape))
            self.register_buffer("std", torch.tensor(card.std or (1.0,) * card.channels).reshape(shape))

    def forward(self, images: torch.Tensor) -> Any:
        """Return probabilities, or a list with one dictionary an image."""
        if self.head in ("boxes", "masks"):
            return self.network(list(images))
        if self.normalises:
            images = (images - self.mean) / self.std
        return activate(self.network(images).float(), self.head)


def activate(logits: torch.Tensor, head: Head) -> torch.Tensor:
    """Return the probabilities that logits (n, k, y, x) of a dense head stand for."""
    return logits.softmax(1) if head in ("softmax", "border") else logits.sigmoid()


def fold_norms(network: nn.Module) -> nn.Module:
    """Fold each batch normalisation that follows a convolution in a `Sequential` into its weights; return `network`.

    For prediction only: the network, which must be in evaluation mode, computes the same but for rounding, in fewer
    passes over its activations.
    """
    for child in network.children():
        fold_norms(child)
    if isinstance(network, nn.Sequential):
        for index, (first, second) in enumerate(pairwise(list(network))):
            if type(first) is nn.Conv2d and isinstance(second, nn.BatchNorm2d) and second.track_running_stats:
                network[index] = fuse_conv_bn_eval(first, second)
                network[index + 1] = nn.Identity()
    return network
