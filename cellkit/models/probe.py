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
from cellkit.grid.windows import padded

__all__ = ["activation_bytes", "reach"]

_TOLERANCE = 1e-3


def reach(network: nn.Module, channels: int, divisor: int, limit: int = 1024) -> int | None:
    """Return how many pixels away an input pixel can still change an output pixel, rows or columns, whichever is more.

    None where that is the whole input, or more than `limit`, or where the result hangs on where in the input a pixel
    lies (as with a position embedding), so that tiles would not fit together at any halo.

    `network` maps (n, channels, y, x) to (n, k, y, x), y and x being multiples of `divisor`; it is run in eval mode and
    left as it was. A NaN spreads through every sum, product and maximum, whatever the weights: put into rows of the
    input, it marks what hangs on them. Strips suffice, along either axis, since the kernels of networks are rectangles.
    Raises `UsageError` for a network whose output has another size.
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
    """Return the reach along one axis, to both sides, or None where it passes `limit`."""
    furthest = 0
    longest = (-(-limit // divisor) + 3) * divisor
    for backward in (True, False):
        # On a long strip first: a dilated convolution leaps over the end of a short one, and would not be seen.
        about = _distance(network, channels, divisor, (axis, backward, longest), 0)
        if about is None:
            return None
        side = (-(-(about + 1) // divisor) + 3) * divisor
        found = _to_one_side(network, channels, divisor, (axis, backward, side))
        if found is None or found > limit:
            return None
        furthest = max(furthest, found)
    return furthest


def _to_one_side(network: nn.Module, channels: int, divisor: int, strip: tuple[int, bool, int]) -> int | None:
    """Return the reach to one side, or None where it passes the end of the strip.

    Everything from a row on is NaN, so that the first row marked can only move on as that row does: r - first(r) is at
    most a - first(a) + (r - a) for any a before r. Most rows of the divisor's grid need not be tried.
    """
    begin = _distance(network, channels, divisor, strip, 0)
    end = _distance(network, channels, divisor, strip, divisor - 1)
    if begin is None or end is None:
        return None
    best = max(begin, end, 0)
    spans = [(0, divisor - 1, begin)]
    while spans:
        low, high, at_low = spans.pop()
        if high - low < 2 or at_low + high - 1 - low <= best:
            continue
        middle = (low + high) // 2
        found = _distance(network, channels, divisor, strip, middle)
        if found is None:
            return None
        best = max(best, found)
        spans += [(low, middle, at_low), (middle, high, found)]
    return best


def _distance(network: nn.Module, channels: int, divisor: int, strip: tuple[int, bool, int], phase: int) -> int | None:
    """Return how far before a row of NaN and all after it an output is NaN; None where that is the strip's end.

    `phase` counts from a multiple of the divisor. Not `backward`: the same from the other end of the strip.
    """
    axis, backward, side = strip
    device, dtype = _home(network)
    row = side - 2 * divisor + phase
    images = torch.zeros(1, channels, side, divisor, device=device, dtype=dtype)
    marked = images[:, :, row:] if backward else images[:, :, : side - row]
    marked.fill_(torch.nan)
    rows = _run(network, images, axis)[0].isnan().any(2).any(0)
    reached = (rows if backward else rows.flip(0)).nonzero().flatten()
    if len(reached) == 0:
        return 0
    first = int(reached[0])
    return None if first == 0 else row - first


def _is_same_anywhere(network: nn.Module, channels: int, divisor: int, distance: int, axis: int) -> bool:
    """Return whether a strip and a part of it give the same result farther than `distance` from the part's ends."""
    device, dtype = _home(network)
    side = padded(2 * distance + 4 * divisor, divisor)
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
