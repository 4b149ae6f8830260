"""Optimisers by name, with typed parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import torch
from torch import nn

from cellkit.core import Span, UsageError
from cellkit.train._named import Named

__all__ = ["OPTIMISERS", "build_optimiser", "parameter_groups"]

Rate = Annotated[float, Span(1e-8, 100, log=True)]
Decay = Annotated[float, Span(0, 1, log=True)]
Momentum = Annotated[float, Span(0, 0.9999)]
Epsilon = Annotated[float, Span(1e-16, 1, log=True)]
Beta = Annotated[float, Span(0, 0.999999)]
Groups = list[dict[str, Any]]


def sgd(
    groups: Groups,
    /,
    *,
    rate: Rate = 0.01,
    momentum: Momentum = 0.9,
    nesterov: bool = True,
    weight_decay: Decay = 1e-4,
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum. Source: Sutskever et al., ICML 2013 (Nesterov's form)."""
    nesterov = nesterov and momentum > 0  # torch refuses Nesterov without momentum, which is plain descent
    return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)


def rmsprop(
    groups: Groups,
    /,
    *,
    rate: Rate = 1e-3,
    smoothing: Beta = 0.99,
    momentum: Momentum = 0.0,
    epsilon: Epsilon = 1e-8,
    weight_decay: Decay = 0.0,
) -> torch.optim.Optimizer:
    """RMSprop: steps divided by a running root mean square of the slope. Source: Tieleman & Hinton 2012, lecture 6e."""
    return torch.optim.RMSprop(
        groups, lr=rate, alpha=smoothing, momentum=momentum, eps=epsilon, weight_decay=weight_decay
    )


def adam(
    groups: Groups,
    /,
    *,
    rate: Rate = 1e-3,
    beta1: Beta = 0.9,
    beta2: Beta = 0.999,
    epsilon: Epsilon = 1e-8,
    weight_decay: Decay = 0.0,
) -> torch.optim.Optimizer:
    """Adam; its weight decay is part of the slope. Source: Kingma & Ba, ICLR 2015, arXiv:1412.6980."""
    return torch.optim.Adam(groups, lr=rate, betas=(beta1, beta2), eps=epsilon, weight_decay=weight_decay)


def adamw(
    groups: Groups,
    /,
    *,
    rate: Rate = 1e-3,
    beta1: Beta = 0.9,
    beta2: Beta = 0.999,
    epsilon: Epsilon = 1e-8,
    weight_decay: Decay = 0.01,
) -> torch.optim.Optimizer:
    """Adam with weight decay apart from the slope. Source: Loshchilov & Hutter, ICLR 2019, arXiv:1711.05101."""
    return torch.optim.AdamW(groups, lr=rate, betas=(beta1, beta2), eps=epsilon, weight_decay=weight_decay)


OPTIMISERS = Named("optimiser", {"sgd": sgd, "rmsprop": rmsprop, "adam": adam, "adamw": adamw})
"""The optimisers by name: functions of parameter groups, with typed parameters; `rate` is the learning rate."""


def build_optimiser(
    name: str, network: nn.Module, parameters: Mapping[str, Any] | None = None, *, decay_all: bool = False
) -> torch.optim.Optimizer:
    """Return an optimiser of the weights of `network` that take part in training.

    Weight decay leaves out biases and the scales and shifts of norms unless `decay_all`; see `parameter_groups`.

    Raises `UsageError`, with suggestions, for an unknown name or parameter, a value out of range, and a network that
    has nothing to train.
    """
    complete = OPTIMISERS.complete(name, parameters or {})
    groups = parameter_groups(network, decay_all=decay_all)
    if not groups:
        raise UsageError("optimiser: the network has no weights to train (none has requires_grad)")
    return OPTIMISERS[name](groups, **complete)


def parameter_groups(network: nn.Module, *, decay_all: bool = False) -> Groups:
    """Return the trainable parameters of `network` as groups for an optimiser: those with weight decay, those without.

    Without are biases and whatever belongs to a norm (He et al., CVPR 2019, arXiv:1812.01187, section 3.1), unless
    `decay_all`. The order is that of the network, so that a checkpoint of the optimiser fits again; empty groups are
    left out.
    """
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for parameter, exempt in _parameters(network):
        (free if exempt and not decay_all else decayed).append(parameter)
    groups: Groups = [{"params": decayed}, {"params": free, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _parameters(network: nn.Module) -> Iterator[tuple[nn.Parameter, bool]]:
    """Yield each trainable parameter once, and whether weight decay leaves it out."""
    seen: set[int] = set()
    for module in network.modules():
        # By name: norms of torch, timm (BatchNormAct2d) and others have no base in common.
        norm = "Norm" in type(module).__name__
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            # A scale or shift of channels has one dimension, whatever module it is in.
            yield parameter, norm or name == "bias" or parameter.ndim <= 1
