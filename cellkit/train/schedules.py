"""Learning rates over a training: curves by name, and the schedule that drives an optimiser along one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cellkit.core import UsageError
from cellkit.train._curves import CURVES, Plateau
from cellkit.train._named import Named

__all__ = ["SCHEDULES", "RateSchedule", "build_schedule", "rate_factor"]

SCHEDULES = Named("schedule", CURVES)
"""The schedules by name: functions of (step, total), with typed parameters, that give a factor of the full rate.

``plateau`` is a class instead, which looks at a figure as well.
"""


def rate_factor(name: str, step: int, total: int, parameters: Mapping[str, Any] | None = None) -> float:
    """Return the factor by which schedule `name` multiplies the optimiser's rate at `step`, from 0, of `total`.

    For ``plateau``, before any drop. Raises `UsageError`, with suggestions, for an unknown name or parameter or a
    value out of range.
    """
    return _factor(name, SCHEDULES.complete(name, parameters or {}), step, total)


def build_schedule(
    name: str, optimiser: Optimizer, total: int, parameters: Mapping[str, Any] | None = None
) -> RateSchedule:
    """Return schedule `name` for `optimiser` over `total` steps, the first step's rate already set.

    Raises `UsageError`, with suggestions, for an unknown name or parameter, a value out of range, and fewer than one
    step.
    """
    return RateSchedule(optimiser, name, SCHEDULES.complete(name, parameters or {}), total)


class RateSchedule(LRScheduler):
    """Sets the rate of every group of an optimiser to its full rate times a factor; `step` after each of its steps.

    The full rate is the one the optimiser was built with. `observe` is for what changes with a figure (``plateau``);
    for other schedules it does nothing. `total`, the number of steps there will be, may be set anew at any time. The
    state is a few numbers: name, step, full rates, and what ``plateau`` has seen.
    """

    def __init__(self, optimiser: Optimizer, name: str, parameters: Mapping[str, Any], total: int) -> None:
        if total < 1:
            raise UsageError(f"schedule: wanted at least 1 step, got {total}")
        self.name = name
        self.parameters = dict(parameters)
        self.total = total
        self._watch = Plateau(**self.parameters) if name == "plateau" else None
        self.base_lrs: list[Any] = []
        super().__init__(optimiser)

    def factor(self, step: int) -> float:
        """Return the factor of the full rate at `step`, from 0, with the drops that there have been so far."""
        if self._watch is not None:
            return self._watch.factor(step)
        return _factor(self.name, self.parameters, step, self.total)

    def rate(self, step: int) -> float:
        """Return the rate of the first group at `step`, with the drops that there have been so far."""
        return float(self.base_lrs[0]) * self.factor(step)

    def get_lr(self) -> list[Any]:
        """Return the rates of the groups at the present step."""
        factor = self.factor(self.last_epoch)
        return [rate * factor for rate in self.base_lrs]

    def observe(self, value: float) -> bool:
        """Take note of the watched figure; return whether the rates dropped, which they do at once.

        A value that is no number counts as no better.
        """
        dropped = self._watch is not None and self._watch.observe(value)
        if dropped:
            self._set()
        return dropped

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold, as plain numbers and texts."""
        return {
            "name": self.name,
            "step": self.last_epoch,
            "calls": self._step_count,
            "rates": [float(rate) for rate in self.base_lrs],
            "watch": {key: getattr(self._watch, key) for key in _WATCHED} if self._watch is not None else {},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint, and set the rates of the optimiser to what they were there.

        Parameters and `total` stay those of this schedule. Raises `UsageError` for the state of another schedule.
        """
        if state_dict.get("name") != self.name:
            raise UsageError(f"schedule: the checkpoint is of {state_dict.get('name')!r}, this is {self.name!r}")
        if len(state_dict["rates"]) != len(self.base_lrs):
            raise UsageError(
                f"schedule: the checkpoint has {len(state_dict['rates'])} groups of weights, the optimiser "
                f"{len(self.base_lrs)}"
            )
        self.last_epoch = state_dict["step"]
        self._step_count = state_dict["calls"]
        self.base_lrs = list(state_dict["rates"])
        for key, value in state_dict["watch"].items():
            setattr(self._watch, key, value)
        self._set()

    def _set(self) -> None:
        """Set the rates of the optimiser to those of the present step."""
        self._last_lr = self.get_lr()
        for group, rate, full in zip(self.optimizer.param_groups, self._last_lr, self.base_lrs, strict=True):
            group["lr"], group["initial_lr"] = rate, full


_WATCHED = ("drop", "best", "waited", "cooling")


def _factor(name: str, complete: Mapping[str, Any], step: int, total: int) -> float:
    if name == "plateau":
        return Plateau(**complete).factor(step)
    return float(SCHEDULES[name](step, total, **complete))
