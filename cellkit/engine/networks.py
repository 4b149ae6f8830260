"""The networks of a run: opened once, handed to the steps that name them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from cellkit.core.check import BoundStep
from cellkit.core.errors import UsageError
from cellkit.core.stage import StageSpec

if TYPE_CHECKING:
    from cellkit.models.runtime import Network, Options

__all__ = ["Networks", "loads"]

T = TypeVar("T")
R = TypeVar("R")


def loads(spec: StageSpec) -> tuple[str, ...]:
    """Return the parameters of a stage that name a network."""
    return tuple(name for name, parameter in spec.parameters.items() if parameter.loaded)


class Networks:
    """Opens networks under one set of `Options` (None: those of `cellkit.models.runtime`) and keeps count of them."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options
        self.used: dict[str, Network] = {}

    def open(self, steps: Sequence[BoundStep]) -> None:
        """Open every network that `steps` name. Raises `UsageError` or `FormatError` where one cannot be had."""
        for step in _flat(steps):
            self.fill(step)

    def fill(self, step: BoundStep) -> dict[str, Any]:
        """Return the parameters of a step, with the loaded network in place of each name."""
        params = dict(step.params)
        for name in loads(step.spec):
            params[name] = self._get(step, params[name])
        return params

    def group(self, steps: Sequence[BoundStep]) -> int:
        """Return how many parts of an image should go through `steps` together, so that networks have enough to do."""
        busy = [self._get(step, step.params[name]) for step in _flat(steps) for name in loads(step.spec)]
        return max((2 * network.lanes * network.batch for network in busy), default=1)

    def map(self, step: BoundStep, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Return ``function`` of every item, side by side where the step waits for a network."""
        if len(items) < 2 or not loads(step.spec):
            return [function(item) for item in items]
        with ThreadPoolExecutor(min(len(items), self.group([step]))) as pool:
            return list(pool.map(function, items))

    def _get(self, step: BoundStep, model: str) -> Network:
        from cellkit.models.runtime import open_model

        if not model:
            raise UsageError(f"{step.where}: no model is named; `cellkit models` lists them")
        precision = step.params.get("precision", "auto")
        network = open_model(model, self.options, precision)
        self.used[model] = network
        return network


def _flat(steps: Sequence[BoundStep]) -> Iterator[BoundStep]:
    for step in steps:
        yield from _flat(step.inner) if step.spec.bracket else (step,)
