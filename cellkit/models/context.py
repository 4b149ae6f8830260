"""How much context a network needs, measured on the network itself and written on its card."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from cellkit.grid.windows import padded, windows
from cellkit.models.card import Card

__all__ = ["measure_context", "tiling_error"]

_ROUNDING = 1e-4
"""By which sums of float32 may differ where they are made in another order."""
_MARGIN = 3.0
"""By which a difference seen on some noise is multiplied before a card promises it for any image."""


def measure_context(network: Any, card: Card, *, most_halo: int = 256) -> Card:
    """Return the card of a dense network with its divisor, reach, halo and tolerance filled in.

    `network` is a ``torch.nn.Module``. The halo is the reach where that is at most `most_halo` pixels; else it is
    `most_halo`, and the tolerance is what tiles at that halo were seen to differ by, three times over. A network whose
    context is the whole picture keeps the halo it has.
    """
    from cellkit.models.architecture import find
    from cellkit.models.probe import reach

    spec = find(card.architecture)
    divisor = spec.divisor(spec.complete(card.parameters))
    found = reach(network, card.channels, divisor) if spec.context == "local" else None
    card = replace(card, divisor=divisor, reach=found)
    if found is None:
        return card
    if found <= most_halo:
        return replace(card, halo=found, tolerance=_ROUNDING)
    card = replace(card, halo=most_halo)
    return replace(card, tolerance=_ROUNDING + _MARGIN * tiling_error(network, card))


def tiling_error(network: Any, card: Card, *, seeds: int = 3) -> float:
    """Return the largest difference, in probabilities, between tiled at the card's halo and untiled, on noisy images.

    The images are as large as three such tiles, in the card's input range, float32, on the CPU.
    """
    import torch

    from cellkit.models.inference import Inference

    step = max(card.divisor, padded(card.halo // 2, card.divisor))
    side = 2 * padded(card.halo, card.divisor) + step
    length = side + 2 * step
    low, high = card.input_range
    module = Inference(network, card).eval()
    worst = 0.0
    with torch.inference_mode():
        for seed in range(seeds):
            noise = np.random.default_rng(seed).random((1, card.channels, side, length), np.float32)
            noise[..., : length // 2] **= 3  # two kinds of ground, so that context has something to say
            image = torch.from_numpy(low + (high - low) * noise)
            whole = module(image)
            for tile in windows((side, length), (side, side), card.halo, card.divisor):
                rows, columns = tile.window.slices
                part = module(image[..., rows, columns].contiguous())
                inner = tile.core.within(tile.window).slices
                here = tile.core.slices
                difference = part[..., inner[0], inner[1]] - whole[..., here[0], here[1]]
                worst = max(worst, float(difference.abs().max()))
    return worst
