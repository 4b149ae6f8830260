"""A network in training: optimiser, schedule, running mean and checkpoints as Lightning wants them, whatever it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from cellkit.core import UsageError
from cellkit.core.errors import CellkitError
from cellkit.models.store import Located
from cellkit.train.config import TrainConfig
from cellkit.train.ema import Ema
from cellkit.train.optimisers import build_optimiser
from cellkit.train.ranks import everywhere
from cellkit.train.schedules import RateSchedule, build_schedule

__all__ = ["BATCH_FILE", "STATE", "Diverged", "TrainingTask", "build_network", "layout_of"]

STATE = "cellkit"
"""The key of a checkpoint under which stands what Lightning does not know of."""
BATCH_FILE = "diverged.npz"
_SHOWN = 8
_NARROW = 16
_Seen = tuple[Mapping[str, Any], Tensor, Tensor]
"""A batch, its loss, and whether that is finite in every process."""


class Diverged(CellkitError):
    """The loss, or the weights, are no longer numbers."""


def build_network(config: TrainConfig) -> nn.Module:
    """Return the network of `config` with the weights it starts from: drawn with the seed, or those of `model.start`.

    Of a network of other classes all is taken but the layers that hang on how many there are, of one of other input
    channels all but those that read them: these are drawn with the seed.

    Raises `UsageError` where `model.start` is another network.
    """
    from cellkit.models import build, find_model

    model = config.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.loop.seed)
        network: nn.Module = build(model.architecture, model.channels, len(model.outputs), dict(model.parameters))
    if model.start:
        here = config.folder / model.start
        _begin_with(network, config, find_model(str(here) if here.exists() else model.start))
    return network


def _begin_with(network: nn.Module, config: TrainConfig, located: Located) -> None:
    """Take over the weights of `located` that mean the same in `network`. Raises `UsageError` for another network."""
    from cellkit.models import build, load_network

    model, card = config.model, located.card
    weights, own = load_network(located).state_dict(), network.state_dict()
    same = {name for name in own.keys() & weights.keys() if own[name].shape == weights[name].shape}
    differ = (own.keys() | weights.keys()) - same
    free: set[str] = set()
    if (model.channels, model.outputs) != (card.channels, card.classes):
        channels = model.channels + (model.channels != card.channels)
        with torch.device("meta"):  # shapes only: what a network of other classes, or channels, has otherwise
            outputs = len(model.outputs) + (model.outputs != card.classes)
            other = build(model.architecture, channels, outputs, dict(model.parameters))
        free = {name for name, tensor in other.state_dict().items() if tensor.shape != own[name].shape}
    if differ - free:
        raise UsageError(
            f"model.start: {located.name} is not of the shape of this network: {len(differ)} tensors differ, such "
            f"as {min(differ)}; its architecture is {card.architecture}, its parameters {dict(card.parameters)}"
        )
    network.load_state_dict({name: tensor for name, tensor in weights.items() if name not in free}, strict=False)


def layout_of(network: nn.Module, device: torch.device) -> torch.memory_format:
    """Return how pictures should lie in memory: channels last, as both kinds of device like them best.

    But not on a CPU for networks that have a 1 x 1 convolution with a stride and fewer than 16 input channels, whose
    backward pass writes beyond its memory there (torch 2.14.1: the process dies at sides of 64 px and more).
    """
    if device.type == "cpu":
        for module in network.modules():
            if (
                isinstance(module, nn.Conv2d)
                and set(module.kernel_size) == {1}
                and max(module.stride) > 1
                and module.in_channels < _NARROW
            ):
                return torch.contiguous_format
    return torch.channels_last


class TrainingTask(lightning.LightningModule):
    """Trains `network` by `config`. `history` has a row for each finished epoch; `best` is the best score so far.

    `folder` is where a batch is written on which the loss is not finite. A kind of network adds `training_step`, which
    hands its loss to `account`, `collate`, which makes a batch of samples, `collate_half`, which does so in fewer bytes
    where the network computes in a lower precision, and `arrays`.
    """

    collate: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]
    collate_half: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]

    def __init__(self, config: TrainConfig, network: nn.Module, folder: Path) -> None:
        super().__init__()
        self.config = config
        self.folder = folder
        self.network = network
        self.layout = torch.channels_last
        self.ema = Ema(network, config.loop.ema) if config.loop.ema else None
        self.history: list[dict[str, Any]] = []
        self.best = -math.inf
        self.waited = 0
        self.schedule: RateSchedule | None = None
        self._sums: dict[str, Tensor] = {}
        self._batches = 0
        self._unseen: _Seen | None = None

    def on_fit_start(self) -> None:
        """Bring the running mean to the device of the weights."""
        if self.ema is not None:
            self.ema.to(self.device)

    def on_train_epoch_start(self) -> None:
        """Begin the means of an epoch."""
        self._sums, self._batches, self._unseen = {}, 0, None

    def on_train_batch_start(self, _: Any, batch_idx: int) -> None:
        """Draw what the network itself draws (dropout, regions) from seed, epoch and step alone.

        So a resumed run is the same, however often the loader and Lightning draw in between.
        """
        numbers = [self.config.loop.seed, self.current_epoch, batch_idx]
        torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))

    def account(self, batch: Mapping[str, Any], loss: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
        """Take the loss of a batch and what it consists of into the means of the epoch, and return it.

        Raises `Diverged`, the batch written out, where it is not finite.
        """
        self._look(batch, loss.detach())
        for key, value in {"loss": loss.detach(), **parts}.items():
            self._sums[key] = self._sums[key] + value if key in self._sums else value.clone()
        self._batches += 1
        return loss

    def _look(self, batch: Mapping[str, Any], loss: Tensor) -> None:
        """Raise `Diverged`, the batch written out, where a loss is not finite.

        On a GPU it is the loss of the step before: looking at the present one would mean waiting for it, and nothing
        is kept before the end of the epoch, where `check` looks at the last one.
        """
        seen: _Seen | None = (batch, loss, everywhere(torch.isfinite(loss)))
        if loss.device.type != "cpu":
            seen, self._unseen = self._unseen, seen
        self._refuse(seen)

    def _refuse(self, seen: _Seen | None) -> None:
        if seen is not None and not bool(seen[2]):
            batch, loss, _ = seen
            raise Diverged(self._elsewhere() if bool(torch.isfinite(loss)) else self._tell(batch, float(loss)))

    def arrays(self, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return the tensors of a batch as arrays to be written out, `image` (n, c, y, x) among them."""
        raise NotImplementedError

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take a step, and take the new weights into the running mean."""
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.update(self.network)

    def configure_optimizers(self) -> Any:
        """Return the optimiser, and the schedule by step."""
        name, parameters = self.config.optimiser
        optimiser = build_optimiser(name, self.network, parameters)
        name, parameters = self.config.schedule
        self.schedule = build_schedule(name, optimiser, self.config.steps, parameters)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": self.schedule, "interval": "step"}}

    def means(self) -> dict[str, float]:
        """Return the means of the loss and its parts over the epoch so far."""
        return {key: float(value) / max(1, self._batches) for key, value in self._sums.items()}

    def check(self) -> None:
        """Raise `Diverged` where the last loss of an epoch, or a weight, is not finite."""
        self._refuse(self._unseen)
        self._unseen = None
        for name, value in self.network.state_dict().items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise Diverged(
                    f"the weights {name} are no longer finite after epoch {self.current_epoch + 1}; {_ADVICE}"
                )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the running mean, the history and the identity of the config: plain values and tensors alone."""
        checkpoint[STATE] = {
            "ema": self.ema.state_dict() if self.ema is not None else {},
            "history": self.history,
            "best": self.best,
            "waited": self.waited,
            "config": self.config.identity,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from what `on_save_checkpoint` added."""
        state = checkpoint[STATE]
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.history = [dict(row) for row in state["history"]]
        self.best, self.waited = float(state["best"]), int(state["waited"])

    def kept(self) -> nn.Module:
        """Return a copy of the network with the weights that count (the running mean), on the CPU, for prediction."""
        import copy

        network = copy.deepcopy(self.network).to("cpu", memory_format=torch.contiguous_format)
        if self.ema is not None:
            network.load_state_dict({name: value.cpu() for name, value in self.ema.mean.items()})
        return network.float().eval()

    def _elsewhere(self) -> str:
        """Return the message where the batch of another process is the trouble, which that one writes."""
        path = self.folder / BATCH_FILE
        return (
            f"the loss of another process is not finite in epoch {self.current_epoch + 1}; its batch is in {path}; "
            f"{_ADVICE}"
        )

    def _tell(self, batch: Mapping[str, Any], loss: float) -> str:
        """Write the batch and return the message."""
        names: list[str] = list(batch["name"])
        path = self.folder / BATCH_FILE
        arrays = self.arrays(batch)
        np.savez_compressed(path, name=np.array(names), **arrays)
        bad = [name for name, one in zip(names, arrays["image"], strict=True) if not np.isfinite(one).all()]
        some = ", ".join(dict.fromkeys(bad or names[:_SHOWN]))
        cause = f"these images hold values that are not finite: {some}" if bad else f"images: {some}; {_ADVICE}"
        return f"the loss is {loss} in epoch {self.current_epoch + 1}; the batch is in {path}; {cause}"


_ADVICE = "a lower optimiser.rate, a warm-up, loop.clip or precision float32 may help; last.ckpt is good"
