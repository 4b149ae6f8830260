"""The networks of a run: opened once, handed to the steps that name them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from cellkit.core.check import BoundStep, Plan, leaves
from cellkit.core.errors import UsageError
from cellkit.core.stage import StageSpec

if TYPE_CHECKING:
    from cellkit.engine.batch import Settings
    from cellkit.models.runtime import Network, Options

__all__ = ["Networks", "divide_memory", "loads", "networks_for", "open_networks"]

_LEAST_LEFT = 64 * 2**20
_SHARE = 8
_TO_COME = 160 * 2**20
"""Bytes that kernels, codecs and a network's first call add to the process, whatever the images."""
_ONLY_TOLD = ("name", "tolerance", "activation", "obtain", "data", "licence", "figures", "weak")
"""What a card says that changes no result."""

T = TypeVar("T")
R = TypeVar("R")


def loads(spec: StageSpec) -> tuple[str, ...]:
    """Return the parameters of a stage that name a network."""
    return tuple(name for name, parameter in spec.parameters.items() if parameter.loaded)


class Networks:
    """Opens networks under one set of `Options` (None: those of `cellkit.models.runtime`) and keeps count of them."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options
        self._opened: dict[tuple[str, str], Network] = {}
        self._told: dict[tuple[str, str], int] = {}  # how many notes each had before

    def open(self, steps: Sequence[BoundStep]) -> None:
        """Open every network that `steps` name. Raises `UsageError` or `FormatError` where one cannot be had."""
        for step in leaves(steps):
            self.fill(step)

    def fill(self, step: BoundStep) -> dict[str, Any]:
        """Return the parameters of a step, with the loaded network in place of each name."""
        params = dict(step.params)
        for name in loads(step.spec):
            params[name] = self._get(step, params[name])
        device = self.options.device if self.options is not None else "auto"
        if "device" in params and "device" not in step.step.params and device != "auto":
            params["device"] = device  # of a stage that brings its own network
        return params

    def group(self, steps: Sequence[BoundStep]) -> int:
        """Return how many parts of an image should go through `steps` together, so that networks have enough to do."""
        busy = [self._get(step, step.params[name]) for step in leaves(steps) for name in loads(step.spec)]
        return max((2 * network.lanes * network.batch for network in busy), default=1)

    def map(self, step: BoundStep, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Return ``function`` of every item, side by side where the step waits for a network."""
        if len(items) < 2 or not loads(step.spec):
            return [function(item) for item in items]
        with ThreadPoolExecutor(min(len(items), self.group([step]))) as pool:
            return list(pool.map(function, items))

    @property
    def used(self) -> tuple[Network, ...]:
        """Every network opened so far, each once."""
        return tuple(dict.fromkeys(self._opened.values()))

    def digests(self) -> dict[str, str]:
        """Return the sha256 of the weights of every network used so far, by name."""
        return {name: network.digest for (name, _), network in sorted(self._opened.items(), key=lambda item: item[0])}

    def identity(self) -> str:
        """Return a text that differs where networks used so far would give other results."""
        cards = {name: asdict(network.card) for (name, _), network in self._opened.items()}
        told = {name: {k: v for k, v in card.items() if k not in _ONLY_TOLD} for name, card in cards.items()}
        return json.dumps([self.digests(), told], sort_keys=True)

    def notes(self) -> tuple[str, ...]:
        """Return what a user should know of how the networks ran, since they were opened here."""
        new = [note for key, network in self._opened.items() for note in network.notes[self._told[key] :]]
        if self.options is not None and self.options.compiled:
            plain = (network.card.name for network in self.used if not network.compiled)
            new += [f"{name}: not compiled, as it is no dense network of torch" for name in plain]
        return tuple(dict.fromkeys(new))

    def close(self) -> None:
        """Take back the bound of this run on the memory of networks, which others may go on to use."""
        for network in self.used:
            network.memory = network.own_memory

    @property
    def device(self) -> str:
        """Return where the networks run, in words; ``cpu`` where there are none."""
        return next((network.device for network in self.used), "cpu")

    def _get(self, step: BoundStep, model: str) -> Network:
        from cellkit.models.runtime import open_model

        if not model:
            raise UsageError(f"{step.where}: no model is named; `cellkit models` lists them")
        key = model, step.params.get("precision", "auto")
        if key not in self._opened:
            network = self._opened[key] = open_model(model, self.options, key[1])
            self._told[key] = len(network.notes)
        return self._opened[key]


def open_networks(bound: Plan, settings: Settings, images: int) -> Networks:
    """Open every network that `bound` needs for what it writes of so many `images`.

    Raises `UsageError` where one or the device cannot be had, `FormatError` where one is damaged.
    """
    # How images are cut hangs on how many there are, never on how many are worked on at once.
    return networks_for(bound, settings.device, settings.compiled, alone=images < (os.cpu_count() or 1))


def networks_for(bound: Plan, device: str, compiled: bool, *, alone: bool) -> Networks:
    """As `open_networks`; `alone`: one image, or block, is all there is to do at a time."""
    from cellkit.engine.execute import live
    from cellkit.engine.outputs import layers_for

    steps = live(bound, layers_for(bound))
    flat = list(leaves(steps))
    if not any(loads(step.spec) or "device" in step.params for step in flat):
        if device not in ("auto", "cpu"):
            raise UsageError(f"--device {device}: no step of this recipe runs on a GPU; use cpu or auto")
        return Networks()
    from cellkit.models.device import choose_device
    from cellkit.models.runtime import Options

    if device != "auto":
        choose_device(device)
    networks = Networks(Options(device, compiled=compiled, alone=alone))
    networks.open(steps)
    return networks


def divide_memory(networks: Networks, settings: Settings) -> int | None:
    """Return the bytes that images in work may take of ``settings.memory``, having given networks their share.

    An eighth of what is left beside the process as it stands, and what it will load yet, goes to networks, which can
    work in smaller tiles; the rest to images, whose layers have the size they have. Raises `UsageError` where nothing
    is left.
    """
    if settings.memory is None:
        return None
    from cellkit.models.device import process_bytes

    taken = process_bytes() + _TO_COME
    left = settings.memory - taken
    if left < _LEAST_LEFT:
        have, need = settings.memory / 1e6, (taken + _LEAST_LEFT) / 1e6
        raise UsageError(
            f"--memory {have:,.0f} MB: too little; with what is loaded, this needs at least {need:,.0f} MB"
        )
    on_cpu = [network for network in networks.used if network.device == "cpu"]
    for network in on_cpu:
        network.memory = left // _SHARE // len(on_cpu)
    return left - (left // _SHARE if on_cpu else 0)
