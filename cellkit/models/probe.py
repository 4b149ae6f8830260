"""What a dense network needs, measured on the network itself: context around a pixel, memory for a tile."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cellkit.core import UsageError

__all__ = ["activation_bytes", "reach"]

_TOGETHER = 4
_LEAST_SIDE = 128
_TOLERANCE = 1e-3


def reach(network: nn.Module, channels: int, divisor: int, limit: int = 1024) -> int | None:
    """Return how many pixels away an input pixel can still change an output pixel, rows or columns, whichever is more.

    None where that is the whole input, or more than `limit`, or where the result hangs on where in the input a pixel
    lies (as with a position embedding), so that tiles would not fit together at any halo.

    `network` maps (n, channels, y, x) to (n, k, y, x), y and x being multiples of `divisor`; it is run in eval mode and
    left as it was. A NaN spreads through every sum, product and maximum, whatever the weights: put into one row of the
    input, it marks what hangs on that row. Each row of the divisor's grid is tried, as is each column; strips suffice,
    since the kernels of networks are rectangles. Raises `UsageError` for a network whose output has another size.
    """
    with _evaluating(network), torch.inference_mode():
        furthest = 0
        for axis in (2, 3):
            found = _along(network, channels, divisor, limit, axis)
            if found is None or not _is_same_anywhere(network, channels, divisor, found, axis):
                return None
            furthest = max(furthest, found)
        return furthest


def activation_bytes(network: nn.Module, channels: int, side: int) -> int:
    """Return the most bytes that live at one time while `network` maps (1, channels, side, side), in eval mode.

    Input, output and all between them count, at the network's precision; weights do not, nor what a library allocates
    inside one operation. Nothing is computed: the network runs on tensors without content, and is left as it was.
    """
    held = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    hollow = {name: tensor.to("meta") for name, tensor in held.items()}
    kinds = [tensor.dtype for tensor in network.parameters() if tensor.is_floating_point()]
    with _evaluating(network), torch.no_grad(), _Living(hollow.values()) as living:
        images = torch.empty(1, channels, side, side, dtype=kinds[0] if kinds else None, device="meta")
        torch.func.functional_call(network, hollow, (images,))
        return living.peak


def _along(network: nn.Module, channels: int, divisor: int, limit: int, axis: int) -> int | None:
    """Return the reach along one axis, or None where it passes `limit`."""
    side = -(-_LEAST_SIDE // divisor) * divisor
    tried = [0]
    while True:
        found = _spread(network, channels, divisor, side, axis, tried)
        if found is not None and found > limit:
            return None
        if found is not None and len(tried) == divisor:
            return found
        if found is not None:
            tried = list(range(divisor))
        elif side > 2 * (limit + divisor):
            return None
        else:
            side *= 2


def _spread(network: nn.Module, channels: int, divisor: int, side: int, axis: int, phases: list[int]) -> int | None:
    """Return how far a NaN in the middle of a strip gets at most, or None where it gets to an end of the strip."""
    device, dtype = _home(network)
    middle = side // divisor // 2 * divisor
    furthest = 0
    for first in range(0, len(phases), _TOGETHER):
        rows = [middle + phase for phase in phases[first : first + _TOGETHER]]
        strips = torch.zeros(len(rows), channels, side, divisor, device=device, dtype=dtype)
        for strip, row in zip(strips, rows, strict=True):
            strip[:, row] = torch.nan
        marked = _run(network, strips, axis).isnan().any(3).any(1)
        for row, mark in zip(rows, marked, strict=True):
            reached = mark.nonzero().flatten()
            if len(reached) == 0:
                continue
            low, high = int(reached[0]), int(reached[-1])
            if low == 0 or high == side - 1:
                return None
            furthest = max(furthest, row - low, high - row)
    return furthest


def _is_same_anywhere(network: nn.Module, channels: int, divisor: int, distance: int, axis: int) -> bool:
    """Return whether a strip and a part of it give the same result farther than `distance` from the part's ends."""
    device, dtype = _home(network)
    side = -(-(2 * distance + 4 * divisor) // divisor) * divisor
    noise = torch.rand(1, channels, side, divisor, generator=torch.Generator().manual_seed(0))
    strip = noise.to(device=device, dtype=dtype)
    whole = _run(network, strip, axis)[:, :, divisor:-divisor]
    part = _run(network, strip[:, :, divisor:-divisor].contiguous(), axis)
    inside = slice(distance, part.shape[2] - distance)
    difference = (whole - part)[:, :, inside].abs().max()
    return bool(difference <= _TOLERANCE * whole.abs().max())


def _run(network: nn.Module, strips: torch.Tensor, axis: int) -> torch.Tensor:
    """Return the network's output for strips that lie along `axis`, given and returned along axis 2."""
    images = strips if axis == 2 else strips.transpose(2, 3).contiguous()
    found = network(images)
    if not isinstance(found, torch.Tensor) or found.ndim != 4 or found.shape[2:] != images.shape[2:]:
        given = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise UsageError(f"reach: wanted a dense network; for an input of {tuple(images.shape)} it gives {given}")
    return found if axis == 2 else found.transpose(2, 3)


def _home(network: nn.Module) -> tuple[torch.device, torch.dtype]:
    for parameter in network.parameters():
        if parameter.is_floating_point():
            return parameter.device, parameter.dtype
    return torch.device("cpu"), torch.float32


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Put every module into eval mode, and back into its own at the end."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class _Living(TorchDispatchMode):
    """Adds up the bytes of the storages that operations make, and takes them off when they are let go."""

    def __init__(self, ignored: Any) -> None:
        super().__init__()
        self.peak = 0
        self._now = 0
        self._known = weakref.WeakSet(tensor.untyped_storage() for tensor in ignored)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: Any) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self._now -= size
