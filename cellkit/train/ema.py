"""A running mean of a network's weights, which often predicts better than the weights of any one step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cellkit.core import UsageError

__all__ = ["Ema"]


class Ema:
    """Exponential moving average of the weights and buffers of `network`; `update` after each step of the optimiser.

    ``mean = d mean + (1 - d) weights``, with d rising from 0.1 as ``min(decay, (1 + t) / (10 + t))`` over updates t
    where `warmup`, so that the weights of the beginning are soon forgotten. Numbers that are not fractions (counts of
    batches) are copied. Kept in float32 at least, where the network's weights are. Source: Polyak & Juditsky 1992;
    warm-up as in TensorFlow's ExponentialMovingAverage.

    Raises `UsageError` for a decay that is not at least 0 and below 1.
    """

    def __init__(self, network: nn.Module, decay: float = 0.999, *, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise UsageError(f"ema: decay: wanted at least 0 and below 1, got {decay!r}")
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self.mean: dict[str, Tensor] = {name: _copy(value) for name, value in _weights(network).items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the present weights. Raises `UsageError` for a network of another make."""
        now = _weights(network)
        self._same(now)
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay
        means, values = [], []
        for name, mean in self.mean.items():
            value = now[name].detach()
            if mean.is_floating_point():
                means.append(mean)
                values.append(value.to(mean))
            else:
                mean.copy_(value)
        torch._foreach_lerp_(means, values, 1 - decay)
        self.updates += 1

    @torch.no_grad()
    def copy_to(self, network: nn.Module) -> None:
        """Write the mean into the weights and buffers of `network`. Raises `UsageError` for one of another make."""
        now = _weights(network)
        self._same(now)
        for name, value in now.items():
            value.copy_(self.mean[name])

    @contextlib.contextmanager
    def applied(self, network: nn.Module) -> Iterator[nn.Module]:
        """Give `network` the mean for the length of a ``with`` block (a validation), and its own weights back after."""
        kept = {name: value.detach().clone() for name, value in _weights(network).items()}
        self.copy_to(network)
        try:
            yield network
        finally:
            with torch.no_grad():
                for name, value in _weights(network).items():
                    value.copy_(kept[name])

    def to(self, device: torch.device | str) -> Ema:
        """Move the mean to `device`; returns itself."""
        self.mean = {name: value.to(device) for name, value in self.mean.items()}
        return self

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold."""
        return {"updates": self.updates, "mean": dict(self.mean)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint; `decay` and `warmup` stay as they are. Raises `UsageError` for another network's."""
        self._same(state["mean"])
        for name, value in state["mean"].items():
            self.mean[name].copy_(value)
        self.updates = int(state["updates"])

    def _same(self, other: dict[str, Tensor]) -> None:
        for name in self.mean.keys() ^ other.keys():
            raise UsageError(f"ema: {name!r} is not in both networks; the mean is that of another network")
        for name, value in other.items():
            if value.shape != self.mean[name].shape:
                raise UsageError(f"ema: {name}: wanted {tuple(self.mean[name].shape)}, got {tuple(value.shape)}")


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.state_dict())


def _copy(value: Tensor) -> Tensor:
    small = value.is_floating_point() and value.dtype in (torch.float16, torch.bfloat16)
    return value.detach().clone().to(torch.float32) if small else value.detach().clone()
