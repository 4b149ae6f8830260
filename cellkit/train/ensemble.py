"""Several dense networks as one, whose scores are the mean of theirs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cellkit.core import UsageError
from cellkit.models.card import Head
from cellkit.models.inference import activate

__all__ = ["Ensemble"]

_LEAST = 1e-7


class Ensemble(nn.Module):
    """Maps images (n, c, y, x) to the logits (n, k, y, x) whose probabilities are the mean of those of `networks`.

    All have the same `head` and take the same images. Probabilities nearer than 1e-7 to 0 or 1 are rounded to that.

    Raises `UsageError` where there is no network.
    """

    def __init__(self, networks: Sequence[nn.Module], head: Head) -> None:
        super().__init__()
        if not networks:
            raise UsageError("ensemble: wanted at least one network")
        self.networks = nn.ModuleList(networks)
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        mean = torch.stack([activate(network(images).float(), self.head) for network in self.networks]).mean(0)
        return mean.clamp_min(_LEAST).log() if self.head in ("softmax", "border") else torch.logit(mean, eps=_LEAST)
