"""How the learning rate runs over the steps of a training: curves of (step, total), each a factor of the full rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from cellkit.core import Span

__all__ = ["CURVES", "Plateau"]

Steps = Annotated[int, Span(1, 100_000_000, "steps", log=True)]
WarmUp = Annotated[int, Span(0, 10_000_000, "steps")]
Share = Annotated[float, Span(0, 1)]

_COLD = 1e-3
"""The factor that a warm-up begins at."""


def _warmed(step: int, warmup: int) -> float:
    """Return the factor of a warm-up, rising along a line over `warmup` steps."""
    return 1.0 if step >= warmup else _COLD + (1 - _COLD) * step / warmup


def _along(step: float, length: float) -> float:
    """Return which share of `length` has passed, from 0 to 1."""
    return min(max(step / length, 0.0), 1.0) if length > 0 else 1.0


def _half_wave(share: float) -> float:
    """Return a cosine from 1 down to 0 as `share` goes from 0 to 1."""
    return (1 + math.cos(math.pi * share)) / 2


def constant(step: int, _total: int, /, *, warmup: WarmUp = 0) -> float:
    """Full rate throughout, after a warm-up."""
    return _warmed(step, warmup)


def cosine(step: int, total: int, /, *, warmup: WarmUp = 0, floor: Share = 0.01) -> float:
    """Warm-up, then half a cosine down to `floor` at the last step.

    Source: Loshchilov & Hutter, ICLR 2017, arXiv:1608.03983; warm-up: Goyal et al. 2017, arXiv:1706.02677.
    """
    if step < warmup:
        return _warmed(step, warmup)
    return floor + (1 - floor) * _half_wave(_along(step - warmup, total - warmup))


def restarts(
    step: int,
    _total: int,
    /,
    *,
    period: Steps = 1000,
    growth: Annotated[int, Span(1, 10)] = 2,
    decay: Share = 1.0,
    floor: Share = 0.0,
    warmup: WarmUp = 0,
) -> float:
    """Half a cosine from full rate to `floor` over `period` steps, again and again, each `growth` times as long.

    `decay`: factor from one peak to the next. Source: Loshchilov & Hutter, ICLR 2017, arXiv:1608.03983, equation 5.
    """
    if step < warmup:
        return _warmed(step, warmup)
    step -= warmup
    if growth == 1:
        cycle, within, length = step // period, step % period, period
    else:
        # Cycles before the n-th take period (growth^n - 1) / (growth - 1) steps.
        cycle, start, length = 0, 0, period
        while step >= start + length:
            start, length, cycle = start + length, length * growth, cycle + 1
        within = step - start
    return floor + (max(decay**cycle, floor) - floor) * _half_wave(within / length)


def cyclic(
    step: int,
    _total: int,
    /,
    *,
    period: Steps = 2000,
    low: Share = 0.1,
    rise: Annotated[float, Span(0.01, 0.99)] = 0.5,
    decay: Share = 0.5,
) -> float:
    """Up a line from `low` to full rate and down again within `period` steps, each peak `decay` as far above `low`.

    `rise`: share of the period on the way up. Source: Smith, WACV 2017, arXiv:1506.01186 ("triangular" with decay 1,
    "triangular2" with 0.5).
    """
    cycle, within = divmod(step, period)
    share = within / period
    height = share / rise if share <= rise else (1 - share) / (1 - rise)
    return low + (1 - low) * height * decay**cycle


def step_down(step: int, _total: int, /, *, period: Steps = 1000, decay: Share = 0.1, warmup: WarmUp = 0) -> float:
    """Full rate times `decay` for each `period` steps gone."""
    return _warmed(step, warmup) * decay ** (step // period)


def milestones(
    step: int,
    total: int,
    /,
    *,
    at: Annotated[tuple[float, ...], Span(0, 1)] = (0.6, 0.85),
    decay: Share = 0.1,
    warmup: WarmUp = 0,
) -> float:
    """Full rate times `decay` for each share `at` of all steps gone."""
    return _warmed(step, warmup) * decay ** sum(step >= round(share * total) for share in at)


def polynomial(
    step: int,
    total: int,
    /,
    *,
    power: Annotated[float, Span(0.1, 10)] = 0.9,
    floor: Share = 0.0,
    warmup: WarmUp = 0,
) -> float:
    """Warm-up, then down to `floor` at the last step as a power of what is left.

    Source: Chen et al., TPAMI 2018, arXiv:1606.00915.
    """
    if step < warmup:
        return _warmed(step, warmup)
    return floor + (1 - floor) * (1 - _along(step - warmup, total - warmup)) ** power


def one_cycle(
    step: int,
    total: int,
    /,
    *,
    rise: Annotated[float, Span(0.01, 0.99)] = 0.3,
    start: Annotated[float, Span(1e-6, 1, log=True)] = 0.04,
    end: Annotated[float, Span(0, 1)] = 4e-6,
    shape: Literal["cosine", "line"] = "cosine",
) -> float:
    """Up from `start` to full rate over the share `rise` of all steps, then down to `end`.

    Source: Smith & Topin 2018, arXiv:1708.07120, in two phases as torch's OneCycleLR by default.
    """
    # The steps are 0 to total - 1, the peak lies at rise x total - 1, as in torch.
    peak = rise * total - 1
    if step <= peak:
        share, first, last = _along(step, peak), start, 1.0
    else:
        share, first, last = _along(step - peak, total - 1 - peak), 1.0, end
    weight = _half_wave(share) if shape == "cosine" else 1 - share
    return last + (first - last) * weight


@dataclass(kw_only=True)
class Plateau:
    """Full rate, times `decay` when the watched figure has not got better for more than `patience` looks.

    A look is one `observe`, after each validation. Better means by more than `threshold` of the best so far; after a
    drop, `cooldown` looks do not count. `floor`: the lowest factor.
    """

    better: Literal["higher", "lower"] = "higher"
    decay: Annotated[float, Span(0.001, 0.999)] = 0.5
    patience: Annotated[int, Span(0, 10_000, "looks")] = 5
    threshold: Annotated[float, Span(0, 1)] = 1e-4
    cooldown: Annotated[int, Span(0, 10_000, "looks")] = 0
    floor: Share = 1e-3
    warmup: WarmUp = 0

    drop: float = field(default=1.0, init=False)
    best: float | None = field(default=None, init=False)
    waited: int = field(default=0, init=False)
    cooling: int = field(default=0, init=False)

    def factor(self, step: int) -> float:
        """Return the factor at `step` with the drops there have been so far."""
        return _warmed(step, self.warmup) * self.drop

    def observe(self, value: float) -> bool:
        """Take note of the watched figure; return whether the rate dropped. What is no number is no better."""
        if self._is_better(value):
            self.best, self.waited = float(value), 0
        else:
            self.waited += 1
        if self.cooling > 0:
            self.cooling -= 1
            self.waited = 0
        if self.waited <= self.patience:
            return False
        self.cooling, self.waited = self.cooldown, 0
        before, self.drop = self.drop, max(self.drop * self.decay, min(self.floor, self.drop))
        return self.drop < before

    def _is_better(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if self.best is None:
            return True
        margin = self.threshold * abs(self.best)
        return value > self.best + margin if self.better == "higher" else value < self.best - margin


CURVES: dict[str, Callable[..., Any]] = {
    "constant": constant,
    "cosine": cosine,
    "cyclic": cyclic,
    "milestones": milestones,
    "one_cycle": one_cycle,
    "plateau": Plateau,
    "polynomial": polynomial,
    "restarts": restarts,
    "step": step_down,
}
